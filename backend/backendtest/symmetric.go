package backendtest

import (
	"bytes"
	"crypto/hmac"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

func (s *suite) testKWP(t *testing.T) {
	for _, k := range s.of(backend.FamilyKWP, backend.PurposeWrapping) {
		t.Run(string(k.Algorithm), func(t *testing.T) {
			checkWrapper(t, s.key(t, k).(backend.Wrapper), nil)
			m := fresh(t, k.Info)
			if known, ok := s.imported(t, k, m.bytes); ok {
				checkWrapper(t, known.(backend.Wrapper), m.bytes)
			}
		})
	}
}

// checkWrapper wraps material of any length; with a known key the reference has to come to the same bytes.
func checkWrapper(t *testing.T, w backend.Wrapper, key []byte) {
	t.Helper()
	ctx := t.Context()
	one := func(t rapid.TB, material []byte) []byte {
		wrapped, err := w.Wrap(ctx, material)
		if err != nil {
			t.Fatalf("Wrap of %d bytes: %v", len(material), err)
		}
		if n := (len(material)+7)/8*8 + 8; len(wrapped) != n {
			t.Fatalf("Wrap of %d bytes gave %d, want %d", len(material), len(wrapped), n)
		}
		if key != nil {
			judged, err := kwpWrap(key, material)
			if err != nil || !bytes.Equal(judged, wrapped) {
				t.Fatalf("Wrap of %d bytes is not what RFC 5649 says (%v)", len(material), err)
			}
		}
		back, err := w.Unwrap(ctx, wrapped)
		if err != nil || !bytes.Equal(back, material) {
			t.Fatalf("Unwrap of %d bytes: %v", len(wrapped), err)
		}
		return wrapped
	}
	property(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4096).Draw(t, "length")
		gen := seeded(t)
		one(t, filled(gen, n))
	})
	for n := 1; n <= 41; n++ {
		one(t, random(t, n))
	}
	one(t, random(t, 4096))
	one(t, make([]byte, 24)) // material of zeros, as its padding is
	for _, n := range []int{0, 4097, 1 << 17} {
		_, err := w.Wrap(t.Context(), make([]byte, n))
		want(t, fmt.Sprintf("Wrap of %d bytes", n), err, fault.BadSize)
	}
	bad := alike{code: fault.DecryptionFailed}
	unwrap := func(what string, wrapped []byte) {
		t.Helper()
		out, err := w.Unwrap(t.Context(), wrapped)
		bad.add(t, what, out, err)
	}
	for _, size := range []int{5, 8, 21, 32} { // one block, and several; padded and not
		wrapped := one(t, random(t, size))
		for i := range wrapped {
			unwrap(fmt.Sprintf("%d bytes: byte %d flipped", size, i), flip(wrapped, i))
			unwrap(fmt.Sprintf("%d bytes: cut to %d", size, i), wrapped[:i])
		}
		unwrap("a byte more", append(slices.Clone(wrapped), 0))
		unwrap("a block more", append(slices.Clone(wrapped), make([]byte, 8)...))
	}
	unwrap("nil", nil)
	unwrap("zeros", make([]byte, 24))
	unwrap("random", random(t, 40))
	unwrap("too long", make([]byte, 1<<17))
	if key != nil {
		malformed, err := kwpMalformed(key)
		if err != nil {
			t.Fatal(err)
		}
		for what, wrapped := range malformed {
			unwrap(what, wrapped)
		}
	}
}

func (s *suite) testMAC(t *testing.T) {
	for _, k := range s.of(backend.FamilyHMAC, backend.PurposeMAC) {
		t.Run(string(k.Algorithm), func(t *testing.T) {
			generated := s.key(t, k).(backend.MACer)
			m := fresh(t, k.Info)
			var known backend.MACer
			if key, ok := s.imported(t, k, m.bytes); ok {
				known = key.(backend.MACer)
			}
			for _, n := range []int{0, 1, 63, 64, 65, 127, 128, 129, 1000, 1 << 20} {
				message := random(t, n)
				one, err := generated.MAC(t.Context(), message)
				if err != nil {
					t.Fatalf("MAC of %d bytes: %v", n, err)
				}
				two, err := generated.MAC(t.Context(), message)
				if err != nil || !bytes.Equal(one, two) || len(one) != k.Info.TagSize {
					t.Errorf("MAC of %d bytes: %d bytes, the same twice: %v (%v)", n, len(one), bytes.Equal(one, two), err)
				}
				if known == nil {
					continue
				}
				judge := hmac.New(k.Info.Hash.New, m.bytes)
				judge.Write(message)
				got, err := known.MAC(t.Context(), message)
				if err != nil || !bytes.Equal(got, judge.Sum(nil)) {
					t.Errorf("MAC of %d bytes is not the standard library's (%v)", n, err)
				}
				if bytes.Equal(got, one) {
					t.Errorf("two keys give the same tag of %d bytes", n)
				}
			}
		})
	}
}
