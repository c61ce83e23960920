package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/mlkem"
	"crypto/sha512"
	"strings"
	"testing"

	"filippo.io/mldsa"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/pqc"
)

// public gives the primary version's post-quantum public key in bytes.
func (e *env) public(name string) []byte {
	e.t.Helper()
	v, err := e.Version(context.Background(), e.c, name, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	pub, err := keyenc.ParseSPKI(v.Public)
	if err != nil {
		e.t.Fatal(err)
	}
	return pub.(*pqc.PublicKey).Bytes()
}

// TestKEM: the standard library on the other side, and the forms that stand on a KEM.
func TestKEM(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("kem", backend.MLKEM768)
	target := keys.Target{Key: "kem"}
	peer, err := mlkem.NewEncapsulationKey768(e.public("kem"))
	if err != nil {
		t.Fatal(err)
	}
	shared, ct := peer.Encapsulate()
	got, err := e.Decapsulate(ctx, e.c, target, []keys.DecapsulateItem{{Ciphertext: ct}}, true)
	if err != nil || !bytes.Equal(got[0].Bytes, shared) {
		t.Fatalf("Decapsulate: %v", err)
	}
	made, err := e.Encapsulate(ctx, e.c, target, make([]keys.EncapsulateItem, 3), false)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range made {
		if m.Err != nil || len(m.Secret) != 32 {
			t.Fatalf("encapsulation %d: %v", i, m.Err)
		}
		back, err := e.Decapsulate(ctx, e.c, target, []keys.DecapsulateItem{{Ciphertext: m.Ciphertext}}, true)
		if err != nil || !bytes.Equal(back[0].Bytes, m.Secret) {
			t.Errorf("encapsulation %d comes back as another secret (%v)", i, err)
		}
	}
	if bytes.Equal(made[0].Secret, made[1].Secret) {
		t.Error("two encapsulations gave one secret")
	}
	// A changed ciphertext is another secret; one of another size does not open.
	ct[0] ^= 1
	if got, err = e.Decapsulate(ctx, e.c, target, []keys.DecapsulateItem{{Ciphertext: ct}}, true); err != nil || bytes.Equal(got[0].Bytes, shared) {
		t.Errorf("a changed ciphertext: %v", err)
	}
	_, err = e.Decapsulate(ctx, e.c, target, []keys.DecapsulateItem{{Ciphertext: ct[:100]}}, true)
	wantCode(t, err, fault.DecryptionFailed, "a short ciphertext")
	_, err = e.Decapsulate(ctx, e.c, target, []keys.DecapsulateItem{{Ciphertext: make([]byte, 5000)}}, true)
	wantCode(t, err, fault.BadSize, "a long ciphertext")
	e.create("aes", backend.AES256GCM)
	_, err = e.Encapsulate(ctx, e.c, keys.Target{Key: "aes"}, make([]keys.EncapsulateItem, 1), true)
	wantCode(t, err, fault.OperationNotAllowed, "an AES key does not encapsulate")
}

// TestKEMEnvelope: what is encrypted under a KEM key opens after rotation, binds its context, and fails in one way.
func TestKEMEnvelope(t *testing.T) {
	for _, alg := range []backend.Algorithm{backend.MLKEM768, backend.XWing, backend.DHKEMX25519, backend.DHKEMP256} {
		t.Run(string(alg), func(t *testing.T) {
			e := newEnv(t, nil)
			ctx := t.Context()
			k := e.create("kem", alg)
			in := keys.EncryptItem{Plaintext: []byte("plaintext"), AAD: []byte("aad"), Context: map[string]string{"a": "b"}}
			out, err := e.Encrypt(ctx, e.c, keys.Target{Key: "kem"}, keys.EncryptOpts{}, []keys.EncryptItem{in}, true)
			if err != nil {
				t.Fatal(err)
			}
			ct := out[0].Bytes
			parsed, err := envelope.Parse(ct)
			if err != nil || parsed.KeyID != k.ID || len(parsed.KEM) == 0 || len(parsed.Nonce) != 12 {
				t.Fatalf("envelope %+v: %v", parsed.Header, err)
			}
			if _, err := e.Rotate(ctx, e.c, "kem"); err != nil {
				t.Fatal(err)
			}
			open := func(ct []byte, aad string, context map[string]string) ([]byte, error) {
				r, err := e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: ct, AAD: []byte(aad), Context: context}}, true)
				if err != nil {
					return nil, err
				}
				return r[0].Bytes, nil
			}
			if pt, err := open(ct, "aad", in.Context); err != nil || string(pt) != "plaintext" {
				t.Errorf("Decrypt: %q, %v", pt, err)
			}
			re, err := e.Rewrap(ctx, e.c, keys.Target{}, []keys.CiphertextItem{{Ciphertext: ct, AAD: in.AAD, Context: in.Context}}, true)
			if err != nil || re[0].Used.Version != 2 {
				t.Fatalf("Rewrap: %v", err)
			}
			if pt, err := open(re[0].Bytes, "aad", in.Context); err != nil || string(pt) != "plaintext" {
				t.Errorf("after rewrap: %q, %v", pt, err)
			}
			_, err = open(ct, "other", in.Context)
			wantCode(t, err, fault.DecryptionFailed, "another aad")
			_, err = open(ct, "aad", nil)
			wantCode(t, err, fault.DecryptionFailed, "without the context")
			first := err.Error()
			if backendInfo(t, alg).PostQuantum { // a changed point of a curve is no point
				bad := bytes.Clone(ct)
				bad[40] ^= 1 // in the KEM ciphertext
				_, err = open(bad, "aad", in.Context)
				wantCode(t, err, fault.DecryptionFailed, "a changed KEM ciphertext")
				if err.Error() != first {
					t.Errorf("failures differ: %q and %q", err, first)
				}
			}
			material := make([]byte, 32)
			w, err := e.Wrap(ctx, e.c, keys.Target{Key: "kem"}, []keys.EncryptItem{{Plaintext: material}}, true)
			if err != nil {
				t.Fatal(err)
			}
			if u, err := e.Unwrap(ctx, e.c, keys.Target{Key: "kem"}, []keys.CiphertextItem{{Ciphertext: w[0].Bytes}}, true); err != nil || !bytes.Equal(u[0].Bytes, material) {
				t.Errorf("Unwrap: %v", err)
			}
			if _, err := e.DataKeys(ctx, e.c, keys.Target{Key: "kem"}, make([]keys.DataKeyRequest, 1), true); err != nil {
				t.Errorf("DataKeys: %v", err)
			}
		})
	}
}

func backendInfo(t *testing.T, a backend.Algorithm) backend.AlgorithmInfo {
	t.Helper()
	info, ok := backend.Lookup(a)
	if !ok {
		t.Fatalf("%s is not in the table", a)
	}
	return info
}

func TestHPKE(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	hpke := keys.EncryptOpts{Format: keys.FormatHPKE}
	for name, alg := range map[string]backend.Algorithm{"xwing": backend.XWing, "x25519": backend.DHKEMX25519, "p521": backend.DHKEMP521} {
		e.create(name, alg)
		target := keys.Target{Key: name}
		out, err := e.Encrypt(ctx, e.c, target, hpke, []keys.EncryptItem{{Plaintext: []byte("pt"), AAD: []byte("aad"), Label: []byte("info")}}, true)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		back, err := e.Decrypt(ctx, e.c, target, hpke, []keys.CiphertextItem{{Ciphertext: out[0].Bytes, AAD: []byte("aad"), Label: []byte("info")}}, true)
		if err != nil || string(back[0].Bytes) != "pt" {
			t.Errorf("%s: %v", alg, err)
		}
		_, err = e.Decrypt(ctx, e.c, target, hpke, []keys.CiphertextItem{{Ciphertext: out[0].Bytes, AAD: []byte("aad"), Label: []byte("other")}}, true)
		wantCode(t, err, fault.DecryptionFailed, "another info")
		_, err = e.Decrypt(ctx, e.c, target, hpke, []keys.CiphertextItem{{Ciphertext: []byte("short")}}, true)
		wantCode(t, err, fault.DecryptionFailed, "nothing")
		_, err = e.Encrypt(ctx, e.c, target, hpke, []keys.EncryptItem{{Plaintext: []byte("pt"), Context: map[string]string{"a": "b"}}}, true)
		wantCode(t, err, fault.BadField, "a context")
	}
	e.create("kem", backend.MLKEM768)
	_, err := e.Encrypt(ctx, e.c, keys.Target{Key: "kem"}, hpke, make([]keys.EncryptItem, 1), true)
	wantCode(t, err, fault.BadField, "HPKE of bare ML-KEM")
}

// TestMLDSA: filippo.io/mldsa verifies what the service signs, in each of the forms.
func TestMLDSA(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("sig", backend.MLDSA65)
	target := keys.Target{Key: "sig"}
	pub, err := mldsa.NewPublicKey(mldsa.MLDSA65(), e.public("sig"))
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	sign := func(o keys.SignOpts, in keys.SignItem) ([]byte, error) {
		r, err := e.Sign(ctx, e.c, target, o, []keys.SignItem{in}, true)
		if err != nil {
			return nil, err
		}
		return r[0].Bytes, nil
	}
	check := func(what string, o keys.SignOpts, in keys.VerifyItem, want bool) {
		t.Helper()
		r, err := e.Verify(ctx, e.c, target, o, []keys.VerifyItem{in}, true)
		if err != nil || r[0].Valid != want {
			t.Errorf("%s: %v, %v", what, r, err)
		}
	}
	for _, o := range []keys.SignOpts{{}, {Context: []byte("context")}, {Deterministic: true}} {
		sig, err := sign(o, keys.SignItem{Message: message})
		if err != nil {
			t.Fatal(err)
		}
		if err := mldsa.Verify(pub, message, sig, &mldsa.Options{Context: string(o.Context)}); err != nil {
			t.Errorf("the judge refuses %+v: %v", o, err)
		}
		again, err := sign(o, keys.SignItem{Message: message})
		if err != nil || bytes.Equal(sig, again) != o.Deterministic {
			t.Errorf("%+v: the same signature twice: %v (%v)", o, bytes.Equal(sig, again), err)
		}
		check("own", o, keys.VerifyItem{Message: message, Signature: sig}, true)
		check("another message", o, keys.VerifyItem{Message: []byte("other"), Signature: sig}, false)
		check("another context", keys.SignOpts{Context: []byte("x")}, keys.VerifyItem{Message: message, Signature: sig}, false)
	}
	digest := sha512.Sum512(message)
	hashed := keys.SignOpts{Hash: crypto.SHA512}
	sig, err := sign(hashed, keys.SignItem{Digest: digest[:]})
	if err != nil {
		t.Fatal(err)
	}
	check("the digest's signature for the message", hashed, keys.VerifyItem{Message: message, Signature: sig}, true)
	check("a pre-hash signature is no pure one", keys.SignOpts{}, keys.VerifyItem{Message: message, Signature: sig}, false)
	mu := make([]byte, 64)
	if sig, err = sign(keys.SignOpts{}, keys.SignItem{Mu: mu}); err != nil {
		t.Fatal(err)
	}
	check("mu", keys.SignOpts{}, keys.VerifyItem{Mu: mu, Signature: sig}, true)
	for what, c := range map[string]struct {
		o    keys.SignOpts
		in   keys.SignItem
		code fault.Code
	}{
		"a bare digest":       {keys.SignOpts{}, keys.SignItem{Digest: digest[:]}, fault.BadField},
		"mu and context":      {keys.SignOpts{Context: []byte("x")}, keys.SignItem{Mu: mu}, fault.BadField},
		"a short mu":          {keys.SignOpts{}, keys.SignItem{Mu: mu[:32]}, fault.BadSize},
		"mu and message":      {keys.SignOpts{}, keys.SignItem{Mu: mu, Message: message}, fault.MissingField},
		"a long context":      {keys.SignOpts{Context: []byte(strings.Repeat("x", 256))}, keys.SignItem{Message: message}, fault.BadSize},
		"SHA-1":               {keys.SignOpts{Hash: crypto.SHA1}, keys.SignItem{Message: message}, fault.BadField},
		"an encoding":         {keys.SignOpts{P1363: true}, keys.SignItem{Message: message}, fault.BadField},
		"a padding":           {keys.SignOpts{Padding: backend.PaddingPSS}, keys.SignItem{Message: message}, fault.BadField},
		"nothing":             {keys.SignOpts{}, keys.SignItem{}, fault.MissingField},
		"a digest of no size": {hashed, keys.SignItem{Digest: digest[:32]}, fault.BadSize},
	} {
		_, err := sign(c.o, c.in)
		wantCode(t, err, c.code, what)
	}
	e.create("ec", backend.ECDSAP256)
	_, err = e.Sign(ctx, e.c, keys.Target{Key: "ec"}, keys.SignOpts{Context: []byte("x")}, []keys.SignItem{{Message: message}}, true)
	wantCode(t, err, fault.BadField, "a context for ECDSA")
	_, err = e.Sign(ctx, e.c, keys.Target{Key: "ec"}, keys.SignOpts{}, []keys.SignItem{{Mu: mu}}, true)
	wantCode(t, err, fault.BadField, "mu for ECDSA")
}

// TestNewKeys: the settings bind what is made afterwards.
func TestNewKeys(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("old", backend.ECDSAP256)
	set := func(n keys.NewKeys) {
		t.Helper()
		if _, err := e.SetSettings(ctx, e.c, keys.Settings{NewKeys: n}); err != nil {
			t.Fatal(err)
		}
	}
	try := func(name string, alg backend.Algorithm, code fault.Code) {
		t.Helper()
		_, err := e.Create(ctx, e.c, keys.CreateRequest{Name: name, Algorithm: alg})
		wantCode(t, err, code, name)
	}
	set(keys.NewKeysPostQuantum)
	try("pq-ecdsa", backend.ECDSAP256, fault.PolicyDenied)
	try("pq-mldsa", backend.MLDSA44, "")
	try("pq-hybrid", backend.XWing, "")
	try("pq-aes", backend.AES256GCM, "")
	set(keys.NewKeysHybrid)
	try("hybrid-mldsa", backend.MLDSA44, fault.PolicyDenied)
	try("hybrid-composite", backend.MLDSA65Ed25519, "")
	try("hybrid-aes", backend.AES256GCM, "")
	if _, err := e.Rotate(ctx, e.c, "old"); err != nil {
		t.Errorf("an existing key must rotate: %v", err)
	}
	e.reopen()
	if s, err := e.Settings(ctx, e.c); err != nil || s.NewKeys != keys.NewKeysHybrid {
		t.Errorf("settings after a restart: %+v, %v", s, err)
	}
	set(keys.NewKeysAny)
	try("any", backend.ECDSAP256, "")
	_, err := e.SetSettings(ctx, e.c, keys.Settings{NewKeys: "some"})
	wantCode(t, err, fault.BadField, "an unknown setting")
	if last := e.lastEntry(); last.Action != "settings.keys.set" || last.Resource != "settings:keys" {
		t.Errorf("the log says %+v", last)
	}
}
