package backendtest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// testRefs gives the backend every kind of ref that is not, or not quite, one of its own.
func (s *suite) testRefs(t *testing.T) {
	foreign := s.h.Foreign(t, "foreign")
	defer func() {
		if err := foreign.Close(); err != nil {
			t.Errorf("closing the foreign backend: %v", err)
		}
	}()
	if foreign.Info().ID == s.info.ID {
		t.Error("two devices have the same ID")
	}
	for _, k := range s.kinds() {
		t.Run(k.String(), func(t *testing.T) {
			good := s.ref(t, k)
			load(t, s.b, good) // so that a cache has seen it
			bad := alike{code: fault.KeyMaterial}
			refuse := func(what string, r backend.Ref) {
				t.Helper()
				key, err := s.b.Load(t.Context(), r)
				bad.add(t, "Load with "+what, nil, err)
				if key != nil {
					t.Errorf("Load with %s: a handle came out", what)
				}
			}
			s.swappedSpecs(good, refuse)
			swappedPublics(t, k, good, refuse)
			corruptedBlobs(good, refuse)
			if k.Info.Family != backend.FamilyRSA { // another key of RSA costs seconds
				other := s.temporary(t, s.spec(k))
				refuse("another key's blob", with(good, func(r *backend.Ref) { r.Blob = other.Blob }))
				refuse("another key's spec", with(good, func(r *backend.Ref) { r.Spec = other.Spec }))
			}
			key, err := foreign.Load(t.Context(), good)
			bad.add(t, "Load by another device", nil, err)
			if key != nil {
				t.Error("another device gave a handle")
			}
			load(t, s.b, good) // and the good one is as good as before
		})
	}
	for what, r := range map[string]backend.Ref{
		"zero":           {},
		"no blob":        {Spec: s.spec(s.kinds()[0])},
		"unknown format": {Spec: s.spec(s.kinds()[0]), Blob: make([]byte, 64)},
	} {
		_, err := s.b.Load(t.Context(), r)
		want(t, "Load of a ref that is "+what, err, fault.KeyMaterial, fault.Unsupported)
	}
}

func with(r backend.Ref, change func(*backend.Ref)) backend.Ref {
	r = clone(r)
	change(&r)
	return r
}

// swappedSpecs changes each part of the spec.
func (s *suite) swappedSpecs(good backend.Ref, refuse func(string, backend.Ref)) {
	spec := func(what string, change func(*backend.Spec)) {
		refuse(what, with(good, func(r *backend.Ref) { change(&r.Spec) }))
	}
	spec("another tenant", func(s *backend.Spec) { s.Tenant = uuid.New() })
	spec("no tenant", func(s *backend.Spec) { s.Tenant = uuid.Nil })
	spec("another key id", func(s *backend.Spec) { s.KeyID = uuid.New() })
	spec("tenant and key id exchanged", func(s *backend.Spec) { s.Tenant, s.KeyID = s.KeyID, s.Tenant })
	for _, v := range []uint32{0, 2, 256, 1 << 24} {
		spec(fmt.Sprintf("version %d", v), func(s *backend.Spec) { s.Version = v })
	}
	spec("export allowed", func(s *backend.Spec) { s.Exportable = !s.Exportable })
	for _, k := range s.kinds() {
		if k.Algorithm != good.Spec.Algorithm || k.Purpose != good.Spec.Purpose {
			spec(fmt.Sprintf("algorithm %s for %s", k.Algorithm, k.Purpose),
				func(s *backend.Spec) { s.Algorithm, s.Purpose = k.Algorithm, k.Purpose })
		}
		if k.Algorithm != good.Spec.Algorithm && k.Info.Allows(good.Spec.Purpose) {
			spec("algorithm "+string(k.Algorithm), func(s *backend.Spec) { s.Algorithm = k.Algorithm })
		}
	}
	for _, c := range []backend.Custody{backend.CustodyDevice, backend.CustodySealed, backend.CustodySoftware} {
		if c != good.Spec.Custody {
			spec("custody "+string(c), func(s *backend.Spec) { s.Custody = c })
		}
	}
}

// swappedPublics changes the stored public key.
func swappedPublics(t *testing.T, k kind, good backend.Ref, refuse func(string, backend.Ref)) {
	t.Helper()
	public := func(what string, p []byte) {
		t.Helper()
		refuse(what, with(good, func(r *backend.Ref) { r.Public = p }))
	}
	if k.Info.Symmetric() {
		p256, _ := backend.Lookup(backend.ECDSAP256)
		public("a public key for a symmetric key", fresh(t, p256).public)
		return
	}
	public("no public key", nil)
	public("another public key", fresh(t, k.Info).public)
	public("a byte more in the public key", append(slices.Clone(good.Public), 0))
	for _, i := range positions(len(good.Public)) {
		public(fmt.Sprintf("byte %d of the public key flipped", i), flip(good.Public, i))
	}
}

// corruptedBlobs damages the blob.
func corruptedBlobs(good backend.Ref, refuse func(string, backend.Ref)) {
	blob := func(what string, b []byte) { refuse(what, with(good, func(r *backend.Ref) { r.Blob = b })) }
	blob("no blob", nil)
	blob("an empty blob", []byte{})
	blob("a byte more in the blob", append(slices.Clone(good.Blob), 0))
	blob("the blob twice", append(slices.Clone(good.Blob), good.Blob...))
	for _, i := range positions(len(good.Blob)) {
		blob(fmt.Sprintf("byte %d of the blob flipped", i), flip(good.Blob, i))
		blob(fmt.Sprintf("the blob cut to %d", i), good.Blob[:i])
	}
	for v := range 256 { // the first byte is the format's version
		if byte(v) != good.Blob[0] {
			b := slices.Clone(good.Blob)
			b[0] = byte(v)
			blob(fmt.Sprintf("format version %d", v), b)
		}
	}
}

// testDestroy: gone is gone where the device keeps objects, and destroying is idempotent everywhere.
func (s *suite) testDestroy(t *testing.T) {
	kept := func(k kind) bool { return s.info.KeepsObjects && k.Custody == backend.CustodyDevice }
	i := slices.IndexFunc(s.kinds(), func(k kind) bool { return k.Info.Family == backend.FamilyAEAD && kept(k) == s.info.KeepsObjects })
	if i < 0 {
		i = slices.IndexFunc(s.kinds(), func(k kind) bool { return kept(k) == s.info.KeepsObjects })
	}
	if i < 0 {
		t.Fatal("Info says that the device keeps objects, but no key has its custody")
	}
	k := s.kinds()[i]
	ref, other := s.temporary(t, s.spec(k)), s.generate(t, s.spec(k))
	if s.info.KeepsObjects {
		_, err := s.b.Generate(t.Context(), ref.Spec)
		want(t, "Generate with a used id and version", err, fault.Conflict)
		load(t, s.b, ref)
	}
	open := load(t, s.b, ref)
	for range 2 {
		if err := s.b.Destroy(t.Context(), clone(ref)); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	use(t, k, open, "a handle of a destroyed key", fault.KeyMaterial, fault.BackendUnavailable)
	key, err := s.b.Load(t.Context(), ref)
	if s.info.KeepsObjects {
		want(t, "Load after Destroy", err, fault.KeyMaterial)
	} else if err != nil {
		t.Errorf("Info says that the Ref is all there is, but after Destroy it does not load: %v", err)
	}
	if err == nil {
		if err := key.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	// A ref that is not right must not destroy a key that is.
	for what, r := range map[string]backend.Ref{
		"another id":    with(other, func(r *backend.Ref) { r.Spec.KeyID = uuid.New() }),
		"another blob":  with(other, func(r *backend.Ref) { r.Blob = ref.Blob }),
		"a broken blob": with(other, func(r *backend.Ref) { r.Blob = flip(r.Blob, len(r.Blob)-1) }),
		"no blob":       with(other, func(r *backend.Ref) { r.Blob = nil }),
	} {
		if err := s.b.Destroy(t.Context(), r); err != nil {
			want(t, "Destroy with "+what, err, fault.KeyMaterial)
		}
		use(t, k, load(t, s.b, other), "a key after a Destroy with "+what)
	}
}
