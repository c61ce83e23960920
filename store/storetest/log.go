package storetest

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/audit"
)

func testEmptyLog(t *testing.T, e *env) {
	head, err := e.AuditHead(t.Context())
	if err != nil || head.Size != 0 || len(head.Range) != 0 {
		t.Errorf("head of a new store: %+v, %v", head, err)
	}
	entries, err := e.AuditEntries(t.Context(), 0, 10)
	if err != nil || len(entries) != 0 {
		t.Errorf("entries of a new store: %v, %v", entries, err)
	}
	found, next, err := e.AuditSearch(t.Context(), audit.Filter{}, math.MaxInt64, 10)
	if err != nil || len(found) != 0 || next != 0 {
		t.Errorf("search of a new store: %v, %d, %v", found, next, err)
	}
	note, err := e.Checkpoint(t.Context())
	if err != nil || note != nil {
		t.Errorf("checkpoint of a new store: %q, %v", note, err)
	}
	if err := e.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	if _, err := e.AuditNodes(t.Context(), []audit.Node{{Level: audit.NodeLevel}}); err == nil {
		t.Error("a node that is not stored was given")
	}
}

// fill commits n entries in batches of many sizes and gives their leaves.
func fill(t *testing.T, e *env, n int, entry func(i int) audit.Entry) [][]byte {
	t.Helper()
	var all [][]byte
	for size := 1; len(all) < n; size = size*2 + 1 {
		var batch []*audit.Item
		for range min(size, n-len(all)) {
			item := ItemOf(entry(len(all)))
			batch, all = append(batch, item), append(all, item.Leaf)
		}
		if size > 300 {
			size = 1
		}
		if err := e.Commit(t.Context(), batch, Extend); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func plain(int) audit.Entry {
	return audit.Entry{Principal: "system", Action: "test", Outcome: "ok"}
}

// testOrder: indices without a gap in the order of the batches, and a head, nodes and hashes that are those of the leaves.
func testOrder(t *testing.T, e *env) {
	const n = 1200
	all := fill(t, e, n, plain)
	for range 2 {
		checkLog(t, e, all)
		for _, c := range []struct {
			from  uint64
			limit int
			want  int
		}{{0, 1, 1}, {5, 300, 300}, {n - 3, 10, 3}, {n, 10, 0}, {math.MaxInt64, 1, 0}, {math.MaxUint64, 1, 0}, {0, 0, 0}} {
			got, err := e.AuditEntries(t.Context(), c.from, c.limit)
			if err != nil || len(got) != c.want {
				t.Errorf("AuditEntries(%d, %d): %d entries, %v", c.from, c.limit, len(got), err)
			}
		}
		short, err := e.AuditHashes(t.Context(), n-2, 10)
		if err != nil || len(short) != 2 {
			t.Errorf("hashes at the end of the log: %d, %v", len(short), err)
		}
		if _, err := e.AuditNodes(t.Context(), []audit.Node{{Level: audit.NodeLevel, Index: n >> audit.NodeLevel}}); err == nil {
			t.Error("a node that is not complete was given")
		}
		e.reopen(t)
	}
}

// checkLog compares the whole log with its leaves, the tree by an implementation of its own.
func checkLog(t *testing.T, e *env, all [][]byte) {
	t.Helper()
	entries, err := e.AuditEntries(t.Context(), 0, len(all)+1)
	if err != nil || len(entries) != len(all) {
		t.Fatalf("%d entries of %d, %v", len(entries), len(all), err)
	}
	var stored []tlog.Hash // as tlog lays them out
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			out[i] = stored[at]
		}
		return out, nil
	})
	for i, entry := range entries {
		if entry.Index != uint64(i) || !slices.Equal(entry.Leaf, all[i]) {
			t.Fatalf("entry %d is not the one that was recorded", i)
		}
		more, err := tlog.StoredHashes(int64(i), entry.Leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	head, err := e.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "size", head.Size, uint64(len(all)))
	want, err := tlog.TreeHash(int64(len(all)), reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(head.Range) > 0 {
		got := tlog.Hash(head.Range[len(head.Range)-1])
		for i := len(head.Range) - 2; i >= 0; i-- {
			got = tlog.NodeHash(head.Range[i], got)
		}
		wantSame(t, "root hash", got, want)
	}
	hashes, err := e.AuditHashes(t.Context(), 0, len(all))
	if err != nil || len(hashes) != len(all) {
		t.Fatalf("%d hashes, %v", len(hashes), err)
	}
	for i := range hashes {
		if hashes[i] != tlog.RecordHash(all[i]) {
			t.Fatalf("hash %d is wrong", i)
		}
	}
	var ask []audit.Node
	for level := audit.NodeLevel; len(all)>>level > 0; level++ {
		for i := range len(all) >> level {
			ask = append(ask, audit.Node{Level: uint8(level), Index: uint64(i)})
		}
	}
	slices.Reverse(ask) // the order asked is the order given
	nodes, err := e.AuditNodes(t.Context(), ask)
	if err != nil || len(nodes) != len(ask) {
		t.Fatalf("%d nodes of %d, %v", len(nodes), len(ask), err)
	}
	for i, n := range ask {
		if nodes[i] != stored[tlog.StoredHashIndex(int(n.Level), int64(n.Index))] {
			t.Errorf("node %d of level %d is wrong", n.Index, n.Level)
		}
	}
}

func testSearch(t *testing.T, e *env) {
	a, b := uuid.New(), uuid.New()
	key := uuid.New()
	entries := []audit.Entry{
		{Tenant: a, Key: key, Principal: "p", Action: "encrypt", Outcome: "ok"},
		{Tenant: a, Key: key, Principal: "q", Action: "decrypt", Outcome: "ERR_X"},
		{Tenant: b, Principal: "p", Action: "encrypt", Outcome: "ok"},
		{Principal: "system", Action: "start", Outcome: "ok"},
		{Tenant: a, Key: uuid.New(), Principal: "p", Action: "encrypt", Outcome: "ERR_X"},
	}
	for i := range entries {
		entries[i].Time = now().Add(time.Duration(i-10) * time.Hour)
	}
	all := fill(t, e, len(entries), func(i int) audit.Entry { return entries[i] })
	none := uuid.Nil
	for _, c := range []struct {
		name string
		f    audit.Filter
		want []int
	}{
		{"all", audit.Filter{}, []int{4, 3, 2, 1, 0}},
		{"tenant", audit.Filter{Tenant: &a}, []int{4, 1, 0}},
		{"no tenant", audit.Filter{Tenant: &none}, []int{3}},
		{"key", audit.Filter{Key: &key}, []int{1, 0}},
		{"no key", audit.Filter{Key: &none}, []int{3, 2}},
		{"principal", audit.Filter{Principal: "p"}, []int{4, 2, 0}},
		{"action", audit.Filter{Action: "encrypt"}, []int{4, 2, 0}},
		{"outcome", audit.Filter{Outcome: "ERR_X"}, []int{4, 1}},
		{"tenant, action and outcome", audit.Filter{Tenant: &a, Action: "encrypt", Outcome: "ok"}, []int{0}},
		{"from", audit.Filter{From: entries[3].Time}, []int{4, 3}},
		{"to", audit.Filter{To: entries[1].Time}, []int{0}},
		{"from and to", audit.Filter{From: entries[1].Time, To: entries[4].Time}, []int{3, 2, 1}},
		{"nothing", audit.Filter{Principal: "nobody"}, nil},
		{"like a pattern", audit.Filter{Action: "e%"}, nil},
	} {
		for _, limit := range []int{1, 2, 100} {
			var got []int
			for before := uint64(math.MaxInt64); before != 0; {
				found, next, err := e.AuditSearch(t.Context(), c.f, before, limit)
				if err != nil {
					t.Fatal(err)
				}
				if len(found) > limit || next >= before {
					t.Fatalf("%s: %d found for limit %d, next %d after %d", c.name, len(found), limit, next, before)
				}
				for _, s := range found {
					got = append(got, int(s.Index))
					if !slices.Equal(s.Leaf, all[s.Index]) {
						t.Errorf("%s: wrong leaf at %d", c.name, s.Index)
					}
				}
				before = next
			}
			wantSame(t, fmt.Sprintf("%s by %d", c.name, limit), got, c.want)
		}
	}
	found, next, err := e.AuditSearch(t.Context(), audit.Filter{}, 2, 100)
	if err != nil || len(found) != 2 || found[0].Index != 1 || next != 0 {
		t.Errorf("below 2: %d found, next %d, %v", len(found), next, err)
	}
}

// testSearchInTime: a time bound holds for entries that were not committed in the order of their times.
func testSearchInTime(t *testing.T, e *env) {
	at := now()
	fill(t, e, 3, func(i int) audit.Entry {
		entry := plain(i)
		entry.Time = at.Add([]time.Duration{0, time.Minute, -time.Minute}[i])
		return entry
	})
	found, next, err := e.AuditSearch(t.Context(), audit.Filter{From: at}, math.MaxInt64, 10)
	if err != nil || next != 0 || len(found) != 2 || found[0].Index != 1 || found[1].Index != 0 {
		t.Errorf("%d found, next %d, %v", len(found), next, err)
	}
}

// testSearchBounded: a search that finds nothing gives up after a bounded number of entries, and goes on to the very first.
func testSearchBounded(t *testing.T, e *env) {
	const n = 120_000
	for made := 0; made < n; {
		var batch []*audit.Item
		for range 4000 {
			entry := plain(made)
			if made == 0 {
				entry.Action = "first"
			}
			batch = append(batch, ItemOf(entry))
			made++
		}
		if err := e.Commit(t.Context(), batch, Extend); err != nil {
			t.Fatal(err)
		}
	}
	calls, got := 0, 0
	for before := uint64(math.MaxInt64); before != 0; calls++ {
		found, next, err := e.AuditSearch(t.Context(), audit.Filter{Action: "first"}, before, 10)
		if err != nil || next >= before {
			t.Fatalf("next %d after %d, %v", next, before, err)
		}
		got += len(found)
		before = next
	}
	if got != 1 || calls < 2 || calls > 100 {
		t.Errorf("%d found in %d calls", got, calls)
	}
}

func testCheckpoint(t *testing.T, e *env) {
	keepsNewest(t, e, func(size uint64, note []byte) error { return e.SaveCheckpoint(t.Context(), size, note) },
		func() ([]byte, error) { return e.Checkpoint(t.Context()) })
	keepsNewest(t, e, func(size uint64, note []byte) error { return e.SaveCosigned(t.Context(), size, note) },
		func() ([]byte, error) { return e.Cosigned(t.Context()) })
	if note, err := e.Checkpoint(t.Context()); err != nil || string(note) != "seven again" {
		t.Errorf("the cosigned checkpoint has taken the place of the newest: %q, %v", note, err)
	}
}

func keepsNewest(t *testing.T, e *env, keep func(uint64, []byte) error, newest func() ([]byte, error)) {
	t.Helper()
	save := func(size uint64, note string) {
		t.Helper()
		if err := keep(size, []byte(note)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(note string) {
		t.Helper()
		got, err := newest()
		if err != nil || string(got) != note {
			t.Errorf("checkpoint %q, %v, want %q", got, err, note)
		}
	}
	want("")
	save(5, "five")
	want("five")
	save(7, "seven")
	want("seven")
	save(6, "six, too late")
	want("seven")
	save(7, "seven again")
	want("seven again")
	e.reopen(t)
	want("seven again")
}

// testCopies: what a caller does to its items after Commit is nothing to the store.
func testCopies(t *testing.T, e *env) {
	item := Item()
	want := slices.Clone(item.Leaf)
	if err := e.Commit(t.Context(), []*audit.Item{item}, Extend); err != nil {
		t.Fatal(err)
	}
	clear(item.Leaf)
	*item.Entry = audit.Entry{}
	got, err := e.AuditEntries(t.Context(), 0, 1)
	if err != nil || len(got) != 1 || !slices.Equal(got[0].Leaf, want) {
		t.Errorf("%v, %v", got, err)
	}
	k, v := NewKey(uuid.New(), "copied")
	k.Labels = map[string]string{"a": "b"}
	change, id, tenant := e.InsertKey(k, v), k.ID, k.Tenant
	k.Name, k.Labels["a"], k.ID = "changed", "changed", uuid.New()
	e.must(t, change)
	read, err := e.KeyByID(t.Context(), tenant, id)
	if err != nil || read.Name != "copied" || read.Labels["a"] != "b" {
		t.Errorf("%+v, %v", read, err)
	}
}
