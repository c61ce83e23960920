package hsm_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestImportInside: the Ref says whether the token opened the envelope, and so do the quirks beforehand.
func TestImportInside(t *testing.T) {
	for _, m := range []struct {
		name   string
		part   *rig.Part
		hash   crypto.Hash
		inside []backend.Algorithm
		says   bool // of SHA-256, which callers use
	}{
		{"nss", rig.NSS(t), crypto.SHA256, []backend.Algorithm{backend.AES256GCM, backend.HMACSHA256, backend.RSA2048}, true},
		{"softhsm", rig.SoftHSM(t), crypto.SHA1, []backend.Algorithm{backend.RSA2048}, false},
		{"softhsm with SHA-256", rig.SoftHSM(t), crypto.SHA256, nil, false},
	} {
		t.Run(m.name, func(t *testing.T) {
			b := how{processes: 1, change: wrapped}.open(t, "inside", m.part)
			defer func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}()
			if says := strings.Contains(strings.Join(b.Info().Quirks, "\n"), "which the token unwraps"); says != m.says {
				t.Errorf("the quirks speak of it: %v", says)
			}
			with, err := b.Generate(t.Context(), spec(backend.RSA2048, backend.PurposeEncryption))
			if err != nil {
				t.Fatal(err)
			}
			pub, err := keyenc.ParseSPKI(with.Public)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range []backend.Algorithm{backend.AES256GCM, backend.HMACSHA256, backend.RSA2048} {
				info, _ := backend.Lookup(a)
				material := make([]byte, info.KeySize)
				if a == backend.RSA2048 {
					key, err := rsa.GenerateKey(rand.Reader, 2048)
					if err != nil {
						t.Fatal(err)
					}
					if material, err = keyenc.MarshalPKCS8(key); err != nil {
						t.Fatal(err)
					}
				}
				blob, err := keyenc.WrapRSAAES(rand.Reader, pub.(*rsa.PublicKey), m.hash, material)
				if err != nil {
					t.Fatal(err)
				}
				ref, err := b.ImportWrapped(t.Context(), spec(a, info.Purposes[0]), with, m.hash, blob)
				if err != nil {
					t.Errorf("%s: %v", a, err)
					continue
				}
				if ref.Inside != slices.Contains(m.inside, a) {
					t.Errorf("%s: inside %v", a, ref.Inside)
				}
				key, err := b.Load(t.Context(), ref)
				if err != nil {
					t.Errorf("%s: %v", a, err)
					continue
				}
				if aead, ok := key.(backend.AEAD); ok {
					if _, err := aead.Seal(t.Context(), nil, []byte("text"), nil); err != nil {
						t.Errorf("%s: %v", a, err)
					}
				}
			}
		})
	}
}
