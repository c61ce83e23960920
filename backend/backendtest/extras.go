package backendtest

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// testSealer protects bytes at rest, bound to what they are for.
func (s *suite) testSealer(t *testing.T) {
	sealer, ok := s.b.(backend.Sealer)
	if !ok {
		return // testInfo fails where it is required
	}
	ctx := t.Context()
	property(t, func(t *rapid.T) {
		gen := seeded(t)
		plaintext := filled(gen, rapid.IntRange(0, 5000).Draw(t, "plaintext"))
		binding := filled(gen, rapid.IntRange(0, 300).Draw(t, "binding"))
		out, err := sealer.Seal(ctx, plaintext, binding)
		if err != nil {
			t.Fatalf("Seal: %v", err)
		}
		if len(plaintext) >= 8 && bytes.Contains(out, plaintext) {
			t.Fatal("sealed bytes are in clear")
		}
		back, err := sealer.Open(ctx, out, binding)
		if err != nil || !bytes.Equal(back, plaintext) {
			t.Fatalf("Open: %v", err)
		}
	})
	plaintext, binding := []byte("a secret at rest"), []byte("what it is for")
	one, err := sealer.Seal(t.Context(), plaintext, binding)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	two, err := sealer.Seal(t.Context(), plaintext, binding)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	if bytes.Equal(one, two) {
		t.Error("sealing twice gives the same bytes")
	}
	bad := alike{code: fault.KeyMaterial}
	open := func(what string, sealed, binding []byte) {
		t.Helper()
		out, err := sealer.Open(t.Context(), sealed, binding)
		bad.add(t, "Open with "+what, out, err)
	}
	for i := range one {
		open(fmt.Sprintf("byte %d flipped", i), flip(one, i), binding)
		open(fmt.Sprintf("cut to %d", i), one[:i], binding)
	}
	open("nothing", nil, binding)
	open("a byte more", append(slices.Clone(one), 0), binding)
	open("another binding", one, []byte("what it is For"))
	open("no binding", one, nil)
	open("a longer binding", one, append(slices.Clone(binding), 0))
	// What seals keys must not open as a key's blob for a caller, nor the other way round.
	for _, k := range s.kinds()[:1] {
		open("a key's blob", s.ref(t, k).Blob, nil)
		_, err := s.b.Load(t.Context(), with(s.ref(t, k), func(r *backend.Ref) { r.Blob = one }))
		want(t, "Load of a sealed text as a key", err, fault.KeyMaterial)
	}
	foreign := s.h.Foreign(t, "foreign")
	out, err := foreign.(backend.Sealer).Open(t.Context(), one, binding)
	bad.add(t, "Open by another device", out, err)
	if err := foreign.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// testRandom: filled to the last byte, and different each time. Statistics are the generator's own business.
func (s *suite) testRandom(t *testing.T) {
	r, ok := s.b.(backend.Randomer)
	if !ok {
		return // testInfo fails where it is required
	}
	for _, n := range []int{0, 1, 31, 32, 33, 1000, 4096, 1 << 20} {
		one, two := make([]byte, n), make([]byte, n)
		for _, p := range [][]byte{one, two} {
			if err := r.Random(t.Context(), p); err != nil {
				t.Fatalf("Random of %d bytes: %v", n, err)
			}
		}
		if n < 16 {
			continue
		}
		if bytes.Equal(one, two) {
			t.Errorf("%d bytes came twice", n)
		}
		for i := 0; i+16 <= n; i += 16 {
			if bytes.Equal(one[i:i+16], make([]byte, 16)) || bytes.Equal(one[n-16:], make([]byte, 16)) {
				t.Fatalf("Random of %d bytes left a part unfilled", n)
			}
		}
	}
}

func (s *suite) testPing(t *testing.T) {
	if p, ok := s.b.(backend.Pinger); ok { // testInfo fails where it is required
		if err := p.Ping(bounded(t)); err != nil {
			t.Errorf("Ping: %v", err)
		}
	}
}
