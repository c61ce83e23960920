package keyenc_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// FuzzParseSPKI: what is taken has one encoding, and its other forms give the same key.
func FuzzParseSPKI(f *testing.F) {
	for _, p := range pairs(f) {
		der, err := keyenc.MarshalSPKI(p.pub)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Add(unbase64(f, rfc8410Public))
	addPQ(f, func(k *pqc.PrivateKey) ([]byte, error) { return keyenc.MarshalSPKI(k.PublicKey()) })
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := keyenc.ParseSPKI(der)
		if err != nil {
			return
		}
		again, err := keyenc.MarshalSPKI(pub)
		if err != nil || !bytes.Equal(again, der) {
			t.Fatalf("%x is written as %x: %v", der, again, err)
		}
		if _, err := keyenc.MarshalRaw(pub); err != nil {
			t.Fatal(err)
		}
		text, err := keyenc.MarshalPublicPEM(pub)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := keyenc.ParsePublicPEM(text); err != nil || !samePublic(back, pub) {
			t.Fatalf("PEM does not come back: %v", err)
		}
	})
}

func FuzzParsePublicPEM(f *testing.F) {
	for _, p := range pairs(f) {
		text, err := keyenc.MarshalPublicPEM(p.pub)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		pub, err := keyenc.ParsePublicPEM(text)
		if err != nil {
			return
		}
		if _, err := keyenc.MarshalSPKI(pub); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzParseJWK: what is taken comes back from its own JWK.
func FuzzParseJWK(f *testing.F) {
	for _, s := range []string{rfcEC, rfcRSA, rfcEd25519} {
		f.Add([]byte(s))
	}
	addPQ(f, func(k *pqc.PrivateKey) ([]byte, error) { return keyenc.MarshalJWK(k.PublicKey()) })
	f.Fuzz(func(t *testing.T, text []byte) {
		pub, err := keyenc.ParseJWK(text)
		if err != nil {
			return
		}
		out, err := keyenc.MarshalJWK(pub)
		if err != nil {
			return // an RSA exponent of 1
		}
		if back, err := keyenc.ParseJWK(out); err != nil || !samePublic(back, pub) {
			t.Fatalf("%s came from %q and does not come back: %v", out, text, err)
		}
	})
}

// FuzzParsePKCS8: what is taken comes back from our own encoding of it.
func FuzzParsePKCS8(f *testing.F) {
	for _, p := range pairs(f) {
		der, err := keyenc.MarshalPKCS8(p.priv)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Add(unbase64(f, rfc8410Private))
	f.Add(unbase64(f, rfc8410Attributes))
	addPQ(f, func(k *pqc.PrivateKey) ([]byte, error) { return keyenc.MarshalPKCS8(k) })
	f.Fuzz(func(t *testing.T, der []byte) {
		priv, err := keyenc.ParsePKCS8(der)
		if err != nil {
			return
		}
		out, err := keyenc.MarshalPKCS8(priv)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := keyenc.ParsePKCS8(out); err != nil || !samePrivate(priv, back) {
			t.Fatalf("a %T does not come back: %v", priv, err)
		}
		if _, err := keyenc.PublicOf(priv); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzDERToP1363: what is taken has one encoding.
func FuzzDERToP1363(f *testing.F) {
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1}, 32)
	f.Add(append([]byte{0x30, 37, 2, 1, 1, 2, 33, 0, 0x80}, make([]byte, 31)...), 32)
	f.Fuzz(func(t *testing.T, der []byte, size int) {
		sig, err := keyenc.DERToP1363(der, size)
		if err != nil {
			return
		}
		if back, err := keyenc.P1363ToDER(sig, size); err != nil || !bytes.Equal(back, der) {
			t.Fatalf("%x is written as %x: %v", der, back, err)
		}
	})
}

func FuzzP1363ToDER(f *testing.F) {
	f.Add(append(append(make([]byte, 31), 1), append(make([]byte, 31), 0x80)...), 32)
	f.Fuzz(func(t *testing.T, sig []byte, size int) {
		der, err := keyenc.P1363ToDER(sig, size)
		if err != nil {
			return
		}
		if back, err := keyenc.DERToP1363(der, size); err != nil || !bytes.Equal(back, sig) {
			t.Fatalf("%x came back as %x: %v", sig, back, err)
		}
	})
}

// FuzzKWPUnwrap: what opens is what Wrap would have made.
func FuzzKWPUnwrap(f *testing.F) {
	kek := make([]byte, 32)
	for _, n := range []int{1, 8, 9, 32} {
		wrapped, err := keyenc.KWPWrap(kek, make([]byte, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kek, wrapped)
	}
	f.Fuzz(func(t *testing.T, kek, wrapped []byte) {
		material, err := keyenc.KWPUnwrap(kek, wrapped)
		if err != nil {
			return
		}
		if again, err := keyenc.KWPWrap(kek, material); err != nil || !bytes.Equal(again, wrapped) {
			t.Fatalf("%x opens but is written as %x: %v", wrapped, again, err)
		}
	})
}

// FuzzUnwrapRSAAES has a stand-in for OAEP that gives the first part as it is, so that the fuzzer gets behind it.
func FuzzUnwrapRSAAES(f *testing.F) {
	kek := make([]byte, 32)
	wrapped, err := keyenc.KWPWrap(kek, make([]byte, 20))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(32, append(bytes.Clone(kek), wrapped...))
	f.Fuzz(func(t *testing.T, size int, wrapped []byte) {
		material, err := keyenc.UnwrapRSAAES(rand.Reader, size, wrapped, func(b []byte) ([]byte, error) { return bytes.Clone(b), nil }, nil)
		if err == nil && (size != 16 && size != 24 && size != 32 || len(material) == 0) {
			t.Fatalf("a temporary key of %d bytes opened %d bytes", size, len(material))
		}
	})
}
