package keyenc_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"testing"

	tink "github.com/tink-crypto/tink-go/v2/kwp/subtle"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/keyenc"
)

// TestRFC5649 has the two examples of RFC 5649 section 6.
func TestRFC5649(t *testing.T) {
	kek := unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	for _, v := range []struct{ material, wrapped string }{
		{"c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"},
		{"466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"},
	} {
		got, err := keyenc.KWPWrap(kek, unhex(t, v.material))
		if err != nil || !bytes.Equal(got, unhex(t, v.wrapped)) {
			t.Errorf("%x, want %s: %v", got, v.wrapped, err)
		}
		back, err := keyenc.KWPUnwrap(kek, unhex(t, v.wrapped))
		if err != nil || !bytes.Equal(back, unhex(t, v.material)) {
			t.Errorf("%x, want %s: %v", back, v.material, err)
		}
	}
}

func TestKWPRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kek := drawBytes(t, rapid.SampledFrom([]int{16, 24, 32}).Draw(t, "kek"))
		material := drawBytes(t, rapid.IntRange(1, 200).Draw(t, "length"))
		given := bytes.Clone(material)
		wrapped, err := keyenc.KWPWrap(kek, material)
		if err != nil || len(wrapped) != keyenc.KWPSize(len(material)) || !bytes.Equal(given, material) {
			t.Fatalf("wrapping %d bytes gives %d: %v", len(material), len(wrapped), err)
		}
		sealed := bytes.Clone(wrapped)
		back, err := keyenc.KWPUnwrap(kek, wrapped)
		if err != nil || !bytes.Equal(back, material) || !bytes.Equal(sealed, wrapped) {
			t.Fatalf("unwrapping: %v", err)
		}
		i := rapid.IntRange(0, len(wrapped)-1).Draw(t, "byte")
		if out, err := keyenc.KWPUnwrap(kek, flipAt(wrapped, i, 1<<rapid.IntRange(0, 7).Draw(t, "bit"))); !errors.Is(err, keyenc.ErrUnwrap) || out != nil {
			t.Fatalf("a flipped bit: %v", err)
		}
	})
}

func drawBytes(t *rapid.T, n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "bytes") }

// TestKWPAgainstTink compares with another implementation, in both directions, over all sizes that it takes up to 300.
func TestKWPAgainstTink(t *testing.T) {
	for _, size := range []int{16, 32} {
		kek := filled(size)
		other, err := tink.NewKWP(kek)
		if err != nil {
			t.Fatal(err)
		}
		for n := tink.MinWrapSize; n <= 300; n++ {
			material := filled(n)
			want, err := other.Wrap(material)
			if err != nil {
				t.Fatal(err)
			}
			got, err := keyenc.KWPWrap(kek, material)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes are wrapped differently: %v", n, err)
			}
			if back, err := keyenc.KWPUnwrap(kek, want); err != nil || !bytes.Equal(back, material) {
				t.Fatalf("%d bytes do not come back: %v", n, err)
			}
		}
	}
}

// TestKWPPadding: each rule of RFC 5649 section 3 by itself. What is wrapped here is what Wrap never makes.
func TestKWPPadding(t *testing.T) {
	kek := filled(32)
	for _, n := range []int{8, 24} {
		// good is constant ‖ length ‖ material ‖ padding, with five bytes of padding.
		good := append([]byte{0xA6, 0x59, 0x59, 0xA6, 0, 0, 0, byte(n - 5)}, filled(n)...)
		clear(good[8+n-5:])
		if back, err := keyenc.KWPUnwrap(kek, keyenc.WrapPlain(t, kek, good)); err != nil || !bytes.Equal(back, good[8:8+n-5]) {
			t.Fatalf("the plain form is not as thought: %v", err)
		}
		for what, bad := range map[string][]byte{
			"another constant":      flip(good, 0),
			"its last byte":         flip(good, 3),
			"a length of zero":      append(append(bytes.Clone(good[:4]), 0, 0, 0, 0), make([]byte, n)...),
			"a length too small":    flipAt(good, 7, byte(n-5)^byte(n-8)),
			"a length too large":    flipAt(good, 7, byte(n-5)^byte(n+1)),
			"a huge length":         flipAt(good, 4, 0xff),
			"a negative length":     flipAt(good, 4, 0x80),
			"padding at the end":    flip(good, len(good)-1),
			"padding at the start":  flip(good, len(good)-5),
			"padding in the middle": flip(good, len(good)-3),
		} {
			if out, err := keyenc.KWPUnwrap(kek, keyenc.WrapPlain(t, kek, bad)); !errors.Is(err, keyenc.ErrUnwrap) || out != nil {
				t.Errorf("%d bytes, %s: %v", n, what, err)
			}
		}
	}
}

func TestKWPSizes(t *testing.T) {
	kek := filled(32)
	if _, err := keyenc.KWPWrap(kek, nil); !errors.Is(err, keyenc.ErrSize) {
		t.Errorf("wrapping nothing: %v", err)
	}
	for _, n := range []int{0, 8, 15, 17, 31, 33} {
		if _, err := keyenc.KWPWrap(make([]byte, n), kek); !errors.Is(err, keyenc.ErrSize) {
			t.Errorf("a kek of %d bytes: %v", n, err)
		}
	}
	for _, n := range []int{0, 1, 7, 8, 9, 15, 17, 23, 25} {
		if _, err := keyenc.KWPUnwrap(kek, make([]byte, n)); !errors.Is(err, keyenc.ErrUnwrap) {
			t.Errorf("unwrapping %d bytes: %v", n, err)
		}
	}
}

func oaepBy(k *rsa.PrivateKey, h crypto.Hash) func([]byte) ([]byte, error) {
	return func(ct []byte) ([]byte, error) { return rsa.DecryptOAEP(h.New(), nil, k, ct, nil) }
}

func TestRSAAES(t *testing.T) {
	k := rsaKey()
	for _, name := range []string{keyenc.SHA1, keyenc.SHA256, keyenc.SHA384, keyenc.SHA512} {
		h, ok := keyenc.HashByName(name)
		if !ok || keyenc.HashName(h) != name {
			t.Fatalf("hash %s", name)
		}
		for _, n := range []int{1, 16, 32, 1217} {
			material := filled(n)
			wrapped, err := keyenc.WrapRSAAES(rand.Reader, &k.PublicKey, h, material)
			if err != nil {
				t.Fatal(err)
			}
			if len(wrapped) != k.Size()+keyenc.KWPSize(n) {
				t.Errorf("%d bytes give %d", n, len(wrapped))
			}
			back, err := keyenc.UnwrapRSAAES(rand.Reader, k.Size(), wrapped, oaepBy(k, h), nil)
			if err != nil || !bytes.Equal(back, material) {
				t.Errorf("%s, %d bytes do not come back: %v", name, n, err)
			}
			for _, i := range []int{0, k.Size() - 1, k.Size(), len(wrapped) - 1} {
				if out, err := keyenc.UnwrapRSAAES(rand.Reader, k.Size(), flip(wrapped, i), oaepBy(k, h), nil); !errors.Is(err, keyenc.ErrUnwrap) || out != nil {
					t.Errorf("byte %d flipped: %v", i, err)
				}
			}
			for _, cut := range []int{0, 1, k.Size(), k.Size() + 15, len(wrapped) - 1, len(wrapped) - 8} {
				if _, err := keyenc.UnwrapRSAAES(rand.Reader, k.Size(), wrapped[:cut], oaepBy(k, h), nil); !errors.Is(err, keyenc.ErrUnwrap) {
					t.Errorf("cut to %d: %v", cut, err)
				}
			}
		}
	}
}

// TestRSAAESTemporaryKeys: the mechanism allows shorter temporary keys, and nothing else passes as one.
func TestRSAAESTemporaryKeys(t *testing.T) {
	k, material := rsaKey(), filled(32)
	for _, n := range []int{0, 1, 15, 16, 24, 31, 32, 33, 64} {
		kek := filled(n)
		head, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, &k.PublicKey, kek, nil)
		if err != nil {
			t.Fatal(err)
		}
		valid := n == 16 || n == 24 || n == 32
		inner := kek
		if !valid {
			inner = filled(32)
		}
		tail, err := keyenc.KWPWrap(inner, material)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keyenc.UnwrapRSAAES(rand.Reader, k.Size(), append(head, tail...), oaepBy(k, crypto.SHA256), nil)
		if valid != (err == nil) || valid != bytes.Equal(got, material) {
			t.Errorf("a temporary key of %d bytes: %v", n, err)
		}
	}
}

func TestRSAAESRefuses(t *testing.T) {
	k := rsaKey()
	if _, err := keyenc.WrapRSAAES(rand.Reader, &k.PublicKey, crypto.MD5, []byte{1}); !errors.Is(err, keyenc.ErrUnsupported) {
		t.Errorf("MD5: %v", err)
	}
	if _, err := keyenc.WrapRSAAES(rand.Reader, nil, crypto.SHA256, []byte{1}); !errors.Is(err, keyenc.ErrUnsupported) {
		t.Errorf("no key: %v", err)
	}
	if _, err := keyenc.WrapRSAAES(rand.Reader, &k.PublicKey, crypto.SHA256, nil); !errors.Is(err, keyenc.ErrSize) {
		t.Errorf("no material: %v", err)
	}
	broken := errors.New("the generator is broken")
	if _, err := keyenc.WrapRSAAES(failing{broken}, &k.PublicKey, crypto.SHA256, []byte{1}); !errors.Is(err, broken) {
		t.Errorf("a broken generator: %v", err)
	}
	wrapped, err := keyenc.WrapRSAAES(rand.Reader, &k.PublicKey, crypto.SHA256, []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyenc.UnwrapRSAAES(failing{broken}, k.Size(), wrapped, oaepBy(k, crypto.SHA256), nil); !errors.Is(err, broken) {
		t.Errorf("a broken generator: %v", err)
	}
	gone := fmt.Errorf("the device is gone")
	_, err = keyenc.UnwrapRSAAES(rand.Reader, k.Size(), wrapped, func([]byte) ([]byte, error) { return nil, gone },
		func(err error) bool { return errors.Is(err, gone) })
	if !errors.Is(err, gone) {
		t.Errorf("an error that is not about the data: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestHashNames(t *testing.T) {
	for _, name := range []string{"", "sha-256", "SHA256", "SHA-224", "MD5"} {
		if h, ok := keyenc.HashByName(name); ok || h != 0 {
			t.Errorf("%q is taken as %v", name, h)
		}
	}
	if keyenc.HashName(crypto.SHA224) != "" || keyenc.SignatureHash(crypto.SHA1) || keyenc.SignatureHash(crypto.SHA224) ||
		!keyenc.SignatureHash(crypto.SHA512) || !keyenc.OAEPHash(crypto.SHA1) || keyenc.OAEPHash(crypto.MD5) {
		t.Error("a hash is taken for what it is not, or not for what it is")
	}
}

func BenchmarkKWPWrap32(b *testing.B) {
	w, err := keyenc.NewKWP(filled(32))
	if err != nil {
		b.Fatal(err)
	}
	material := filled(32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Wrap(material); err != nil {
			b.Fatal(err)
		}
	}
}
