package token

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"math/big"
	"testing"

	"github.com/miekg/pkcs11"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

func knownKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, _ := kindOf(backend.RSA2048)
	in, err := knownRSA(k)
	if err != nil {
		t.Fatal(err)
	}
	return in.priv.(*rsa.PrivateKey)
}

func TestPSSEncoding(t *testing.T) {
	key := knownKey(t)
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		digest := known(h.Size())
		em, err := encodePSS(h, digest, key.N.BitLen())
		if err != nil {
			t.Fatal(err)
		}
		sig := new(big.Int).Exp(new(big.Int).SetBytes(em), key.D, key.N).FillBytes(make([]byte, key.Size()))
		if err := rsa.VerifyPSS(&key.PublicKey, h, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
			t.Errorf("%v: %v", h, err)
		}
	}
	if _, err := encodePSS(crypto.SHA512, make([]byte, 64), 512); !fault.Has(err, fault.BadField) {
		t.Errorf("a small key: %v", err)
	}
}

// TestKWPBlocks compares the block-wise RFC 5649 with the one of package keyenc.
func TestKWPBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
		in := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "material")
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, keyenc.KWPSize(len(in)))
		copy(b[8:], in)
		aiv(b, len(in))
		if err := wrapW(b, func(x *[16]byte) error { block.Encrypt(x[:], x[:]); return nil }); err != nil {
			t.Fatal(err)
		}
		want, err := keyenc.KWPWrap(key, in)
		if err != nil || !bytes.Equal(b, want) {
			t.Fatalf("wrapped otherwise: %v", err)
		}
		flip := rapid.IntRange(-1, len(b)-1).Draw(t, "flip")
		if flip >= 0 {
			b[flip] ^= 1
		}
		if err := unwrapW(b, func(x *[16]byte) error { block.Decrypt(x[:], x[:]); return nil }); err != nil {
			t.Fatal(err)
		}
		n, ok := checkAIV(b)
		if ok != (flip < 0) || ok && !bytes.Equal(b[8:8+n], in) {
			t.Fatalf("unwrapped: %v, %d bytes of %d", ok, n, len(in))
		}
	})
}

// TestAIV tries every length and every non-zero padding byte (RFC 5649 section 3).
func TestAIV(t *testing.T) {
	for size := 8; size <= 24; size += 8 {
		for n := 0; n <= size+8; n++ {
			b := make([]byte, 8+size)
			for i := range b[8:] {
				if i < n {
					b[8+i] = 0xff
				}
			}
			aiv(b, n)
			if got, ok := checkAIV(b); ok != (n > size-8 && n <= size) || ok && got != n {
				t.Errorf("%d bytes in %d: %d, %v", n, size, got, ok)
			}
			for i := n; i < size && n > size-8; i++ {
				b[8+i] = 1
				if _, ok := checkAIV(b); ok {
					t.Errorf("padding byte %d of %d in %d is taken", i, n, size)
				}
				b[8+i] = 0
			}
		}
	}
	b := make([]byte, 16)
	binary.BigEndian.PutUint32(b, 0xFFFFFFFF)
	binary.BigEndian.PutUint32(b[4:], 0xFFFFFFFF)
	if _, ok := checkAIV(b); ok {
		t.Error("a length of 2^32-1 is taken")
	}
}

func TestPoints(t *testing.T) {
	for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.ECDSAP521, backend.ECDHP384, backend.Ed25519, backend.Ed448, backend.X25519, backend.X448} {
		k, ok := kindOf(a)
		if !ok {
			t.Fatalf("no kind of %s", a)
		}
		priv, err := newPrivate(k)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := keyenc.PublicOf(priv)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := keyenc.MarshalRaw(pub)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []pointForm{pointOctets, pointBits, pointRaw} {
			der, err := wrapPoint(form, raw)
			if err != nil {
				t.Fatal(err)
			}
			got, how, err := decodePoint(k, der)
			if err != nil || how != form {
				t.Errorf("%s as %s: %s, %v", a, form, how, err)
				continue
			}
			if back, err := keyenc.MarshalRaw(got); err != nil || !bytes.Equal(back, raw) {
				t.Errorf("%s as %s comes back as another point: %v", a, form, err)
			}
			for _, bad := range [][]byte{der[1:], der[:len(der)-1], append(bytes.Clone(der), 0), nil} {
				if _, _, err := decodePoint(k, bad); !fault.Has(err, fault.KeyMaterial) {
					t.Errorf("%s as %s: a damaged point: %v", a, form, err)
				}
			}
		}
	}
	k, _ := kindOf(backend.ECDSAP256)
	off := append([]byte{4}, known(64)...)
	if _, _, err := decodePoint(k, off); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a point off the curve: %v", err)
	}
}

// TestClasses: each value that the library has a name for has a class, and unknown ones are the token's.
func TestClasses(t *testing.T) {
	for _, v := range []uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_VENDOR_DEFINED | 77, 0x7777} {
		if c, ok := classOf(pkcs11.Error(v)); !ok || c != classToken {
			t.Errorf("%#x is of class %d", v, c)
		}
	}
	if _, ok := classOf(errNoObject); ok {
		t.Error("a fault has a class")
	}
	for v, want := range map[uint]fault.Code{
		pkcs11.CKR_DATA_INVALID: fault.BadField, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: fault.KeyMaterial, pkcs11.CKR_MECHANISM_INVALID: fault.Unsupported,
		pkcs11.CKR_SESSION_COUNT: fault.Overloaded, pkcs11.CKR_DEVICE_MEMORY: fault.Overloaded, pkcs11.CKR_DEVICE_REMOVED: fault.BackendUnavailable,
		pkcs11.CKR_PIN_INCORRECT: fault.BackendUnavailable, pkcs11.CKR_OBJECT_HANDLE_INVALID: fault.KeyMaterial,
	} {
		if err := explain(pkcs11.Error(v)); !fault.Has(err, want) {
			t.Errorf("%#x: %v, want %s", v, err, want)
		}
	}
}

func TestMaxSessions(t *testing.T) {
	for _, c := range []struct {
		all, rw uint
		want    int
	}{
		{0, 0, 0}, {^uint(0), ^uint(0), 0}, {1<<32 - 1, 0, 0}, {16, 0, 16}, {16, 4, 4}, {^uint(0), 7, 7}, {1, 1, 1}, {1<<31 - 1, 1 << 40, 0},
	} {
		if got := maxSessions(c.all, c.rw); got != c.want {
			t.Errorf("%d and %d are read as %d, want %d", c.all, c.rw, got, c.want)
		}
	}
}

func FuzzParseWrapped(f *testing.F) {
	ok := make([]byte, wrappedHeader+24+wrappedTag)
	ok[0], ok[1], ok[4] = wrappedVersion, byte(formKWP), 3
	f.Add(ok)
	cbc := make([]byte, wrappedHeader+48+wrappedTag)
	cbc[0], cbc[1], cbc[4] = wrappedVersion, byte(formCBCPad), 1
	f.Add(cbc)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := parseWrapped(b)
		if err != nil {
			if !errors.Is(err, errSpoiled) {
				t.Errorf("an error of its own: %v", err)
			}
			return
		}
		out := []byte{wrappedVersion, byte(w.form), byte(w.algorithm >> 8), byte(w.algorithm), 0}
		for i, p := range purposeNumbers {
			if p == w.purpose {
				out[4] = byte(i)
			}
		}
		out = append(append(out, w.id[:]...), w.kek[:]...)
		out = append(append(append(out, w.iv...), w.material...), w.tag...)
		if !bytes.Equal(out, b) || !bytes.Equal(w.signed, b[:len(b)-wrappedTag]) {
			t.Error("the parts are not the whole")
		}
	})
}
