package backendtest

import (
	"bytes"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// testReseal holds a backend to backend.Resealer: what was made before the key over it was replaced is stale and works, what is sealed anew is not stale and
// is the same key, and nothing else can be made of it.
func (s *suite) testReseal(t *testing.T) {
	r, ok := s.b.(backend.Resealer)
	if !ok && s.h.Replace != nil {
		t.Fatal("the key over the keys can be replaced, and the backend is no backend.Resealer")
	}
	if s.h.Replace == nil {
		for _, k := range s.kinds() {
			if ok && s.h.replaced(k.Custody) {
				t.Fatal("the backend is a backend.Resealer, and the harness cannot replace the key over its keys")
			}
		}
		return
	}
	type made struct {
		k   kind
		ref backend.Ref
	}
	var all []made
	for _, k := range s.kinds() {
		if !s.h.replaced(k.Custody) {
			continue
		}
		ref := s.ref(t, k)
		if r.Stale(ref) {
			t.Errorf("%s is stale when it is new", k)
		}
		all = append(all, made{k, ref})
	}
	if len(all) == 0 {
		t.Fatal("no key is under a key that can be replaced")
	}
	s.h.Replace(t, s.b)
	for i, m := range all {
		fresh, err := r.Reseal(t.Context(), m.ref)
		if err != nil {
			t.Fatalf("%s: Reseal: %v", m.k, err)
		}
		switch {
		case !r.Stale(m.ref):
			t.Errorf("%s is not stale after the key over it was replaced", m.k)
		case r.Stale(fresh):
			t.Errorf("%s is stale when it is sealed anew", m.k)
		case fresh.Spec != m.ref.Spec || !bytes.Equal(fresh.Public, m.ref.Public) || bytes.Equal(fresh.Blob, m.ref.Blob):
			t.Errorf("%s: sealed anew it is another key, or the same bytes", m.k)
		}
		s.sameKey(t, m.k, m.ref, fresh)
		again, err := r.Reseal(t.Context(), fresh)
		if err != nil || r.Stale(again) {
			t.Errorf("%s: sealed anew once more: %v", m.k, err)
		}
		s.refs[refKey{m.k.Algorithm, m.k.Purpose}] = fresh // the rest of the suite goes on with it

		other := clone(m.ref)
		other.Spec.Version++
		if _, err := r.Reseal(t.Context(), other); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("%s: another version's: %v", m.k, err)
		}
		other = clone(m.ref)
		other.Spec.Tenant[3] ^= 1
		if _, err := r.Reseal(t.Context(), other); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("%s: another tenant's: %v", m.k, err)
		}
		if i > 0 {
			continue // what follows is about the form, and the same for all
		}
		for n := range m.ref.Blob {
			other = clone(m.ref)
			other.Blob = flip(other.Blob, n)
			if out, err := r.Reseal(t.Context(), other); err == nil {
				t.Errorf("byte %d flipped: sealed anew as %d bytes", n, len(out.Blob))
			}
		}
		for _, bad := range [][]byte{nil, {1}, m.ref.Blob[:len(m.ref.Blob)-1], append(bytes.Clone(m.ref.Blob), 0)} {
			other = clone(m.ref)
			other.Blob = bad
			if _, err := r.Reseal(t.Context(), other); !fault.Has(err, fault.KeyMaterial) {
				t.Errorf("a blob of %d bytes: %v", len(bad), err)
			}
		}
	}
	made2 := s.generate(t, s.spec(all[0].k))
	s.destroyLater(t, made2)
	if r.Stale(made2) {
		t.Error("a new key is stale after the key over it was replaced")
	}
}

// replaced reports whether keys of a custody are under what Replace replaces.
func (h *Harness) replaced(c backend.Custody) bool { return c != backend.CustodyDevice || h.Wrapped }

// sameKey shows that two Refs are one key: what the one protects the other opens. For the rest the loaded public key is compared with the Ref's by Load itself.
func (s *suite) sameKey(t *testing.T, k kind, one, two backend.Ref) {
	t.Helper()
	a, b := load(t, s.b, one), load(t, s.b, two)
	switch x := a.(type) {
	case backend.AEAD:
		y, ok := b.(backend.AEAD)
		if !ok {
			t.Fatalf("%s: another kind of handle", k)
		}
		sealed, err := x.Seal(t.Context(), nil, []byte("plaintext"), []byte("aad"))
		if err != nil {
			t.Fatalf("%s: Seal: %v", k, err)
		}
		if plain, err := y.Open(t.Context(), nil, sealed, []byte("aad")); err != nil || string(plain) != "plaintext" {
			t.Errorf("%s: the key that was sealed anew does not open it: %v", k, err)
		}
	case backend.MACer:
		y, ok := b.(backend.MACer)
		if !ok {
			t.Fatalf("%s: another kind of handle", k)
		}
		m, err := x.MAC(t.Context(), []byte("message"))
		if err != nil {
			t.Fatalf("%s: MAC: %v", k, err)
		}
		if n, err := y.MAC(t.Context(), []byte("message")); err != nil || !bytes.Equal(m, n) {
			t.Errorf("%s: the key that was sealed anew gives another tag: %v", k, err)
		}
	case backend.Wrapper:
		y, ok := b.(backend.Wrapper)
		if !ok {
			t.Fatalf("%s: another kind of handle", k)
		}
		wrapped, err := x.Wrap(t.Context(), bytes.Repeat([]byte{7}, 32))
		if err != nil {
			t.Fatalf("%s: Wrap: %v", k, err)
		}
		if out, err := y.Unwrap(t.Context(), wrapped); err != nil || !bytes.Equal(out, bytes.Repeat([]byte{7}, 32)) {
			t.Errorf("%s: the key that was sealed anew does not open it: %v", k, err)
		}
	}
}
