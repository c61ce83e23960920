package backendtest

import (
	"bytes"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// testReveal: material in sealed and software custody comes out as it went in, of keys that are not exportable too, and none in device custody.
func (s *suite) testReveal(t *testing.T) {
	revealer, ok := s.b.(backend.Revealer)
	if !ok {
		return // a backend whose keys never move
	}
	for _, k := range s.kinds() {
		t.Run(k.String(), func(t *testing.T) {
			if k.Custody == backend.CustodyDevice {
				out, err := revealer.Reveal(t.Context(), s.ref(t, k))
				want(t, "Reveal of a key in device custody", err, fault.NotExportable)
				if out != nil {
					t.Error("something came out")
				}
				return
			}
			m := fresh(t, k.Info)
			ref, err := s.b.(backend.Importer).Import(t.Context(), s.spec(k), m.bytes)
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			s.destroyLater(t, ref)
			for range 2 {
				out, err := revealer.Reveal(t.Context(), ref)
				if err != nil {
					t.Fatalf("Reveal: %v", err)
				}
				checkSameKey(t, m, out)
				again, err := s.b.(backend.Importer).Import(t.Context(), s.spec(k), out)
				if err != nil || !bytes.Equal(again.Public, ref.Public) {
					t.Errorf("what Reveal gave is not what Import takes: %v", err)
				}
				out.Wipe()
				if err == nil {
					s.destroyLater(t, again)
				}
			}
			bad := alike{code: fault.KeyMaterial}
			refuse := func(what string, r backend.Ref) {
				t.Helper()
				if r.Spec == ref.Spec && bytes.Equal(r.Public, ref.Public) && bytes.Equal(r.Blob, ref.Blob) {
					return // known keys are the same each time
				}
				out, err := revealer.Reveal(t.Context(), r)
				bad.add(t, "Reveal with "+what, out, err)
			}
			s.swappedSpecs(ref, refuse)
			swappedPublics(t, k, ref, refuse)
		})
	}
}

// testRecover: an object that an Import has left is found again and can be used, and what is not there is not found.
func (s *suite) testRecover(t *testing.T) {
	recoverer, ok := s.b.(backend.Recoverer)
	if !ok || !s.info.KeepsObjects {
		return
	}
	for _, k := range s.kinds() {
		if k.Custody != backend.CustodyDevice || !k.Import {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			m, spec := fresh(t, k.Info), s.spec(k)
			_, err := recoverer.Recover(t.Context(), spec)
			want(t, "Recover of what is not there", err, fault.KeyMaterial, fault.Unsupported)
			if fault.Has(err, fault.Unsupported) {
				return // a placement in which the record is all there is
			}
			ref, err := s.b.(backend.Importer).Import(t.Context(), spec, m.bytes)
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			s.destroyLater(t, ref)
			found, err := recoverer.Recover(t.Context(), spec)
			if err != nil {
				t.Fatalf("Recover: %v", err)
			}
			if found.Spec != ref.Spec || !bytes.Equal(found.Public, ref.Public) || found.Inside {
				t.Errorf("found %+v, want %+v", found.Spec, ref.Spec)
			}
			key := load(t, s.b, found)
			if !k.Info.Symmetric() {
				checkPublic(t, k, key, found)
			}
		})
	}
}
