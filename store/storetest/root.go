package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/root"
)

func laterSlot(generation uint32) *root.Slot {
	s := newSlot()
	s.Generation = generation
	return s
}

func newKept(kind root.KeptKind, under, generation uint32, label string) *root.Kept {
	return &root.Kept{Kind: kind, Under: under, Generation: generation, Label: label, Sealed: []byte("sealed " + label), CreatedAt: now()}
}

// testReplaceRoot: slots and keyring are replaced together or not at all, and what is of another generation does not get in.
func testReplaceRoot(t *testing.T, e *env) {
	want := func(what string, generation uint32, slots []*root.Slot, kept []*root.Kept) {
		t.Helper()
		for range 2 {
			now, ring, err := e.Keyring(t.Context())
			if err != nil || now != generation {
				t.Fatalf("%s: generation %d, %v", what, now, err)
			}
			wantSame(t, what+": keyring", ring, kept)
			got, err := e.Slots(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, what+": slots", got, slots)
			e.reopen(t)
		}
	}
	first := laterSlot(1)
	want("empty", 1, nil, nil)
	wantFault(t, "the first slot of a later root", e.do(t, e.InsertFirstSlot(laterSlot(2))), fault.Conflict)
	e.must(t, e.InsertFirstSlot(first))
	want("one slot", 1, []*root.Slot{first}, nil)
	wantFault(t, "a slot of a later root", e.do(t, e.InsertSlot(laterSlot(2))), fault.Conflict)
	wantFault(t, "from a later root", e.do(t, e.ReplaceRoot(2, []*root.Slot{laterSlot(3)}, nil)), fault.Conflict)
	if err := e.do(t, e.ReplaceRoot(1, nil, nil)); err == nil {
		t.Error("a root without a slot")
	}
	same := newKept(root.KeptCarried, 2, 0, "same")
	wantFault(t, "two entries of one name", e.do(t, e.ReplaceRoot(1, []*root.Slot{laterSlot(2)}, []*root.Kept{same, same})), fault.Conflict)
	want("nothing has changed", 1, []*root.Slot{first}, nil)

	a, b := laterSlot(2), laterSlot(2)
	b.CreatedAt = a.CreatedAt.Add(time.Second)
	kept := []*root.Kept{newKept(root.KeptCarried, 2, 0, "keywright/v1/a"), newKept(root.KeptCarried, 2, 0, "keywright/v1/b"),
		newKept(root.KeptNext, 1, 2, ""), newKept(root.KeptPrevious, 2, 1, "")}
	e.must(t, e.ReplaceRoot(1, []*root.Slot{b, a}, kept))
	want("replaced", 2, []*root.Slot{a, b}, kept)
	wantFault(t, "a slot of the old root", e.do(t, e.InsertSlot(laterSlot(1))), fault.Conflict)
	wantFault(t, "once more from the first", e.do(t, e.ReplaceRoot(1, []*root.Slot{laterSlot(2)}, nil)), fault.Conflict)
	c := laterSlot(2)
	c.CreatedAt = b.CreatedAt.Add(time.Second)
	e.must(t, e.InsertSlot(c), e.DeleteSlot(a.ID))
	want("changed since", 2, []*root.Slot{b, c}, kept)

	wantFault(t, "forgetting of another generation", e.do(t, e.ForgetKept(1, root.KeptPrevious)), fault.Conflict)
	e.must(t, e.ForgetKept(2, root.KeptNext))
	want("without the next", 2, []*root.Slot{b, c}, append(kept[:2:2], kept[3]))
	e.must(t, e.ForgetKept(2, root.KeptNext, root.KeptPrevious))
	want("without the previous", 2, []*root.Slot{b, c}, kept[:2])
	e.must(t, e.ForgetKept(2, root.KeptPrevious))

	d := laterSlot(3)
	e.must(t, e.ReplaceRoot(2, []*root.Slot{d}, nil))
	want("a third", 3, []*root.Slot{d}, nil)
}

// testReplaceRace: of several that replace the same root one does.
func testReplaceRace(t *testing.T, e *env) {
	e.must(t, e.InsertFirstSlot(laterSlot(1)))
	var won atomic.Int32
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			item := Item(e.ReplaceRoot(1, []*root.Slot{laterSlot(2)}, nil))
			if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
				t.Error(err)
			}
			if item.Err == nil {
				won.Add(1)
				return
			}
			wantFault(t, "a second replacement", item.Err, fault.Conflict)
		})
	}
	group.Wait()
	generation, _, err := e.Keyring(t.Context())
	slots, failed := e.Slots(t.Context())
	if err != nil || failed != nil || generation != 2 || len(slots) != 1 || won.Load() != 1 {
		t.Errorf("generation %d, %d slots, %d won, %v, %v", generation, len(slots), won.Load(), err, failed)
	}
}

// testMaterial: every version with material is listed once, whatever the pages.
func testMaterial(t *testing.T, e *env) {
	none, err := e.Material(t.Context(), keys.Position{}, 10)
	wantSame(t, "none", none, []*keys.Stored(nil))
	if n, failed := e.CountMaterial(t.Context()); n != 0 || err != nil || failed != nil {
		t.Fatal(n, err, failed)
	}
	want := map[keys.Position]*keys.Stored{}
	for i := range 5 {
		k, v := NewKey(uuid.New(), "with-material")
		k.Internal = i == 4
		v.Blob = []byte{1, byte(i)}
		e.must(t, e.InsertKey(k, v))
		want[keys.Position{Key: k.ID, Version: v.Version}] = &keys.Stored{Version: *v, Tenant: k.Tenant, Algorithm: k.Algorithm, Purpose: k.Purpose}
		for n := range uint32(i) {
			more := *v
			more.Version += n + 1
			if n == 1 { // destroyed, or without a private part
				more.Blob = nil
			} else {
				want[keys.Position{Key: k.ID, Version: more.Version}] = &keys.Stored{Version: more, Tenant: k.Tenant, Algorithm: k.Algorithm, Purpose: k.Purpose}
			}
			e.must(t, e.InsertVersion(&more))
		}
	}
	if n, err := e.CountMaterial(t.Context()); n != int64(len(want)) || err != nil {
		t.Errorf("%d counted of %d, %v", n, len(want), err)
	}
	for _, limit := range []int{1, 3, 100} {
		seen := 0
		for at := (keys.Position{}); ; {
			page, err := e.Material(t.Context(), at, limit)
			if err != nil || len(page) > limit {
				t.Fatal(len(page), err)
			}
			if len(page) == 0 {
				break
			}
			for _, v := range page {
				at = keys.Position{Key: v.KeyID, Version: v.Version.Version}
				wantSame(t, "a version", v, want[at])
				seen++
			}
		}
		if seen != len(want) {
			t.Errorf("%d seen of %d by %d", seen, len(want), limit)
		}
	}
}
