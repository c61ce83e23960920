package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestTokenMissingAtStart starts the service while its only token is gone: it answers 503 for the token's keys and everything else as always, and
// heals when the token comes.
func TestTokenMissingAtStart(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	data := t.TempDir()
	start := func() *node {
		t.Helper()
		c := config{Data: data, Backends: []backendConfig{{Name: "hsm", URI: f.URI, PKCS11: pkcs11Config{InProcess: true}}}}
		if err := c.complete(true); err != nil {
			t.Fatal(err)
		}
		c.Root.KeyFile = filepath.Join(data, "root.key")
		n, err := openNode(t.Context(), c, true, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	stop := func(n *node) {
		t.Helper()
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}
	n := start()
	who := keys.Caller{Principal: &auth.Principal{ID: "test", Tenant: n.tenant(), Name: "test", Scopes: auth.Scopes()}, RequestID: "test"}
	_, err := n.keys.Create(t.Context(), who, keys.CreateRequest{Name: "signer", Algorithm: backend.ECDSAP256, Purpose: backend.PurposeSigning})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(n *node) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := n.keys.Sign(ctx, who, keys.Target{Key: "signer"}, keys.SignOpts{}, []keys.SignItem{{Message: []byte("text")}}, true)
		return err
	}
	if err := sign(n); err != nil {
		t.Fatal(err)
	}
	stop(n)

	f.TokenGone(t, "as=empty")
	n = start()
	defer func() { stop(n) }()
	if err := sign(n); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a key of a token that is missing: %v", err)
	}
	if _, err := n.keys.Create(t.Context(), who, keys.CreateRequest{Name: "other", Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption}); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a new key on a token that is missing: %v", err)
	}
	if _, err := n.keys.Create(t.Context(), who, keys.CreateRequest{Name: "soft", Backend: "software", Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption}); err != nil {
		t.Errorf("a key of another backend: %v", err)
	}
	status, err := n.keys.Backend(t.Context(), "hsm")
	if err != nil || status.Healthy || len(status.Members) != 1 || status.Members[0].State != "missing" || status.Members[0].Reason == "" {
		t.Errorf("the backend is shown as %+v, %v", status, err)
	}
	answer := httptest.NewRecorder()
	n.server.MetricsHandler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if !strings.Contains(answer.Body.String(), `keywright_hsm_member_state{backend="hsm",member="0",state="missing"} 1`) {
		t.Error("the metrics do not show the missing token")
	}
	f.TokenBack(t)
	for deadline := time.Now().Add(20 * time.Second); sign(n) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the service did not heal")
		}
	}
}

func TestMemory(t *testing.T) {
	m := memory{path: filepath.Join(t.TempDir(), memoryFile), backend: "hsm", tokens: []string{"pkcs11:token=a"}}
	if k, err := m.known(); k != nil || err != nil {
		t.Errorf("at the first start: %v, %v", k, err)
	}
	want := hsm.Known{Identity: "hsm-1", Info: backend.Info{Kind: "hsm", Name: "hsm", ID: "hsm-1", Custody: []backend.Custody{backend.CustodyDevice},
		Capabilities: []backend.Capability{{Algorithm: backend.Ed25519, Custody: backend.CustodyDevice, Operations: []backend.Operation{backend.OpSign}}}, Quirks: []string{"one"}}}
	var lock remembering
	other := memory{path: m.path, backend: "other", tokens: m.tokens}
	for _, one := range []memory{m, other, m} {
		if err := one.keep(&lock, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := m.known()
	if err != nil || got == nil {
		t.Fatalf("what was kept: %v, %v", got, err)
	}
	if diff := cmp.Diff(want, *got); diff != "" {
		t.Error(diff)
	}
	m.tokens = []string{"pkcs11:token=b"}
	if k, err := m.known(); k != nil || err != nil {
		t.Errorf("of other tokens: %v, %v", k, err)
	}
	if err := os.WriteFile(m.path, []byte(`{"hsm":{"tokens":[],"known":{"identity":"x","info":{}}},"more":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.known(); err == nil {
		t.Error("a file that is not ours is taken")
	}
}
