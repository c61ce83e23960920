package keyenc_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"github.com/keywright/keywright/keyenc"
)

// TestDecodeOAEP: the standard library encrypts, big numbers do the bare private operation, and every hash, label and length decodes; a
// changed block, another label and another hash do not.
func TestDecodeOAEP(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raw := func(ct []byte) []byte {
		m := new(big.Int).Exp(new(big.Int).SetBytes(ct), key.D, key.N)
		return m.FillBytes(make([]byte, key.Size()))
	}
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for _, label := range [][]byte{nil, []byte("label"), make([]byte, 300)} {
			for _, n := range []int{0, 1, 32, key.Size() - 2*h.Size() - 2} {
				plain := make([]byte, n)
				rand.Read(plain)
				ct, err := rsa.EncryptOAEP(h.New(), rand.Reader, &key.PublicKey, plain, label)
				if err != nil {
					t.Fatal(err)
				}
				em := raw(ct)
				got, err := keyenc.DecodeOAEP(bytes.Clone(em), h, label)
				if err != nil || !bytes.Equal(got, plain) || got == nil {
					t.Errorf("%v, label of %d, %d bytes: %v", h, len(label), n, err)
				}
				for _, i := range []int{0, 1, h.Size(), h.Size() + 1, len(em) - n - 1} {
					bad := bytes.Clone(em)
					bad[i] ^= 1
					if _, err := keyenc.DecodeOAEP(bad, h, label); err == nil {
						t.Errorf("%v: byte %d changed decodes", h, i)
					}
				}
				if _, err := keyenc.DecodeOAEP(bytes.Clone(em), h, append([]byte("x"), label...)); err == nil {
					t.Errorf("%v: another label decodes", h)
				}
			}
		}
	}
	for _, n := range []int{0, 1, 2*20 + 1} {
		if _, err := keyenc.DecodeOAEP(make([]byte, n), crypto.SHA1, nil); err == nil {
			t.Errorf("%d bytes decode", n)
		}
	}
	if _, err := keyenc.DecodeOAEP(make([]byte, 256), crypto.MD5, nil); err == nil {
		t.Error("MD5 decodes")
	}
}
