package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// Shared opens two stores on one empty set of data, as two nodes do, and gives a function that opens a third. They fail the
// test when they cannot. The suite closes what it opens.
type Shared func(t *testing.T) (a, b Store, another func(t *testing.T) Store)

// RunShared is the suite of stores that several nodes may have open at once. They pass Run as well.
func RunShared(t *testing.T, shared Shared) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, nodes [2]*env, another func(t *testing.T) Store)
	}{
		{"Append", testSharedAppend},
		{"Changes", testSharedChanges},
		{"Uses", testSharedUses},
		{"Services", testSharedServices},
		{"Logs", testSharedLogs},
		{"News", testSharedNews},
		{"Leases", testSharedLeases},
		{"Jobs", testSharedJobs},
		{"Rates", testSharedRates},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b, another := shared(t)
			nodes := [2]*env{{Store: a}, {Store: b}}
			for _, n := range nodes {
				t.Cleanup(func() {
					if err := n.Close(); err != nil {
						t.Errorf("closing: %v", err)
					}
				})
			}
			test.run(t, nodes, another)
		})
	}
}

// testSharedAppend: two stores that append at once make one log, without a lost or a doubled entry, and each sees at once what the
// other has committed.
func testSharedAppend(t *testing.T, nodes [2]*env, _ func(t *testing.T) Store) {
	const each = 40
	var mu sync.Mutex // guards all
	all := map[uint64][]byte{}
	var group sync.WaitGroup
	for n, e := range nodes {
		group.Go(func() {
			for i := range each {
				batch := []*audit.Item{Item(), Item(), Item()}[:1+(i+n)%3]
				if err := e.Commit(t.Context(), batch, Extend); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, it := range batch {
					if all[it.Index] != nil {
						t.Errorf("two entries have the number %d", it.Index)
					}
					all[it.Index] = it.Leaf
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for i := range 4 { // one after another, each on top of the other's
		it := Item()
		if err := nodes[i%2].Commit(t.Context(), []*audit.Item{it}, Extend); err != nil {
			t.Fatal(err)
		}
		all[it.Index] = it.Leaf
		wantSame(t, "size on the other node", nodes[1-i%2].size(t), it.Index+1)
	}
	var ordered [][]byte
	for i := range uint64(len(all)) {
		ordered = append(ordered, all[i])
	}
	for _, e := range nodes {
		checkLog(t, e, ordered)
	}
}

// testSharedChanges: what only one may do, only one does, over both nodes.
func testSharedChanges(t *testing.T, nodes [2]*env, _ func(t *testing.T) Store) {
	tenant := uuid.New()
	k := nodes[0].insert(t, tenant, "counted", nil)
	const limit = 15
	var counted, named, slots atomic.Int64
	var group sync.WaitGroup
	for _, e := range nodes {
		group.Go(func() {
			for i := range 12 {
				fresh, v := NewKey(tenant, fmt.Sprintf("name-%d", i))
				batch := []*audit.Item{Item(e.AddUses(k.ID, 1, limit)), Item(e.InsertKey(fresh, v)), Item(e.InsertFirstSlot(newSlot()))}
				if err := e.Commit(t.Context(), batch, Extend); err != nil {
					t.Error(err)
					return
				}
				for j, c := range []struct {
					n    *atomic.Int64
					code fault.Code
				}{{&counted, fault.UsageLimit}, {&named, fault.NameTaken}, {&slots, fault.Conflict}} {
					if batch[j].Err == nil {
						c.n.Add(1)
						continue
					}
					wantFault(t, "the second", batch[j].Err, c.code)
				}
			}
		})
	}
	group.Wait()
	wantSame(t, "uses", counted.Load(), int64(limit))
	wantSame(t, "keys", named.Load(), int64(12))
	wantSame(t, "first slots", slots.Load(), int64(1))
	for _, e := range nodes {
		got, err := e.KeyByID(t.Context(), tenant, k.ID)
		if err != nil || got.Uses != limit {
			t.Errorf("uses %+v, %v", got, err)
		}
		wantSame(t, "entries", e.size(t), uint64(1+limit+12+1))
	}
}

// testSharedLogs: two audit logs over the two stores are one log, and a third opens while they grow.
func testSharedLogs(t *testing.T, nodes [2]*env, another func(t *testing.T) Store) {
	const workers, each = 6, 25
	var logs [2]*audit.Log
	for i, e := range nodes {
		var err error
		if logs[i], err = audit.Open(t.Context(), e, audit.Options{Origin: "example.org/log"}); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex // guards indices
	var indices []uint64
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for range each {
				entry := audit.Entry{Principal: fmt.Sprint("worker-", w), Action: "test", Outcome: "ok"}
				index, err := logs[w%2].Record(t.Context(), &entry)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				indices = append(indices, index)
				mu.Unlock()
			}
		})
	}
	third := another(t)
	for range 5 {
		late, err := audit.Open(t.Context(), third, audit.Options{Origin: "example.org/log"})
		if err != nil {
			t.Errorf("opening beside two that append: %v", err)
			break
		}
		if err := late.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	for _, l := range logs {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(indices)
	for i, index := range indices {
		if index != uint64(i) {
			t.Fatalf("the %d-th entry has the number %d", i, index)
		}
	}
	entries, err := third.AuditEntries(t.Context(), 0, len(indices)+1)
	if err != nil || len(entries) != workers*each {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	leaves := make([][]byte, len(entries))
	for i := range entries {
		leaves[i] = entries[i].Leaf
	}
	checkLog(t, &env{Store: third}, leaves)
	if err := third.Close(); err != nil {
		t.Error(err)
	}
}
