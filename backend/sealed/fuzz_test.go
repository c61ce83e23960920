package sealed

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// FuzzLoad: of all Refs with this Spec, one loads. It is one of the vectors, so that every process of the fuzzer has the same.
func FuzzLoad(f *testing.F) {
	all := vectors(f)
	v := all[slices.IndexFunc(all, func(v vector) bool { return v.Algorithm == backend.Ed25519 })]
	good := v.ref()
	e, err := New(software(v.SealingKey), Options{Custody: v.Custody})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close() })
	f.Add(good.Public, good.Blob)
	f.Add([]byte(nil), good.Blob)
	f.Add(good.Public, good.Blob[:1])
	f.Fuzz(func(t *testing.T, public, blob []byte) {
		k, err := e.Load(t.Context(), backend.Ref{Spec: good.Spec, Public: public, Blob: blob})
		if same := bytes.Equal(public, good.Public) && bytes.Equal(blob, good.Blob); same != (err == nil) {
			t.Fatalf("the good Ref: %v, loading: %v", same, err)
		}
		if err == nil {
			k.Close()
		} else if !fault.Has(err, fault.KeyMaterial) {
			t.Fatal(err)
		}
	})
}

// FuzzImport: what is taken as a key of an algorithm loads as one, and comes back from its own sealed form.
func FuzzImport(f *testing.F) {
	e, err := New(software(make([]byte, 32)), Options{Custody: backend.CustodySoftware, Capacity: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close() })
	all := backend.Algorithms()
	for i, info := range all {
		if info.Family == backend.FamilyRSA {
			continue // slow to make; keyenc's fuzz targets have some
		}
		ref, err := e.Generate(f.Context(), backend.Spec{KeyID: uuid.UUID{1}, Version: 1, Algorithm: info.Name, Purpose: info.Purposes[0]})
		if err != nil {
			f.Fatal(err)
		}
		raw, err := e.sealer.Open(f.Context(), ref.Blob[1:], binding(&ref.Spec, info.ID, ref.Spec.Custody, ref.Public))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), []byte(raw))
	}
	f.Fuzz(func(t *testing.T, i uint8, raw []byte) {
		info := all[int(i)%len(all)]
		ref, err := e.Import(t.Context(), backend.Spec{KeyID: uuid.UUID{1}, Version: 1, Algorithm: info.Name, Purpose: info.Purposes[0]}, raw)
		if err != nil {
			if !fault.Has(err, fault.BadImport) {
				t.Fatal(err)
			}
			return
		}
		k, err := e.Load(t.Context(), ref)
		if err != nil {
			t.Fatalf("what was imported does not load: %v", err)
		}
		k.Close()
	})
}
