package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// testAtomic: an item's changes are made together or not at all, and the others of the batch go on.
func testAtomic(t *testing.T, e *env) {
	tenant := uuid.New()
	taken := e.insert(t, tenant, "taken", nil)
	a, av := NewKey(tenant, "a")
	b, bv := NewKey(tenant, "b")
	c, cv := NewKey(tenant, "taken")
	d, dv := NewKey(tenant, "d")
	stale := *taken
	stale.Revision = 99
	batch := []*audit.Item{
		Item(e.InsertKey(a, av)),
		Item(),
		Item(e.InsertKey(b, bv), e.SetDefaultKey(tenant, "encrypt", b.ID), e.InsertKey(c, cv)), // the last fails
		Item(e.UpdateKey(&stale)),
		Item(e.InsertKey(d, dv)),
	}
	batch[1].Err = errors.New("left from another batch")
	var survivors []*audit.Item
	err := e.Commit(t.Context(), batch, func(h audit.Head, items []*audit.Item) (audit.Head, []audit.Node, error) {
		survivors = slices.Clone(items)
		return Extend(h, items)
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []*audit.Item{batch[0], batch[1], batch[4]}; !slices.Equal(survivors, want) {
		t.Errorf("extend was called with %d items, or in another order", len(survivors))
	}
	for i, code := range []fault.Code{"", "", fault.NameTaken, fault.Conflict, ""} {
		wantFault(t, fmt.Sprintf("item %d", i), batch[i].Err, code)
	}
	for range 2 {
		checkLog(t, e, [][]byte{mustLeaf(t, e, 0), batch[0].Leaf, batch[1].Leaf, batch[4].Leaf})
		for name, code := range map[string]fault.Code{"a": "", "b": fault.KeyNotFound, "taken": "", "d": ""} {
			_, err := e.KeyByName(t.Context(), tenant, name)
			wantFault(t, name, err, code)
		}
		_, err = e.DefaultKey(t.Context(), tenant, "encrypt")
		wantFault(t, "default of a failed item", err, fault.NoDefaultKey)
		_, err = e.Version(t.Context(), b.ID, 1)
		wantFault(t, "version of a failed item", err, fault.VersionNotFound)
		e.reopen(t)
	}
}

func mustLeaf(t *testing.T, e *env, index uint64) []byte {
	t.Helper()
	got, err := e.AuditEntries(t.Context(), index, 1)
	if err != nil || len(got) != 1 {
		t.Fatalf("entry %d: %d, %v", index, len(got), err)
	}
	return got[0].Leaf
}

// testConflictsInBatch: items of one batch see the changes of those before them.
func testConflictsInBatch(t *testing.T, e *env) {
	tenant := uuid.New()
	a, av := NewKey(tenant, "same")
	b, bv := NewKey(tenant, "same")
	renamed := *a
	renamed.Name = "other"
	again := renamed
	batch := []*audit.Item{
		Item(e.InsertKey(a, av)), Item(e.InsertKey(b, bv)),
		Item(e.UpdateKey(&renamed)), Item(e.UpdateKey(&again)),
		Item(e.InsertKey(b, bv)), Item(e.InsertKey(a, av)),
	}
	if err := e.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	for i, code := range []fault.Code{"", fault.NameTaken, "", fault.Conflict, "", fault.Conflict} {
		wantFault(t, fmt.Sprintf("item %d", i), batch[i].Err, code)
	}
	wantSame(t, "entries", e.size(t), uint64(3))
}

func testExtendFails(t *testing.T, e *env) {
	k, v := NewKey(uuid.New(), "k")
	err := e.Commit(t.Context(), []*audit.Item{Item(e.InsertKey(k, v))}, func(h audit.Head, _ []*audit.Item) (audit.Head, []audit.Node, error) {
		return h, nil, errExtend
	})
	if !errors.Is(err, errExtend) {
		t.Errorf("got %v, want the error of extend", err)
	}
	_, err = e.KeyByID(t.Context(), k.Tenant, k.ID)
	wantFault(t, "key of a batch that was not extended", err, fault.KeyNotFound)
	wantSame(t, "entries", e.size(t), uint64(0))
	e.must(t, e.InsertKey(k, v))

	func() { // a panic leaves the store usable
		defer func() {
			if recover() == nil {
				t.Error("the panic of extend was swallowed")
			}
		}()
		err := e.Commit(t.Context(), []*audit.Item{Item()}, func(audit.Head, []*audit.Item) (audit.Head, []audit.Node, error) {
			panic("extend")
		})
		t.Errorf("Commit returned %v", err)
	}()
	e.must(t)
	wantSame(t, "entries", e.size(t), uint64(2))
}

// testExtendLies: a head that does not come from the stored one by the new entries would break the tree for good.
func testExtendLies(t *testing.T, e *env) {
	e.must(t)
	for name, lie := range map[string]func(h *audit.Head, items []*audit.Item){
		"size":  func(h *audit.Head, _ []*audit.Item) { h.Size++ },
		"index": func(_ *audit.Head, items []*audit.Item) { items[1].Index-- },
		"order": func(_ *audit.Head, items []*audit.Item) {
			items[0].Index, items[1].Index = items[1].Index, items[0].Index
		},
	} {
		err := e.Commit(t.Context(), []*audit.Item{Item(), Item()}, func(h audit.Head, items []*audit.Item) (audit.Head, []audit.Node, error) {
			h, nodes, err := Extend(h, items)
			lie(&h, items)
			return h, nodes, err
		})
		if err == nil {
			t.Errorf("%s: stored", name)
		}
		wantSame(t, name+": entries", e.size(t), uint64(1))
	}
	e.reopen(t)
	e.must(t)
}

type foreignChange struct{}

func (foreignChange) StoreChange() {}

func testForeignChange(t *testing.T, e *env) {
	wantFault(t, "a change of another store", e.do(t, foreignChange{}), fault.Internal)
	wantSame(t, "entries", e.size(t), uint64(0))
}

// testAllFail: a batch of which nothing survives is no error, and leaves the log as it is.
func testAllFail(t *testing.T, e *env) {
	e.must(t)
	before, err := e.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, "item", e.do(t, e.DeleteSlot(uuid.New())), fault.SlotNotFound)
	after, err := e.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "head", after, before)
	if err := e.Commit(t.Context(), nil, Extend); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
}

func testDurable(t *testing.T, e *env) {
	tenant := uuid.New()
	var all [][]byte
	for round := range 3 {
		for i := range 20 {
			k, v := NewKey(tenant, fmt.Sprintf("k%d-%d", round, i))
			item := Item(e.InsertKey(k, v))
			if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil || item.Err != nil {
				t.Fatal(err, item.Err)
			}
			all = append(all, item.Leaf)
		}
		e.reopen(t)
		checkLog(t, e, all)
		got, err := e.Keys(t.Context(), tenant, keys.Filter{}, "", 1000)
		if err != nil || len(got) != len(all) {
			t.Fatalf("%d keys of %d, %v", len(got), len(all), err)
		}
	}
}

// testEnded: a context that ends before or during a Commit stores nothing, and the next one goes on.
func testEnded(t *testing.T, e *env) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{ended, late} {
		wantFault(t, "ended before", e.Commit(ctx, []*audit.Item{Item()}, Extend), fault.Timeout)
		wantFault(t, "checkpoint", e.SaveCheckpoint(ctx, 0, []byte("note")), fault.Timeout)
	}
	during, cancel := context.WithCancel(t.Context())
	k, v := NewKey(uuid.New(), "k")
	err := e.Commit(during, []*audit.Item{Item(e.InsertKey(k, v))}, func(h audit.Head, items []*audit.Item) (audit.Head, []audit.Node, error) {
		cancel()
		return Extend(h, items)
	})
	wantFault(t, "ended during", err, fault.Timeout)
	wantSame(t, "entries", e.size(t), uint64(0))
	e.must(t, e.InsertKey(k, v))

	// One that waits for another Commit gives up when its context ends.
	waiting, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = e.Commit(t.Context(), []*audit.Item{Item()}, func(h audit.Head, items []*audit.Item) (audit.Head, []audit.Node, error) {
		wantFault(t, "waiting", e.Commit(waiting, []*audit.Item{Item()}, Extend), fault.Timeout)
		return Extend(h, items)
	})
	if err != nil {
		t.Error(err)
	}
	wantSame(t, "entries", e.size(t), uint64(2))
}

// testConcurrentCommits: commits from many goroutines are one after another.
func testConcurrentCommits(t *testing.T, e *env) {
	const workers, each = 8, 20
	var mu sync.Mutex // guards all
	all := map[uint64][]byte{}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range each {
				batch := []*audit.Item{Item(), Item()}
				if err := e.Commit(t.Context(), batch, Extend); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, it := range batch {
					all[it.Index] = it.Leaf
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	ordered := make([][]byte, 0, len(all))
	for i := range uint64(workers * each * 2) {
		ordered = append(ordered, all[i])
	}
	checkLog(t, e, ordered)
}

// testReadersDuringCommits: readers see whole items or nothing of them, and what was committed before they began.
func testReadersDuringCommits(t *testing.T, e *env) {
	tenant := uuid.New()
	k := e.insert(t, tenant, "k", nil)
	id := k.ID
	stop, stopped := context.WithCancel(t.Context())
	defer stopped()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for last := int64(0); stop.Err() == nil; {
				before, err := e.AuditHead(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				read, err := e.KeyByID(t.Context(), tenant, id)
				if err != nil {
					t.Error(err)
					return
				}
				// Each commit after the first adds one entry, one version and one revision.
				if read.Revision < last || read.Revision < int64(before.Size) || read.LatestVersion != uint32(read.Revision) {
					t.Errorf("revision %d, version %d, after %d, head %d", read.Revision, read.LatestVersion, last, before.Size)
					return
				}
				last = read.Revision
				if _, err := e.Version(t.Context(), id, read.LatestVersion); err != nil {
					t.Errorf("the latest version: %v", err)
					return
				}
			}
		})
	}
	for range 150 {
		next := *k
		next.LatestVersion++
		_, v := NewKey(tenant, "")
		v.KeyID, v.Version = k.ID, next.LatestVersion
		e.must(t, e.UpdateKey(&next), e.InsertVersion(v))
		next.Revision++
		k = &next
	}
	stopped()
	group.Wait()
}
