package keys_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
)

// wrapFor wraps material as a caller does who imports it.
func wrapFor(t testing.TB, p *keys.ImportParameters, material []byte) []byte {
	t.Helper()
	pub, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	w, err := keyenc.WrapRSAAES(rand.Reader, pub.(*rsa.PublicKey), p.Hash, material)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestImport(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, options)
			ctx := t.Context()
			p, err := e.ImportParameters(ctx, e.c, "")
			if err != nil {
				t.Fatal(err)
			}
			if again, err := e.ImportParameters(ctx, e.c, ""); err != nil || again.Token != p.Token {
				t.Errorf("the wrapping key is not kept: %v", err)
			}
			priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(priv)
			if err != nil {
				t.Fatal(err)
			}
			request := keys.ImportRequest{Create: keys.CreateRequest{Name: "ec", Algorithm: backend.ECDSAP256}, Token: p.Token, Wrapped: wrapFor(t, p, der)}
			k, err := e.Import(ctx, e.c, request)
			if err != nil {
				t.Fatal(err)
			}
			if k.Origin != keys.OriginImported || k.State != keys.StateActive || k.PrimaryVersion != 1 {
				t.Errorf("imported as %+v", k)
			}
			digest := sha256.Sum256([]byte("message"))
			sigs, err := e.Sign(ctx, e.c, keys.Target{Key: "ec"}, keys.SignOpts{}, []keys.SignItem{{Message: []byte("message")}, {Digest: digest[:]}}, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sigs {
				if s.Err != nil || !ecdsa.VerifyASN1(&priv.PublicKey, digest[:], s.Bytes) {
					t.Errorf("a signature of the imported key is not one of it: %v", s.Err)
				}
			}
			_, err = e.Rotate(ctx, e.c, "ec")
			wantCode(t, err, fault.OperationNotAllowed, "rotating an imported key")
			// A new version of it.
			request.Key, request.Create = "ec", keys.CreateRequest{}
			if k, err = e.Import(ctx, e.c, request); err != nil || k.PrimaryVersion != 2 {
				t.Errorf("a second version: %+v %v", k, err)
			}
			// A key that waits for its material.
			waiting := e.create("waiting", backend.AES256GCM, func(r *keys.CreateRequest) { r.Origin = keys.OriginImported })
			if waiting.State != keys.StatePendingImport || waiting.PrimaryVersion != 0 {
				t.Errorf("waiting: %+v", waiting)
			}
			_, err = e.encrypt(keys.Target{Key: "waiting"}, "x")
			wantCode(t, err, fault.BadState, "encrypting without material")
			request = keys.ImportRequest{Key: "waiting", Token: p.Token, Wrapped: wrapFor(t, p, make([]byte, 31))}
			_, err = e.Import(ctx, e.c, request)
			wantCode(t, err, fault.BadImport, "material of another size")
			request.Wrapped = wrapFor(t, p, make([]byte, 32))
			if k, err = e.Import(ctx, e.c, request); err != nil || k.State != keys.StateActive {
				t.Fatalf("filling: %+v %v", k, err)
			}
			r, err := e.encrypt(keys.Target{Key: "waiting"}, "x")
			if err != nil {
				t.Fatal(err)
			}
			e.reopen()
			if got, err := e.decrypt(keys.Target{}, r.Bytes); err != nil || string(got.Bytes) != "x" {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

func TestImportTokens(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	p, err := e.ImportParameters(ctx, e.c, "soft")
	if err != nil {
		t.Fatal(err)
	}
	blob := wrapFor(t, p, make([]byte, 32))
	try := func(c keys.Caller, token string, wrapped []byte) error {
		_, err := e.Import(ctx, c, keys.ImportRequest{Create: keys.CreateRequest{Name: "k" + uuid.NewString()[:8], Algorithm: backend.AES256GCM}, Token: token, Wrapped: wrapped})
		return err
	}
	wantCode(t, try(e.c, p.Token, blob), "", "the right token")
	wantCode(t, try(caller(uuid.New()), p.Token, blob), fault.BadField, "the token of another tenant")
	wantCode(t, try(e.c, p.Token[:len(p.Token)-1]+"!", blob), fault.BadField, "a malformed token")
	wantCode(t, try(e.c, p.Token, blob[:len(blob)-1]), fault.BadImport, "a cut blob")
	// Another key than a wrapping key cannot be used as one.
	own := e.create("rsa", backend.RSA3072, func(r *keys.CreateRequest) { r.Purpose = backend.PurposeEncryption })
	_, err = e.Decrypt(ctx, e.c, keys.Target{Key: own.ID.String()}, keys.EncryptOpts{Format: keys.FormatRaw}, []keys.CiphertextItem{{Ciphertext: blob[:384]}}, true)
	wantCode(t, err, fault.DecryptionFailed, "the wrapped part with another key")
	// The wrapping key is nobody's to see or use.
	raw := e.lastInternal("~import/" + e.soft.Info().ID)
	_, err = e.Get(ctx, e.c, raw.ID.String())
	wantCode(t, err, fault.KeyNotFound, "an internal key by id")
	_, err = e.Get(ctx, e.c, raw.Name)
	wantCode(t, err, fault.KeyNotFound, "an internal key by name")
	_, err = e.Rotate(ctx, e.c, raw.ID.String())
	wantCode(t, err, fault.KeyNotFound, "rotating an internal key")
	_, err = e.Decrypt(ctx, e.c, keys.Target{Key: raw.ID.String()}, keys.EncryptOpts{Format: keys.FormatRaw}, []keys.CiphertextItem{{Ciphertext: blob[:384]}}, true)
	wantCode(t, err, fault.KeyNotFound, "decrypting with an internal key")
	// It is renewed, and its tokens expire.
	e.clock.advance(23 * time.Hour)
	wantCode(t, try(e.c, p.Token, blob), "", "before the token expires")
	e.clock.advance(time.Hour)
	wantCode(t, try(e.c, p.Token, blob), fault.BadField, "an expired token")
	renewed, err := e.ImportParameters(ctx, e.c, "")
	if err != nil || string(renewed.PublicKey) == string(p.PublicKey) {
		t.Errorf("the wrapping key was not renewed: %v", err)
	}
	wantCode(t, try(e.c, renewed.Token, wrapFor(t, renewed, make([]byte, 32))), "", "the new token")
	// A wrapping key that no token can name any more ends.
	e.clock.advance(24 * time.Hour)
	if _, err := e.ImportParameters(ctx, e.c, ""); err != nil {
		t.Fatal(err)
	}
	versions, err := e.store.Versions(ctx, raw.ID, 1, 10)
	if err != nil || len(versions) != 3 || versions[0].State != keys.StateDestroyed || versions[0].Blob != nil || versions[1].State != keys.StateDeactivated || versions[2].State != keys.StateActive {
		t.Errorf("%d wrapping keys: %v", len(versions), err)
	}
}

func (e *env) lastInternal(name string) *keys.Key {
	e.t.Helper()
	k, err := e.store.KeyByName(e.t.Context(), e.tenant, name)
	if err != nil {
		e.t.Fatal(err)
	}
	return k
}

// TestExport takes a key out, opens the wrapping with the standard library and openssl, and brings it in again.
func TestExport(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	exportable := func(r *keys.CreateRequest) { r.Policy.Exportable = true }
	e.create("aes", backend.AES256GCM, exportable)
	e.create("ed", backend.Ed25519, exportable)
	e.create("closed", backend.AES256GCM)
	priv, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&priv.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	unwrap := func(blob []byte, h crypto.Hash) []byte {
		t.Helper()
		kek, err := rsa.DecryptOAEP(h.New(), nil, priv, blob[:384], nil)
		if err != nil {
			t.Fatal(err)
		}
		return opensslKWP(t, kek, blob[384:])
	}
	for _, h := range []crypto.Hash{0, crypto.SHA1, crypto.SHA384} {
		blob, used, err := e.Export(ctx, e.c, keys.ExportRequest{Key: "aes", Public: spki, Hash: h})
		if err != nil {
			t.Fatal(err)
		}
		if h == 0 {
			h = crypto.SHA256
		}
		material := unwrap(blob, h)
		if len(material) != 32 || used.Version != 1 {
			t.Errorf("exported %d bytes of version %d", len(material), used.Version)
		}
		p, err := e.ImportParameters(ctx, e.c, "")
		if err != nil {
			t.Fatal(err)
		}
		back := "back" + h.String()[:3] + h.String()[4:]
		if _, err := e.Import(ctx, e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: back, Algorithm: backend.AES256GCM}, Token: p.Token, Wrapped: wrapFor(t, p, material)}); err != nil {
			t.Fatal(err)
		}
	}
	blob, _, err := e.Export(ctx, e.c, keys.ExportRequest{Key: "ed", Public: spki})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParsePKCS8PrivateKey(unwrap(blob, crypto.SHA256)); err != nil {
		t.Errorf("the exported Ed25519 key is not PKCS#8: %v", err)
	}
	e.create("kek", backend.RSA2048, func(r *keys.CreateRequest) { r.Purpose = backend.PurposeEncryption })
	e.create("signer", backend.RSA2048)
	if _, _, err := e.Export(ctx, e.c, keys.ExportRequest{Key: "aes", To: "kek"}); err != nil {
		t.Errorf("to a key of the tenant: %v", err)
	}
	weak, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: priv.N, E: 3})
	if err != nil {
		t.Fatal(err)
	}
	refusals := map[string]struct {
		r    keys.ExportRequest
		code fault.Code
	}{
		"not exportable":    {keys.ExportRequest{Key: "closed", Public: spki}, fault.NotExportable},
		"to a signing key":  {keys.ExportRequest{Key: "aes", To: "signer"}, fault.BadAlgorithm},
		"to an AES key":     {keys.ExportRequest{Key: "aes", To: "closed"}, fault.BadAlgorithm},
		"to nobody":         {keys.ExportRequest{Key: "aes"}, fault.MissingField},
		"to two":            {keys.ExportRequest{Key: "aes", To: "kek", Public: spki}, fault.MissingField},
		"to a weak key":     {keys.ExportRequest{Key: "aes", Public: weak}, fault.BadAlgorithm},
		"to garbage":        {keys.ExportRequest{Key: "aes", Public: []byte("x")}, fault.BadEncoding},
		"a version too far": {keys.ExportRequest{Key: "aes", Version: 9, Public: spki}, fault.VersionNotFound},
		"with MD5":          {keys.ExportRequest{Key: "aes", Public: spki, Hash: crypto.MD5}, fault.BadField},
	}
	for what, r := range refusals {
		_, _, err := e.Export(ctx, e.c, r.r)
		wantCode(t, err, r.code, what)
	}
	// What is taken away is gone: for versions to come, and for those that are there.
	if _, err := e.Update(ctx, e.c, "aes", keys.UpdateRequest{Policy: &keys.Policy{}}); err != nil {
		t.Fatal(err)
	}
	_, _, err = e.Export(ctx, e.c, keys.ExportRequest{Key: "aes", Public: spki})
	wantCode(t, err, fault.NotExportable, "after it was taken away")
	_, err = e.Update(ctx, e.c, "aes", keys.UpdateRequest{Policy: &keys.Policy{Exportable: true}})
	wantCode(t, err, fault.BadField, "giving it back")
}

// opensslKWP opens RFC 5649 output by the openssl program.
func opensslKWP(t *testing.T, kek, wrapped []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, wrapped, 0o600); err != nil {
		t.Fatal(err)
	}
	const hex = "0123456789abcdef"
	key := ""
	for _, b := range kek {
		key += string(hex[b>>4]) + string(hex[b&15])
	}
	cmd := exec.CommandContext(t.Context(), "openssl", "enc", "-d", "-id-aes256-wrap-pad", "-K", key, "-iv", "a65959a6", "-in", in, "-out", out)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPublicOnly(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&priv.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string, alg backend.Algorithm, p backend.Purpose) error {
		_, err := e.Import(ctx, e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: name, Algorithm: alg, Purpose: p}, Public: spki})
		return err
	}
	wantCode(t, in("enc", backend.RSA2048, backend.PurposeEncryption), "", "an encryption key")
	wantCode(t, in("sig", backend.RSA2048, ""), "", "a verification key")
	wantCode(t, in("no", backend.RSA3072, ""), fault.BadImport, "another size")
	wantCode(t, in("no", backend.ECDSAP256, ""), fault.BadImport, "another algorithm")
	e.reopen()
	r, err := e.encrypt(keys.Target{Key: "enc"}, "to the other side")
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.decrypt(keys.Target{}, r.Bytes)
	wantCode(t, err, fault.OperationNotAllowed, "decrypting without a private part")
	raw, err := e.Encrypt(ctx, e.c, keys.Target{Key: "enc"}, keys.EncryptOpts{Format: keys.FormatRaw, Hash: crypto.SHA512}, []keys.EncryptItem{{Plaintext: []byte("raw"), Label: []byte("l")}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if pt, err := rsa.DecryptOAEP(crypto.SHA512.New(), nil, priv, raw[0].Bytes, []byte("l")); err != nil || string(pt) != "raw" {
		t.Errorf("the standard library does not open a raw ciphertext: %v", err)
	}
	digest := sha256.Sum256([]byte("m"))
	sig, err := rsa.SignPSS(rand.Reader, priv, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.Verify(ctx, e.c, keys.Target{Key: "sig"}, keys.SignOpts{}, []keys.VerifyItem{{Message: []byte("m"), Signature: sig}, {Message: []byte("n"), Signature: sig}}, false)
	if err != nil || !v[0].Valid || v[1].Valid || v[1].Err != nil {
		t.Errorf("verifying: %+v %v", v, err)
	}
	_, err = e.Sign(ctx, e.c, keys.Target{Key: "sig"}, keys.SignOpts{}, []keys.SignItem{{Message: []byte("m")}}, true)
	wantCode(t, err, fault.OperationNotAllowed, "signing without a private part")
	if _, err := e.Delete(ctx, e.c, "sig", 0); err != nil {
		t.Fatal(err)
	}
	e.clock.advance(keys.MaxWaiting)
	if err := e.Maintain(ctx); err != nil {
		t.Errorf("the end of a key without a backend: %v", err)
	}
}
