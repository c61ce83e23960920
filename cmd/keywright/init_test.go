package main

import (
	"cmp"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestInitIsAll prepares a token, and then has a service make and use wrapped and sealed keys on it: nothing more comes onto the token.
func TestInitIsAll(t *testing.T) {
	part := rig.SoftHSM(t)
	part.Setenv(t)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() // nothing was kept in it
	if err := (hsmInitCmd{hsmToken{URI: part.URI}}).Run(t.Context(), &app{globals: &globals{}, ctx: t.Context(), stdout: null, stderr: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	files := func() (out []string) {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(part.Dir, "tokens", "*", "*.object"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			out = append(out, filepath.Base(f))
		}
		return out
	}
	prepared := files()
	if len(prepared) < 4 { // the binding and sealing keys, the wrapping key and its companion
		t.Fatalf("init has made %d objects", len(prepared))
	}
	c := config{Data: t.TempDir(), Backends: []backendConfig{{Name: "hsm", URI: part.URI, PKCS11: pkcs11Config{InProcess: true, Placement: "wrapped", AllowSealed: true}}}}
	if err := c.complete(true); err != nil {
		t.Fatal(err)
	}
	c.Root.KeyFile = filepath.Join(c.Data, "root.key")
	n, err := openNode(t.Context(), c, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	who := keys.Caller{Principal: &auth.Principal{ID: "test", Tenant: n.tenant(), Name: "test", Scopes: auth.Scopes()}, RequestID: "test"}
	for name, a := range map[string]backend.Algorithm{"wrapped": backend.AES256GCM, "sealed": backend.ChaCha20Poly1305} {
		if _, err := n.keys.Create(t.Context(), who, keys.CreateRequest{Name: name, Algorithm: a, Purpose: backend.PurposeEncryption}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := n.keys.Encrypt(t.Context(), who, keys.Target{Key: name}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("text")}}, true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := n.close(); err != nil {
		t.Error(err)
	}
	if diff := gocmp.Diff(prepared, files()); diff != "" {
		t.Errorf("the service has changed what is on the token: %s", diff)
	}
	tok, err := token.Open(t.Context(), token.Config{Module: part.Module, Serial: part.Serial, PIN: secret.Bytes(part.PIN(t))}, token.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close() // read only
	list, err := tok.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b token.Object) int { return cmp.Compare(a.Algorithm, b.Algorithm) })
	if len(list) != 2 || list[0].Algorithm != backend.AES256GCM || list[1].Algorithm != backend.HMACSHA256 {
		t.Errorf("keys on the token: %+v", list)
	}
}
