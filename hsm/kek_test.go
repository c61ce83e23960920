package hsm_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/softhsm-test/rig"
)

func sealedSpec() backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption, Custody: backend.CustodySealed}
}

func generations(t *testing.T, b *hsm.Backend) (out []uint32) {
	t.Helper()
	list, err := b.KEKs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range list {
		out = append(out, k.Generation)
		if k.Newest != (i == len(list)-1) {
			t.Errorf("%+v", list)
		}
	}
	return out
}

// The sealing key of a token has generations: two processes on it agree, and a retired one opens nothing.
func TestSealingGenerations(t *testing.T) {
	p := rig.SoftHSM(t)
	o := how{processes: 1, change: allowSealed}
	b := o.open(t, "one", p)
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	beside := how{processes: 1, change: allowSealed}.open(t, "two", p)
	defer func() {
		if err := beside.Close(); err != nil {
			t.Error(err)
		}
	}()
	old, err := b.Generate(t.Context(), sealedSpec())
	if err != nil {
		t.Fatal(err)
	}
	slot, err := b.Seal(t.Context(), []byte("root"), []byte("slot"))
	if err != nil || b.SealedGeneration(slot) != 1 || b.Generation(old) != 1 || b.Stale(old) {
		t.Fatalf("generations %d and %d, %v", b.SealedGeneration(slot), b.Generation(old), err)
	}
	resident, err := b.Generate(t.Context(), backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.ECDSAP256, Purpose: backend.PurposeSigning})
	if err != nil || b.Generation(resident) != 0 || b.Stale(resident) {
		t.Fatalf("a key on the token is under a sealing key: %v", err)
	}
	if err := b.RetireKEK(t.Context(), 1); !fault.Has(err, fault.Conflict) {
		t.Errorf("the newest was retired: %v", err)
	}
	for want := uint32(2); want <= 3; want++ {
		if g, err := b.RotateKEK(t.Context()); g != want || err != nil {
			t.Fatalf("generation %d, %v", g, err)
		}
	}
	if diff := cmp.Diff([]uint32{1, 2, 3}, generations(t, b)); diff != "" {
		t.Error(diff)
	}
	if !b.Stale(old) || b.Stale(resident) {
		t.Error("what is stale is not told")
	}
	fresh, err := b.Reseal(t.Context(), old)
	if err != nil || b.Generation(fresh) != 3 || b.Stale(fresh) {
		t.Fatalf("generation %d, %v", b.Generation(fresh), err)
	}
	if same, err := b.Reseal(t.Context(), resident); err != nil || !cmp.Equal(same, resident) {
		t.Errorf("a key on the token was made another: %v", err)
	}
	// The other process has heard of nothing, and opens it.
	key, err := beside.Load(t.Context(), fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Error(err)
	}
	if out, err := beside.Seal(t.Context(), []byte("x"), nil); err != nil || beside.SealedGeneration(out) != 3 {
		t.Errorf("generation %d, %v", beside.SealedGeneration(out), err)
	}
	if err := b.RetireKEK(t.Context(), 2); !fault.Has(err, fault.Conflict) {
		t.Errorf("the second was retired before the first: %v", err)
	}
	if plain, err := b.Open(t.Context(), slot, []byte("slot")); err != nil || string(plain) != "root" {
		t.Errorf("opened %q, %v", plain, err)
	}
	for g := uint32(1); g <= 2; g++ {
		for range 2 { // once more is no error
			if err := b.RetireKEK(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := b.Open(t.Context(), slot, []byte("slot")); err == nil {
		t.Error("a text under a retired key opens")
	}
	if diff := cmp.Diff([]uint32{3}, generations(t, b)); diff != "" {
		t.Error(diff)
	}
	// The first is not made again by a start, nor do numbers begin again.
	again := o.open(t, "three", p)
	if diff := cmp.Diff([]uint32{3}, generations(t, again)); diff != "" {
		t.Error(diff)
	}
	key, err = again.Load(t.Context(), fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Error(err)
	}
	if g, err := again.RotateKEK(t.Context()); g != 4 || err != nil {
		t.Errorf("generation %d, %v", g, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A group of tokens that do not replicate keeps what it has.
func TestSealingGroup(t *testing.T) {
	p := rig.SoftHSM(t)
	b := how{processes: 1, change: func(o *hsm.Options) { allowSealed(o); o.Sharing, o.ID = hsm.SharingPinned, "hsm-pinned" }}.open(t, "pinned", p, p.Another(t, "other"))
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	var made []backend.Ref
	for range 16 { // on both, by weight
		r, err := b.Generate(t.Context(), sealedSpec())
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, r)
	}
	if g, err := b.RotateKEK(t.Context()); g != 2 || err != nil {
		t.Fatalf("generation %d, %v", g, err)
	}
	for _, r := range made {
		fresh, err := b.Reseal(t.Context(), r)
		if err != nil || !b.Stale(r) || b.Stale(fresh) || b.Generation(fresh) != 2 {
			t.Fatalf("%v", err)
		}
	}
}

// The parser takes one form and gives back what it took.
func FuzzSealedText(f *testing.F) {
	f.Add([]byte("\x01\x01\x03abcbody"))
	f.Add([]byte("\x02\x01\x00\x00\x00\x02\x03abcbody"))
	f.Add([]byte("\x02\x02\x00\x00\x00\x01\x03abcbody"))
	f.Add([]byte("\x02\x02\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		generation, header, body, ok := hsm.ParseSealedText(b)
		if !ok {
			return
		}
		if generation == 0 || !bytes.Equal(slices.Concat(header, body), b) {
			t.Fatalf("generation %d, %d and %d bytes of %d", generation, len(header), len(body), len(b))
		}
		if (b[0] == 1) != (generation == 1) {
			t.Fatalf("generation %d in version %d", generation, b[0])
		}
	})
}
