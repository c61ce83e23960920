package backendtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

var oaepHashes = []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}

func (s *suite) testOAEP(t *testing.T) {
	for _, k := range s.of(backend.FamilyRSA, backend.PurposeEncryption) {
		if !k.has(backend.OpDecrypt) {
			continue
		}
		t.Run(string(k.Algorithm), func(t *testing.T) {
			d := s.key(t, k).(backend.Decrypter)
			checkDecrypter(t, d)
			checkOAEPTampering(t, d)
			if known, ok := s.imported(t, k, fresh(t, k.Info).bytes); ok {
				checkDecrypter(t, known.(backend.Decrypter))
			}
		})
	}
}

func oaep(t testing.TB, pub crypto.PublicKey, h crypto.Hash, label, plaintext []byte) []byte {
	t.Helper()
	ct, err := rsa.EncryptOAEP(h.New(), rand.Reader, pub.(*rsa.PublicKey), plaintext, label)
	if err != nil {
		t.Fatal(err)
	}
	return ct
}

// checkDecrypter opens what the standard library encrypted, with every hash, labels and sizes up to the largest.
func checkDecrypter(t *testing.T, d backend.Decrypter) {
	t.Helper()
	size := d.Public().(*rsa.PublicKey).Size()
	for i, h := range oaepHashes {
		labels := [][]byte{nil, []byte("label"), random(t, 300)}
		for j, n := range []int{0, 32, size - 2*h.Size() - 2} {
			plaintext, label := random(t, n), labels[(i+j)%len(labels)]
			got, err := d.Decrypt(t.Context(), oaep(t, d.Public(), h, label, plaintext), backend.OAEPOpts{Hash: h, Label: label})
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("Decrypt with %v, label of %d, plaintext of %d bytes: %v", h, len(label), n, err)
			}
		}
	}
}

// checkOAEPTampering: Manger's attack needs two kinds of failure to tell apart.
func checkOAEPTampering(t *testing.T, d backend.Decrypter) {
	t.Helper()
	pub := d.Public().(*rsa.PublicKey)
	opts := backend.OAEPOpts{Hash: crypto.SHA256, Label: []byte("label")}
	ct := oaep(t, pub, opts.Hash, opts.Label, []byte("plaintext"))
	bad := alike{code: fault.DecryptionFailed}
	decrypt := func(what string, ct []byte, o backend.OAEPOpts) {
		t.Helper()
		out, err := d.Decrypt(t.Context(), ct, o)
		bad.add(t, what, out, err)
	}
	for _, i := range []int{0, 1, len(ct) / 2, len(ct) - 1} {
		decrypt(fmt.Sprintf("byte %d flipped", i), flip(ct, i), opts)
	}
	for _, n := range []int{0, 1, len(ct) - 1} {
		decrypt(fmt.Sprintf("cut to %d", n), ct[:n], opts)
	}
	decrypt("a byte more", append(slices.Clone(ct), 0), opts)
	decrypt("a zero before", append([]byte{0}, ct...), opts)
	decrypt("zeros", make([]byte, len(ct)), opts)
	decrypt("the modulus", pub.N.FillBytes(make([]byte, len(ct))), opts)
	decrypt("above the modulus", bytes.Repeat([]byte{0xff}, len(ct)), opts)
	decrypt("another label", ct, backend.OAEPOpts{Hash: opts.Hash, Label: []byte("Label")})
	decrypt("no label", ct, backend.OAEPOpts{Hash: opts.Hash})
	decrypt("another hash", ct, backend.OAEPOpts{Hash: crypto.SHA1, Label: opts.Label})
	pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, pub, []byte("plaintext")) //nolint:staticcheck // what must not decrypt
	if err != nil {
		t.Fatal(err)
	}
	decrypt("PKCS#1 v1.5", pkcs1, opts)
	for _, h := range []crypto.Hash{0, crypto.MD5, crypto.SHA224, 99} {
		out, err := d.Decrypt(t.Context(), ct, backend.OAEPOpts{Hash: h, Label: opts.Label})
		want(t, fmt.Sprintf("Decrypt with hash %d", h), err, fault.BadField)
		if out != nil {
			t.Error("plaintext came out beside an error")
		}
	}
}
