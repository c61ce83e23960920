package storetest

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// prune prunes up to end, a batch at a time, as a log does.
func prune(t testing.TB, s Store, end uint64, batch int) {
	t.Helper()
	first, _, err := s.AuditKept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for first < end {
		hashes, err := s.AuditHashes(t.Context(), first, min(batch, int(end-first)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.PruneAudit(t.Context(), first, hashes); err != nil {
			t.Fatalf("pruning %d from %d: %v", len(hashes), first, err)
		}
		first += uint64(len(hashes))
	}
}

// testPruned: what is pruned is its hash, at whatever place, and everything else stays.
func testPruned(t *testing.T, e *env) {
	const n = 1000
	start := now().Add(-n * time.Second)
	all := fill(t, e, n, func(i int) audit.Entry {
		entry := plain(i)
		entry.Time = start.Add(time.Duration(i) * time.Second)
		return entry
	})
	wantKept := func(first uint64, at time.Time) {
		t.Helper()
		got, when, err := e.AuditKept(t.Context())
		if err != nil || got != first || !when.Equal(at) {
			t.Errorf("kept from %d of %v, %v; want %d of %v", got, when, err, first, at)
		}
	}
	hashes, err := e.AuditHashes(t.Context(), 0, n)
	if err != nil {
		t.Fatal(err)
	}
	wantKept(0, start)
	for _, end := range []uint64{1, 5, 255, 256, 300, 900, n - 1} {
		prune(t, e, end, 301)
		wantFault(t, "not the first", e.PruneAudit(t.Context(), end+1, hashes[end+1:min(end+2, n)]), map[bool]fault.Code{true: fault.Conflict, false: fault.Internal}[end < n-1])
		wantFault(t, "pruned before", e.PruneAudit(t.Context(), end-1, hashes[end-1:end]), fault.Conflict)
		wantFault(t, "all that is left", e.PruneAudit(t.Context(), end, hashes[end:]), fault.Conflict)
		wantFault(t, "nothing", e.PruneAudit(t.Context(), end, nil), fault.Internal)
		for range 2 {
			wantKept(end, start.Add(time.Duration(end)*time.Second))
			e.wantPruned(t, all, end)
			e.reopen(t)
		}
	}
	more := fill(t, e, 600, plain)
	e.wantPruned(t, append(all, more...), n-1)
	prune(t, e, n+400, 1000)
	e.wantPruned(t, append(all, more...), n+400)
}

// wantPruned compares the log with its leaves, of which the first are pruned.
func (e *env) wantPruned(t *testing.T, all [][]byte, end uint64) {
	t.Helper()
	n := uint64(len(all))
	wantSame(t, "entries", e.size(t), n)
	for _, c := range []struct {
		from  uint64
		limit int
	}{{0, int(n) + 1}, {0, 1}, {end, 10}, {end - 1, 1}, {end - 1, 2}, {end / 2, 300}, {n, 5}, {n + 500, 5}, {math.MaxInt64, 5}} {
		got, err := e.AuditEntries(t.Context(), c.from, c.limit)
		want := max(int64(min(uint64(c.limit), n-min(c.from, n))), 0)
		if err != nil || int64(len(got)) != want {
			t.Errorf("AuditEntries(%d, %d): %d entries, %v", c.from, c.limit, len(got), err)
			continue
		}
		for i := range got {
			s := &got[i]
			if s.Index != c.from+uint64(i) || s.Pruned() != (s.Index < end) || s.LeafHash() != audit.LeafHash(all[s.Index]) || !s.Pruned() && string(s.Leaf) != string(all[s.Index]) {
				t.Fatalf("AuditEntries(%d, %d): entry %d is not as it should be", c.from, c.limit, s.Index)
			}
		}
	}
	hashes, err := e.AuditHashes(t.Context(), 0, int(n))
	if err != nil || len(hashes) != int(n) {
		t.Fatalf("%d hashes, %v", len(hashes), err)
	}
	for i := range hashes {
		if hashes[i] != audit.LeafHash(all[i]) {
			t.Fatalf("hash %d is wrong", i)
		}
	}
	seen, calls := uint64(0), 0
	for before := uint64(math.MaxInt64); before != 0; calls++ {
		found, next, err := e.AuditSearch(t.Context(), audit.Filter{}, before, 333)
		if err != nil || next >= before {
			t.Fatalf("next %d after %d, %v", next, before, err)
		}
		for _, s := range found {
			seen++
			if s.Pruned() || s.Index < end || string(s.Leaf) != string(all[s.Index]) {
				t.Fatalf("a search finds entry %d", s.Index)
			}
		}
		before = next
	}
	if seen != n-end || calls > int(seen/333)+2 {
		t.Errorf("a search finds %d entries in %d calls, want %d", seen, calls, n-end)
	}
}

// testPrunedTogether: two who prune at once prune once, and who reads meanwhile finds every entry, with its body or without.
func testPrunedTogether(t *testing.T, e *env) {
	const n, step = 600, 50
	all := fill(t, e, n, plain)
	hashes, err := e.AuditHashes(t.Context(), 0, n)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				got, err := e.AuditEntries(t.Context(), 0, n)
				if err != nil || len(got) != n {
					t.Errorf("%d entries, %v", len(got), err)
					return
				}
				for i := range got {
					if got[i].LeafHash() != audit.LeafHash(all[i]) {
						t.Errorf("entry %d is another", i)
						return
					}
				}
			}
		})
	}
	for first := uint64(0); first+step < n; first += step {
		var carried atomic.Int64
		for range 2 {
			writers.Go(func() {
				switch err := e.PruneAudit(t.Context(), first, hashes[first:first+step]); fault.CodeOf(err) {
				case "":
					carried.Add(1)
				case fault.Conflict:
				default:
					t.Errorf("pruning from %d: %v", first, err)
				}
			})
		}
		writers.Wait()
		wantSame(t, fmt.Sprintf("pruned from %d so many times", first), carried.Load(), int64(1))
	}
	done.Store(true)
	readers.Wait()
	e.wantPruned(t, all, n-step)
}
