package pqc

import (
	"bytes"
	"crypto/ecdh"
	stdhpke "crypto/hpke"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/fault"
)

var hpkeKEMs = []string{XWing, DHKEMP256, DHKEMP384, DHKEMP521, DHKEMX25519, DHKEMX448}

func newHPKE(t testing.TB, name string, aead HPKEAEAD) *HPKE {
	t.Helper()
	h, err := NewHPKE(lookup(t, name), aead)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestHPKEVectors opens what RFC 9180 sealed.
func TestHPKEVectors(t *testing.T) {
	n := 0
	for name, vectors := range rfc9180All(t) {
		for _, v := range vectors {
			if v.AEAD != int(HPKEAES256GCM) && v.AEAD != int(HPKEChaCha20Poly1305) {
				continue
			}
			h := newHPKE(t, name, HPKEAEAD(v.AEAD))
			if kem, kdf, aead := h.IDs(); int(kem) != v.KEM || int(kdf) != v.KDF || int(aead) != v.AEAD {
				t.Errorf("%s: numbers %x %x %x", name, kem, kdf, aead)
			}
			k, err := lookup(t, name).NewPrivateKey(v.SkRm)
			if err != nil {
				t.Fatal(err)
			}
			n++
			pt, err := h.Open(k, v.Enc, v.Info, v.Sealed[0].AAD, v.Sealed[0].CT)
			if err != nil || !bytes.Equal(pt, v.Sealed[0].PT) {
				t.Errorf("%s %d: %v", name, v.AEAD, err)
			}
		}
	}
	if n != 8 {
		t.Errorf("%d vectors", n)
	}
}

// stdKey is the key as the standard library's HPKE has it, nil for X448.
func stdKey(t *testing.T, k *PrivateKey) stdhpke.PrivateKey {
	t.Helper()
	if k.Algorithm().Name() == XWing {
		p, err := stdhpke.MLKEM768X25519().NewPrivateKey(k.Seed())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	curves := map[string]ecdh.Curve{DHKEMP256: ecdh.P256(), DHKEMP384: ecdh.P384(), DHKEMP521: ecdh.P521(), DHKEMX25519: ecdh.X25519()}
	c := curves[k.Algorithm().Name()]
	if c == nil {
		return nil
	}
	p, err := stdhpke.DHKEM(c).NewPrivateKey(k.Seed())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestHPKEJudges: the standard library opens what we seal, and the other way round.
func TestHPKEJudges(t *testing.T) {
	judged := 0
	info, aad, pt := []byte("info"), []byte("aad"), []byte("plaintext")
	for _, name := range hpkeKEMs {
		for _, aead := range []HPKEAEAD{HPKEAES256GCM, HPKEChaCha20Poly1305} {
			h := newHPKE(t, name, aead)
			k := newKey(t, name)
			enc, ct, err := h.Seal(k.PublicKey(), info, aad, pt)
			if err != nil {
				t.Fatal(err)
			}
			if len(enc) != k.Algorithm().Info().CiphertextSize || len(ct) != len(pt)+HPKEOverhead {
				t.Errorf("%s: sizes %d, %d", name, len(enc), len(ct))
			}
			if got, err := h.Open(k, enc, info, aad, ct); err != nil || !bytes.Equal(got, pt) {
				t.Errorf("%s: %v", name, err)
			}
			std := stdKey(t, k)
			if std == nil {
				continue
			}
			judged++
			if diff := cmp.Diff(std.PublicKey().Bytes(), k.PublicKey().Bytes()); diff != "" {
				t.Errorf("%s: the public keys differ: %s", name, diff)
			}
			stdAEAD, err := stdhpke.NewAEAD(uint16(aead))
			if err != nil {
				t.Fatal(err)
			}
			r, err := stdhpke.NewRecipient(enc, std, stdhpke.HKDFSHA256(), stdAEAD, info)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := r.Open(aad, ct); err != nil || !bytes.Equal(got, pt) {
				t.Errorf("%s: the judge does not open: %v", name, err)
			}
			enc, s, err := stdhpke.NewSender(std.PublicKey(), stdhpke.HKDFSHA256(), stdAEAD, info)
			if err != nil {
				t.Fatal(err)
			}
			ct, err = s.Seal(aad, pt)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := h.Open(k, enc, info, aad, ct); err != nil || !bytes.Equal(got, pt) {
				t.Errorf("%s: the judge's does not open: %v", name, err)
			}
			// And by the shared secret alone.
			ss, err := k.Decapsulate(enc)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := h.OpenShared(ss, info, aad, ct); err != nil || !bytes.Equal(got, pt) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if judged != 10 {
		t.Errorf("%d judged", judged)
	}
}

func TestHPKERefuses(t *testing.T) {
	for _, name := range hpkeKEMs {
		h := newHPKE(t, name, HPKEAES256GCM)
		k := newKey(t, name)
		info, aad := []byte("info"), []byte("aad")
		enc, ct, err := h.Seal(k.PublicKey(), info, aad, nil)
		if err != nil {
			t.Fatal(err)
		}
		flip := func(b []byte, at int) []byte { c := bytes.Clone(b); c[at] ^= 1; return c }
		for what, open := range map[string]func() error{
			"enc":        func() error { _, err := h.Open(k, flip(enc, len(enc)-1), info, aad, ct); return err },
			"enc short":  func() error { _, err := h.Open(k, enc[1:], info, aad, ct); return err },
			"enc empty":  func() error { _, err := h.Open(k, nil, info, aad, ct); return err },
			"ciphertext": func() error { _, err := h.Open(k, enc, info, aad, flip(ct, 0)); return err },
			"ct short":   func() error { _, err := h.Open(k, enc, info, aad, ct[1:]); return err },
			"ct empty":   func() error { _, err := h.Open(k, enc, info, aad, nil); return err },
			"info":       func() error { _, err := h.Open(k, enc, aad, aad, ct); return err },
			"aad":        func() error { _, err := h.Open(k, enc, info, info, ct); return err },
			"key":        func() error { _, err := h.Open(newKey(t, name), enc, info, aad, ct); return err },
			"secret":     func() error { _, err := h.OpenShared(make([]byte, 31), info, aad, ct); return err },
			"AEAD": func() error {
				_, err := newHPKE(t, name, HPKEChaCha20Poly1305).Open(k, enc, info, aad, ct)
				return err
			},
		} {
			// They look alike to the last letter.
			if err := open(); err == nil || err.Error() != errCiphertext.Error() {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
	x := newHPKE(t, XWing, HPKEAES256GCM)
	other := newKey(t, DHKEMP256)
	if _, _, err := x.Seal(other.PublicKey(), nil, nil, nil); !fault.Has(err, fault.KeyMaterial) {
		t.Error(err)
	}
	if _, err := x.Open(other, nil, nil, nil, nil); !fault.Has(err, fault.KeyMaterial) {
		t.Error(err)
	}
	for _, name := range []string{MLKEM768, MLDSA65} {
		if _, err := NewHPKE(lookup(t, name), HPKEAES256GCM); !fault.Has(err, fault.BadAlgorithm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewHPKE(lookup(t, XWing), 1); !fault.Has(err, fault.BadAlgorithm) {
		t.Error(err)
	}
}
