package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

// wire is a backend on a TPM whose wires are read, and what must never have been on them.
type wire struct {
	t        *testing.T
	b        *Backend
	canaries map[string][]byte
}

func (w *wire) never(what string, b []byte) {
	w.t.Helper()
	if len(b) < 16 {
		w.t.Fatalf("%s: %d bytes are no canary", what, len(b))
	}
	w.canaries[what] = bytes.Clone(b)
}

func (w *wire) spec(a backend.Algorithm, p backend.Purpose) backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: a, Purpose: p}
}

// key imports known material, or generates without, and marks auth value and material.
func (w *wire) key(a backend.Algorithm, p backend.Purpose, material []byte) backend.Key {
	w.t.Helper()
	ref, err := w.b.Generate(w.t.Context(), w.spec(a, p))
	if material != nil {
		ref, err = w.b.Import(w.t.Context(), w.spec(a, p), material)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	info, _ := backend.Lookup(a)
	auth, err := w.b.auth(&ref.Spec, info.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.never("the auth value of the key "+ref.Spec.KeyID.String()+" of "+string(a), auth)
	k, err := w.b.Load(w.t.Context(), ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func pkcs8(t testing.TB, k crypto.PrivateKey) []byte {
	t.Helper()
	der, err := keyenc.MarshalPKCS8(k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// TestWire reads everything that passes between this process and the TPM while keys are made, brought along and used, and texts sealed and opened. No
// key material, auth value, sealed secret or result that is secret is among it.
func TestWire(t *testing.T) {
	m := rig.SWTPM(t)
	proxy := m.Proxy(t)
	u, err := device.ParseURI(proxy.URI)
	if err != nil {
		t.Fatal(err)
	}
	d, err := device.Open(t.Context(), device.Options{URI: u})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), Options{Name: "wire", Device: d, AllowSealed: true, Derive: func(string) (secret.Bytes, error) { return bytes.Repeat([]byte{3}, 32), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := &wire{t: t, b: b, canaries: map[string][]byte{}}
	proxy.Record() // after the tests with known keys, which are known to everybody
	ctx := t.Context()
	seen := w.operate(ctx)
	w.seal(ctx)

	var all []byte
	for _, e := range proxy.Wire() {
		all = append(append(all, e.Command...), e.Response...)
	}
	if !bytes.Contains(all, seen) {
		t.Fatal("a digest that goes over the wire in clear is not found there: the record is not what passed")
	}
	for what, c := range w.canaries {
		for i := 0; i+16 <= len(c); i += 8 { // a stretch of it is as bad
			if bytes.Contains(all, c[i:i+16]) {
				t.Errorf("%s was on the wire in clear", what)
				break
			}
		}
	}
	if len(w.canaries) < 25 || len(all) < 10_000 {
		t.Errorf("only %d canaries in %d bytes", len(w.canaries), len(all))
	}
}

// operate uses a key of every kind. It gives something that is known to pass in clear.
func (w *wire) operate(ctx context.Context) (clear []byte) {
	t := w.t
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	w.never("the scalar of an imported ECDSA key", scalar)
	digest := sha256.Sum256(bytesOf(8))
	for _, material := range [][]byte{nil, pkcs8(t, ec)} {
		if _, err := w.key(backend.ECDSAP256, backend.PurposeSigning, material).(backend.Signer).Sign(ctx, digest[:], backend.SignOpts{Hash: crypto.SHA256}); err != nil {
			t.Fatal(err)
		}
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	peerDER, err := keyenc.MarshalSPKI(peer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	for i, material := range [][]byte{nil, pkcs8(t, ec)} {
		z, err := w.key(backend.ECDHP256, backend.PurposeAgreement, material).(backend.Agreer).Agree(ctx, peerDER)
		if err != nil {
			t.Fatal(err)
		}
		w.never(fmt.Sprintf("shared secret %d", i), z)
	}
	key := bytesOf(32)
	w.never("an imported HMAC key", key)
	for _, n := range []int{64, 3000} {
		message := bytesOf(n)
		w.never(fmt.Sprintf("a message of %d bytes to authenticate", n), message)
		tag, err := w.key(backend.HMACSHA256, backend.PurposeMAC, key).(backend.MACer).MAC(ctx, message)
		if err != nil {
			t.Fatal(err)
		}
		w.never(fmt.Sprintf("the tag of a message of %d bytes", n), tag)
	}
	w.rsa(ctx)
	keys, plain := bytesOf(64), bytesOf(3000)
	w.never("an imported cipher key and its MAC key", keys)
	w.never("a plaintext", plain)
	aead := w.key(backend.AES256CTRHMACSHA256, backend.PurposeEncryption, keys).(backend.AEAD)
	ct, err := aead.Seal(ctx, nil, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := aead.Open(ctx, nil, ct, nil); err != nil || !bytes.Equal(got, plain) {
		t.Fatal(err)
	}
	r := bytesOf(48)
	if err := w.b.Random(ctx, r); err != nil {
		t.Fatal(err)
	}
	w.never("random bytes", r)
	return digest[:]
}

func (w *wire) rsa(ctx context.Context) {
	t := w.t
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range k.Primes {
		w.never([]string{"a prime of an imported RSA key", "the other prime of an imported RSA key"}[i], p.Bytes())
	}
	w.never("the exponent of an imported RSA key", k.D.Bytes())
	w.key(backend.RSA2048, backend.PurposeSigning, pkcs8(t, k))
	plain := bytesOf(100)
	ct, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.PublicKey, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.key(backend.RSA2048, backend.PurposeEncryption, pkcs8(t, k)).(backend.Decrypter).Decrypt(ctx, ct, backend.OAEPOpts{Hash: crypto.SHA256})
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatal(err)
	}
	w.never("what OAEP hides", got)
	// What the TPM gives is the encoding with its masks: whoever has it has the plaintext.
	w.never("an OAEP encoding", new(big.Int).Exp(new(big.Int).SetBytes(ct), k.D, k.N).Bytes())
}

// seal seals and opens, as a caller and as the engine of sealed custody does.
func (w *wire) seal(ctx context.Context) {
	t := w.t
	plaintext := bytesOf(64)
	w.never("a sealed text", plaintext)
	sealed, err := w.b.Seal(ctx, plaintext, []byte("binding"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.b.Open(ctx, sealed, []byte("binding"))
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Fatal(err)
	}
	w.never("the key of a sealed text", w.dek(sealed, nil))
	material := bytesOf(32)
	w.never("a key in sealed custody", material)
	s := w.spec(backend.AES256GCM, backend.PurposeEncryption)
	ref, err := w.b.Import(ctx, s, material)
	if err != nil {
		t.Fatal(err)
	}
	k, err := w.b.Load(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	binding := bytesOf(8)
	sealed, err = engineSealer{w.b}.Seal(ctx, plaintext, binding)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := engineSealer{w.b}.auth(binding)
	if err != nil {
		t.Fatal(err)
	}
	w.never("the auth value of a text in sealed custody", auth)
	w.never("the key of a text in sealed custody", w.dek(sealed, auth))
}

// dek asks the TPM for the key of a text.
func (w *wire) dek(sealed []byte, auth secret.Bytes) (out []byte) {
	w.t.Helper()
	p, ok := parseSealed(sealed)
	if !ok {
		w.t.Fatal("a sealed text does not parse")
	}
	err := w.b.dev.Do(w.t.Context(), "test", func(tx *device.Tx) error {
		key, err := load(tx, p.object)
		if err != nil {
			return err
		}
		rsp, err := tpm2.Unseal{ItemHandle: tx.Auth(key, auth, device.Out)}.Execute(tx)
		if err != nil {
			return err
		}
		out = rsp.OutData.Buffer
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}
