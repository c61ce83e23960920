package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
)

// news reads all news from index from on, in pages.
func (e *env) news(t *testing.T, from uint64, limit int) (all []cluster.News, next uint64) {
	t.Helper()
	for {
		page, next, lost, err := e.News(t.Context(), from, limit)
		if err != nil || lost {
			t.Fatalf("News from %d: lost %v, %v", from, lost, err)
		}
		for i, n := range page {
			if n.Index < from || n.Index >= next || i > 0 && n.Index < page[i-1].Index {
				t.Fatalf("news of entry %d in the page from %d to %d", n.Index, from, next)
			}
		}
		all = append(all, page...)
		if len(page) < max(limit, 1000) {
			wantSame(t, "the end of a page that is not cut", next, e.size(t))
			return all, next
		}
		from = next
	}
}

// testNews: each Change tells what it has changed, once an item, in the order of the log; and items that failed tell nothing.
func testNews(t *testing.T, e *env) {
	tenant := uuid.New()
	e.must(t)
	from := e.size(t)
	of := func(changes ...audit.Change) *audit.Item {
		return ItemOf(audit.Entry{Tenant: tenant, Principal: "p", Action: "test", Outcome: "ok"}, changes...)
	}
	k, v := NewKey(tenant, "k")
	same, sv := NewKey(tenant, "k")
	second := *v
	second.Version = 2
	api := &auth.APIKey{ID: uuid.New(), Tenant: tenant, Name: "ci", Brand: "kw", Prefix: "x", CreatedAt: now()}
	slot, other := newSlot(), newSlot()
	batch := []*audit.Item{
		of(e.InsertKey(k, v), e.InsertVersion(&second), e.SetDefaultKey(tenant, "encrypt", k.ID)),
		of(e.InsertKey(same, sv)), // its name is taken
		of(),
		of(e.AddUses(k.ID, 1, 5), e.InsertIdempotency(&idempotency.Record{Tenant: tenant, Key: "x", CreatedAt: now()}), e.PruneIdempotency(now())),
		of(e.UpdateKey(k), e.InsertAPIKey(api)),
		of(e.UpdateVersion(v)),
		of(e.SetDefaultKey(tenant, "encrypt", uuid.Nil)),
		of(e.RevokeAPIKey(tenant, api.ID, now())),
		of(e.SetTenantSettings(tenant, keys.Settings{NewKeys: keys.NewKeysHybrid})),
		of(e.InsertFirstSlot(slot)), of(e.InsertSlot(other)), of(e.DeleteSlot(slot.ID)),
		Item(e.RevokeAPIKey(tenant, api.ID, now())), // by nobody's entry
	}
	if err := e.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	type told struct {
		kind   cluster.Kind
		tenant uuid.UUID
		id     uuid.UUID
	}
	var want []cluster.News
	for i, tells := range [][]told{
		{{cluster.KindKey, tenant, k.ID}}, {}, {}, {},
		{{cluster.KindKey, tenant, k.ID}, {cluster.KindAPIKey, tenant, api.ID}},
		{{cluster.KindKey, tenant, k.ID}},
		{{cluster.KindKey, tenant, uuid.Nil}},
		{{cluster.KindAPIKey, tenant, api.ID}},
		{{cluster.KindSettings, tenant, tenant}},
		{{cluster.KindRoot, tenant, uuid.Nil}}, {{cluster.KindRoot, tenant, uuid.Nil}}, {{cluster.KindRoot, tenant, uuid.Nil}},
		{{cluster.KindAPIKey, uuid.Nil, api.ID}},
	} {
		if it := batch[i]; (it.Err != nil) != (i == 1) {
			t.Fatalf("item %d: %v", i, it.Err)
		}
		for _, n := range tells {
			want = append(want, cluster.News{Index: batch[i].Index, At: batch[i].Entry.Time, Tenant: n.tenant, Kind: n.kind, ID: n.id})
		}
	}
	for range 2 {
		got, next := e.news(t, from, 1000)
		wantSame(t, "news", got, want)
		wantSame(t, "next", next, e.size(t))
		middle, _ := e.news(t, batch[5].Index, 1000)
		wantSame(t, "news from the middle on", middle, want[3:])
		none, _ := e.news(t, e.size(t), 1000)
		wantSame(t, "news from the end on", len(none), 0)
		e.reopen(t)
	}
	_, next, lost, err := e.News(t.Context(), e.size(t)+7, 1000)
	if err != nil || !lost || next != e.size(t) {
		t.Errorf("news from beyond the end: next %d, lost %v, %v", next, lost, err)
	}
}

func manyNews(e *env, n int) []audit.Change {
	out := make([]audit.Change, n)
	for i := range out {
		out[i] = e.SetTenantSettings(uuid.New(), keys.Settings{})
	}
	return out
}

// testNewsPages: pages end between two entries, also when one entry tells more than a page holds.
func testNewsPages(t *testing.T, e *env) {
	counts := []int{3, 600, 600, 0, 1, 1500, 2, 999, 1, 1}
	total := 0
	for _, n := range counts {
		e.must(t, manyNews(e, n)...)
		total += n
	}
	got, _ := e.news(t, 0, 1)
	per := make([]int, len(counts))
	seen := map[uuid.UUID]bool{}
	for _, n := range got {
		per[n.Index]++
		seen[n.ID] = true
	}
	wantSame(t, "news of each entry", per, counts)
	wantSame(t, "all of them", len(seen), total)
	page, next, _, err := e.News(t.Context(), 5, 1)
	if err != nil || len(page) != 1500 || next != 6 {
		t.Errorf("an entry that fills more than a page: %d news, next %d, %v", len(page), next, err)
	}
}

// testPruneNews: what was forgotten is said to be, to those who ask for it and to no others.
func testPruneNews(t *testing.T, e *env) {
	at := now()
	tenant := uuid.New()
	for i := range 10 {
		entry := audit.Entry{Principal: "p", Action: "test", Outcome: "ok", Time: at.Add(time.Duration(i) * time.Minute)}
		it := ItemOf(entry, e.SetTenantSettings(tenant, keys.Settings{}))
		if err := e.Commit(t.Context(), []*audit.Item{it}, Extend); err != nil || it.Err != nil {
			t.Fatal(err, it.Err)
		}
	}
	if err := e.PruneNews(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if all, _ := e.news(t, 0, 1000); len(all) != 10 {
		t.Errorf("%d news are left where none is old", len(all))
	}
	for range 2 { // once more forgets nothing more
		if err := e.PruneNews(t.Context(), at.Add(4*time.Minute)); err != nil {
			t.Fatal(err)
		}
		e.reopen(t)
		left, _ := e.news(t, 4, 1000)
		wantSame(t, "news that are left", len(left), 6)
		for _, from := range []uint64{0, 3} {
			got, next, lost, err := e.News(t.Context(), from, 1000)
			if err != nil || !lost || next != 10 || len(got) != 0 {
				t.Errorf("from %d: %d news, next %d, lost %v, %v", from, len(got), next, lost, err)
			}
		}
	}
	if err := e.PruneNews(t.Context(), at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	_, _, lost, err := e.News(t.Context(), 9, 1000)
	if err != nil || !lost {
		t.Errorf("after all was forgotten: lost %v, %v", lost, err)
	}
	none, _ := e.news(t, 10, 1000)
	wantSame(t, "news at the end", len(none), 0)
	e.must(t, manyNews(e, 2)...)
	fresh, _ := e.news(t, 10, 1000)
	wantSame(t, "news after all was forgotten", len(fresh), 2)
}

// listening starts to listen and gives where wakes arrive. It ends with the test, and must end well.
func (e *env) listening(t *testing.T) <-chan struct{} {
	t.Helper()
	woken := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- e.Listen(ctx, func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			wantFault(t, "listening until the end", err, fault.Timeout)
		case <-time.After(5 * time.Second):
			t.Error("Listen does not end with its context")
		}
	})
	wantWake(t, woken) // for what was told before
	return woken
}

func wantWake(t *testing.T, woken <-chan struct{}) {
	t.Helper()
	select {
	case <-woken:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was woken")
	}
}

// testListen: a commit with news wakes who listens, and the news are there then. Closing ends it.
func testListen(t *testing.T, e *env) {
	woken := e.listening(t)
	for range 3 {
		from := e.size(t)
		e.must(t, manyNews(e, 1)...)
		wantWake(t, woken)
		if got, _ := e.news(t, from, 1000); len(got) != 1 {
			t.Errorf("%d news after a wake", len(got))
		}
	}
}

// testListenClosed: closing the store ends Listen.
func testListenClosed(t *testing.T, e *env) {
	began := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- e.Listen(t.Context(), func() {
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}()
	wantWake(t, began)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		wantFault(t, "Listen on a store that was closed", err, fault.StoreUnavailable)
	default:
		t.Error("Close did not wait for Listen")
	}
}

// testLeases: a lease has one holder until it runs out or is given back; the term counts holders.
func testLeases(t *testing.T, e *env) {
	a, b := uuid.New(), uuid.New()
	acquire := func(name string, who uuid.UUID, ttl time.Duration, held bool, holder uuid.UUID, term int64) cluster.Lease {
		t.Helper()
		l, ok, err := e.Acquire(t.Context(), name, who, ttl)
		if err != nil || ok != held || l.Name != name || l.Holder != holder || l.Term != term {
			t.Fatalf("held %v, %+v, %v; want held %v by %v in term %d", ok, l, err, held, holder, term)
		}
		return l
	}
	first := acquire("x", a, time.Minute, true, a, 1)
	if again := acquire("x", a, 2*time.Minute, true, a, 1); !again.Until.After(first.Until.Add(30 * time.Second)) {
		t.Errorf("prolonged from %v to %v", first.Until, again.Until)
	}
	acquire("x", b, time.Minute, false, a, 1)
	acquire("w", b, time.Minute, true, b, 1)
	if err := e.Release(t.Context(), "x", b); err != nil { // another's
		t.Fatal(err)
	}
	acquire("x", b, time.Minute, false, a, 1)
	list := func(want ...string) {
		t.Helper()
		all, err := e.Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, l := range all {
			got = append(got, l.Name)
		}
		wantSame(t, "leases", got, append([]string{}, want...))
	}
	list("w", "x")
	if err := e.Release(t.Context(), "x", a); err != nil {
		t.Fatal(err)
	}
	list("w")
	acquire("x", b, 20*time.Millisecond, true, b, 2)
	time.Sleep(40 * time.Millisecond)
	list("w")
	acquire("x", b, 20*time.Millisecond, true, b, 2) // nobody else had it
	e.reopen(t)
	time.Sleep(40 * time.Millisecond)
	acquire("x", a, time.Minute, true, a, 3)
	if err := e.Release(t.Context(), "none", a); err != nil {
		t.Error(err)
	}
}

// testNodes: what a node says of itself is listed for as long as it was seen lately.
func testNodes(t *testing.T, e *env) {
	list := func(within time.Duration, want ...*cluster.Node) {
		t.Helper()
		got, err := e.Nodes(t.Context(), within)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(cluster.Node{}, "SeenAt"), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("nodes (-want +got):\n%s", diff)
		}
	}
	save := func(n *cluster.Node, forget time.Duration) {
		t.Helper()
		if err := e.SaveNode(t.Context(), n, forget); err != nil {
			t.Fatal(err)
		}
	}
	list(time.Hour)
	b := &cluster.Node{ID: uuid.New(), Name: "b", Address: "10.0.0.1:8200", Version: "1.2.3", StartedAt: now(),
		Backends: []cluster.NodeBackend{{ID: "hsm:1", Name: "vault", Kind: "hsm"}, {ID: "software:2", Name: "soft", Kind: "software"}}}
	a := &cluster.Node{ID: uuid.New(), Name: "a", StartedAt: now()}
	save(b, time.Hour)
	save(a, time.Hour)
	list(time.Hour, a, b)
	e.reopen(t)
	list(time.Hour, a, b)
	time.Sleep(60 * time.Millisecond)
	a.Name, a.Backends = "c", []cluster.NodeBackend{{ID: "tpm:3", Name: "chip", Kind: "tpm"}}
	save(a, time.Hour)
	list(50*time.Millisecond, a)
	list(time.Hour, b, a)
	got, err := e.Nodes(t.Context(), 50*time.Millisecond)
	if err != nil || len(got) != 1 || time.Since(got[0].SeenAt).Abs() > time.Minute {
		t.Errorf("seen at %+v, %v", got, err)
	}
	save(a, 50*time.Millisecond)
	list(time.Hour, a) // b is forgotten
	for range 2 {
		if err := e.RemoveNode(t.Context(), a.ID); err != nil {
			t.Fatal(err)
		}
		list(time.Hour)
	}
}

// testSharedNews: with two stores writing at once, a third reads every piece of news, in the order of the log, while it goes on; and
// a wake on one comes from commits of the other.
func testSharedNews(t *testing.T, nodes [2]*env, another func(t *testing.T) Store) {
	third := &env{Store: another(t)}
	t.Cleanup(func() {
		if err := third.Close(); err != nil {
			t.Error(err)
		}
	})
	woken := third.listening(t)
	const each = 60
	var mu sync.Mutex // guards want
	want := map[uuid.UUID]uint64{}
	tenant := uuid.New()
	var group sync.WaitGroup
	for n, e := range nodes {
		group.Go(func() {
			for i := range each {
				k, v := NewKey(tenant, fmt.Sprintf("%d-%d", n, i))
				batch := []*audit.Item{Item(), Item(e.InsertKey(k, v)), Item()}
				if err := e.Commit(t.Context(), batch, Extend); err != nil || batch[1].Err != nil {
					t.Error(err, batch[1].Err)
					return
				}
				mu.Lock()
				want[k.ID] = batch[1].Index
				mu.Unlock()
			}
		})
	}
	got := map[uuid.UUID]uint64{}
	from, last := uint64(0), uint64(0)
	deadline := time.After(30 * time.Second)
	for len(got) < 2*each && !t.Failed() {
		select {
		case <-woken:
		case <-deadline:
			t.Fatalf("%d of %d pieces of news", len(got), 2*each)
		}
		page, next, lost, err := third.News(t.Context(), from, 1000)
		if err != nil || lost {
			t.Fatalf("lost %v, %v", lost, err)
		}
		for _, n := range page {
			if _, twice := got[n.ID]; twice || n.Kind != cluster.KindKey || n.Index < last {
				t.Errorf("%+v after entry %d, seen before: %v", n, last, twice)
			}
			got[n.ID], last = n.Index, n.Index
		}
		from = next
	}
	group.Wait()
	wantSame(t, "news", got, want)
}

// testSharedLeases: of two nodes that want a lease again and again one has it at a time, and when it does not prolong it the other
// has it soon.
func testSharedLeases(t *testing.T, nodes [2]*env, _ func(t *testing.T) Store) {
	ids := [2]uuid.UUID{uuid.New(), uuid.New()}
	const ttl = 300 * time.Millisecond
	l, held, err := nodes[0].Acquire(t.Context(), "work", ids[0], ttl)
	if err != nil || !held {
		t.Fatal(held, err)
	}
	began := time.Now()
	for {
		other, ok, err := nodes[1].Acquire(t.Context(), "work", ids[1], ttl)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			if other.Term != l.Term+1 || other.Holder != ids[1] || !other.Until.After(l.Until) {
				t.Errorf("taken over: %+v after %+v", other, l)
			}
			break
		}
		if other.Holder != ids[0] {
			t.Errorf("held by %v", other.Holder)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if took := time.Since(began); took < ttl-50*time.Millisecond || took > 10*ttl {
		t.Errorf("taken over after %v, of %v", took, ttl)
	}
	// Both at once: one of them.
	if err := nodes[1].Release(t.Context(), "work", ids[1]); err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		name := fmt.Sprint("race-", round)
		var results [2]bool
		var group sync.WaitGroup
		for i, e := range nodes {
			group.Go(func() {
				var err error
				if _, results[i], err = e.Acquire(t.Context(), name, ids[i], time.Minute); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if results[0] == results[1] {
			t.Errorf("%s: %v", name, results)
		}
	}
}
