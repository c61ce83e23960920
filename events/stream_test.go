package events_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/store/storetest"
)

// read reads a stream until n events have come.
func read(t *testing.T, s *events.Stream, n int) (list []*events.Event, last uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(list) < n {
		more, at, _, err := s.Next(ctx, time.Second)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(list), n, err)
		}
		list, last = append(list, more...), at
	}
	return list, last
}

// quiet wants no event for a while.
func quiet(t *testing.T, s *events.Stream) {
	t.Helper()
	if list, _, _, err := s.Next(t.Context(), 300*time.Millisecond); err != nil || len(list) > 0 {
		t.Errorf("%s came, %v", fmtIDs(list), err)
	}
}

// TestStream: a stream has the tenant's changes from its beginning on, and nothing else, each as the log has it.
func TestStream(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	streams := e.streams(t, events.StreamOptions{})
	e.change(t, e.tenant, "before")
	s, err := streams.Open(t.Context(), e.tenant, nil, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e.noise(t)
	e.change(t, uuid.New(), "another tenant's")
	n := e.change(t, e.tenant, "first")
	list, last := read(t, s, 1)
	if last < n {
		t.Errorf("the position is %d, behind event %d", last, n)
	}
	got := decode(t, list[0].JSON)
	want := wire.Event{ID: n, Time: list[0].Time, Type: "api_key.created", Resource: got.Resource, Principal: "api-key:tester", Detail: "first"}
	if diff := cmp.Diff(want, got); diff != "" || got.Resource == "" || time.Since(got.Time) > time.Minute {
		t.Errorf("(-want +got):\n%s", diff)
	}
	quiet(t, s)
	began := time.Now()
	go func() { time.Sleep(50 * time.Millisecond); e.change(t, e.tenant, "second") }()
	read(t, s, 1)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestTypes: what happens to a key is told once for each act, under its name, and first steps are not told.
func TestTypes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	streams := e.streams(t, events.StreamOptions{})
	s, err := streams.Open(t.Context(), e.tenant, nil, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k, v := storetest.NewKey(e.tenant, "orders")
	k.Labels = map[string]string{"team": "pay"}
	record := func(entry audit.Entry, changes ...audit.Change) {
		t.Helper()
		entry.Tenant, entry.Principal = e.tenant, "api-key:tester"
		if entry.Outcome == "" {
			entry.Outcome = "ok"
		}
		if _, err := e.log.Record(t.Context(), &entry, changes...); err != nil {
			t.Fatal(err)
		}
	}
	update := func() audit.Change { c := e.store.UpdateKey(k); k.Revision++; return c }
	k.Revision = 1
	record(audit.Entry{Action: "key.create.begin", Key: k.ID, KeyVersion: 1}, e.store.InsertKey(k, v))
	record(audit.Entry{Action: "key.create", Key: k.ID, KeyVersion: 1}, update())
	record(audit.Entry{Action: "encrypt", Key: k.ID, KeyVersion: 1})
	record(audit.Entry{Action: "key.state", Key: k.ID, KeyVersion: 1, Detail: "deactivated"}, update())
	record(audit.Entry{Action: "key.state", Key: k.ID, Outcome: "ERR_STATE_TRANSITION"})
	record(audit.Entry{Action: "key.new-verb", Key: k.ID, Outcome: "ERR_TIMEOUT"}, update())
	record(audit.Entry{Action: "settings.keys.set", Resource: "settings:keys"}, e.store.SetTenantSettings(e.tenant, keys.Settings{NewKeys: keys.NewKeysHybrid}))
	record(audit.Entry{Action: "key.destroy", Key: k.ID, Detail: "versions"}, update())
	list, _ := read(t, s, 4)
	var got []string
	for _, ev := range list {
		w := decode(t, ev.JSON)
		line := w.Type + " " + w.Detail + w.Outcome
		if w.Key != nil {
			line += fmt.Sprintf(" %s %d", w.Key.Name, w.Key.Version)
		}
		got = append(got, line)
	}
	want := []string{"key.created  orders 1", "key.state_changed deactivated orders 1", "key.changed ERR_TIMEOUT orders 0", "settings.changed "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	quiet(t, s)
	for _, name := range got {
		if !slices.ContainsFunc(events.Types(), func(known string) bool { return known+" " == name[:min(len(known)+1, len(name))] }) {
			t.Errorf("%s is of no documented type", name)
		}
	}
}

// TestFilters: what is selected comes, in order, and the position moves past the rest.
func TestFilters(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	streams := e.streams(t, events.StreamOptions{})
	var ids []uuid.UUID
	for i, labels := range []map[string]string{{"team": "pay"}, {"team": "ship"}, nil} {
		k, v := storetest.NewKey(e.tenant, fmt.Sprint("key-", i))
		k.Labels = labels
		ids = append(ids, k.ID)
		if _, err := e.log.Record(t.Context(), &audit.Entry{Tenant: e.tenant, Principal: "p", Action: "key.create", Key: k.ID, Outcome: "ok"}, e.store.InsertKey(k, v)); err != nil {
			t.Fatal(err)
		}
	}
	e.change(t, e.tenant, "")
	from := uint64(0)
	for name, test := range map[string]struct {
		filter events.Filter
		want   []uint64
	}{
		"label":          {events.Filter{Label: "team"}, []uint64{1}},
		"label's value":  {events.Filter{Label: "team=ship"}, []uint64{1}},
		"no such value":  {events.Filter{Label: "team="}, nil},
		"key":            {events.Filter{Keys: ids[1:]}, []uint64{1, 2}},
		"type":           {events.Filter{Types: []string{"key.created"}}, []uint64{1, 2}},
		"types":          {events.Filter{Types: []string{"key.*", "api_key.*"}}, []uint64{1, 2, 3}},
		"type and label": {events.Filter{Types: []string{"api_key.*"}, Label: "team"}, nil},
	} {
		s, err := streams.Open(t.Context(), e.tenant, &from, test.filter)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []uint64
		list, last, _, err := s.Next(t.Context(), 500*time.Millisecond)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, ev := range list {
			got = append(got, ev.Index)
		}
		if diff := cmp.Diff(test.want, got); diff != "" || last != 3 {
			t.Errorf("%s: up to %d, %s", name, last, diff)
		}
		s.Close()
	}
	for name, bad := range map[string]events.Filter{
		"unknown type": {Types: []string{"key.eaten"}}, "unknown family": {Types: []string{"door.*"}}, "label without a name": {Label: "=x"},
		"too many keys": {Keys: make([]uuid.UUID, 100)},
	} {
		_, err := streams.Open(t.Context(), e.tenant, nil, bad)
		wantFault(t, name, err, fault.BadField)
	}
}

// TestResume: streams that are taken up again, behind any event and while changes come from many sides, lose and double nothing: those in the
// node's memory, those behind it, and those of another node.
func TestResume(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	other := events.NewFeed(e.store, named{e.store}, e.logger)
	t.Cleanup(other.Close)
	var here, there *events.Streams
	here = e.streams(t, events.StreamOptions{})
	there, err := events.NewStreams(other, events.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 300
	first := e.change(t, e.tenant, "")
	var mu sync.Mutex // guards want
	var want []uint64
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for i := range each {
				if i%3 == 0 {
					e.noise(t)
				}
				n := e.change(t, e.tenant, "")
				mu.Lock()
				want = append(want, n)
				mu.Unlock()
			}
		})
	}
	results := make([][]uint64, 6)
	for r := range results {
		group.Go(func() {
			last := first
			for turn := 0; len(results[r]) < writers*each; turn++ {
				streams := here
				if (turn+r)%2 == 1 {
					streams = there
				}
				s, err := streams.Open(t.Context(), e.tenant, &last, events.Filter{})
				if err != nil {
					t.Error(err)
					return
				}
				for range 1 + (turn+r)%4 {
					list, at, known, err := s.Next(t.Context(), 100*time.Millisecond)
					if err != nil || !known {
						t.Error(err)
						return
					}
					for _, ev := range list {
						results[r] = append(results[r], ev.Index)
					}
					last = at
				}
				s.Close()
				if t.Context().Err() != nil {
					return
				}
			}
		})
	}
	group.Wait()
	slices.Sort(want)
	for r, got := range results {
		if !slices.Equal(want, got) {
			t.Errorf("stream %d has %d events, and not the %d that there were", r, len(got), len(want))
		}
	}
}

// TestBehind: one who is further behind than the node remembers reads the store, and comes to the end.
func TestBehind(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	streams := e.streams(t, events.StreamOptions{})
	lively, err := streams.Open(t.Context(), e.tenant, nil, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer lively.Close()
	slow, err := streams.Open(t.Context(), e.tenant, nil, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	const n = 5000 // more than are remembered
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			for range n / 10 {
				e.change(t, e.tenant, "")
			}
		})
	}
	got, _ := read(t, lively, n)
	group.Wait()
	all, _ := read(t, slow, n)
	if fmtIDs(got) != fmtIDs(all) {
		t.Error("two streams differ")
	}
}

// TestGone: what is not kept any more, and what was never there, is said before a stream begins; one that is open ends.
func TestGone(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	streams := e.streams(t, events.StreamOptions{})
	old := e.change(t, e.tenant, "")
	e.change(t, e.tenant, "")
	open, err := streams.Open(t.Context(), e.tenant, &old, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := e.store.PruneNews(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	_, err = streams.Open(t.Context(), e.tenant, &old, events.Filter{})
	wantFault(t, "a pruned id", err, fault.EventsGone)
	never := uint64(1000)
	_, err = streams.Open(t.Context(), e.tenant, &never, events.Filter{})
	wantFault(t, "an id from the future", err, fault.EventsGone)
	_, _, _, err = open.Next(t.Context(), time.Second)
	wantFault(t, "reading on", err, fault.EventsGone)
	newest := e.change(t, e.tenant, "")
	s, err := streams.Open(t.Context(), e.tenant, &newest, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// TestStreamLimits: no more streams than allowed, of a tenant and in all; one that ends makes room; none after Drain.
func TestStreamLimits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	streams := e.streams(t, events.StreamOptions{Most: 3, MostOfTenant: 2})
	var open []*events.Stream
	enter := func(tenant uuid.UUID) error {
		s, err := streams.Open(t.Context(), tenant, nil, events.Filter{})
		if err == nil {
			open = append(open, s)
		}
		return err
	}
	other := uuid.New()
	for _, tenant := range []uuid.UUID{e.tenant, e.tenant, other} {
		if err := enter(tenant); err != nil {
			t.Fatal(err)
		}
	}
	wantFault(t, "one more", enter(uuid.New()), fault.Overloaded)
	open[2].Close()
	open[2].Close() // a second time counts for nothing
	wantFault(t, "one more of the tenant", enter(e.tenant), fault.Overloaded)
	if err := enter(other); err != nil {
		t.Error(err)
	}
	select {
	case <-streams.Over():
		t.Error("over before the end")
	default:
	}
	streams.Drain()
	streams.Drain()
	<-streams.Over()
	for _, s := range open {
		s.Close()
	}
	wantFault(t, "after Drain", enter(e.tenant), fault.Unavailable)
}

// TestNobodyListens: a feed that nobody listens to asks the store for nothing.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	counted := &counting{Log: e.store}
	feed := events.NewFeed(counted, named{e.store}, e.logger)
	streams, err := events.NewStreams(feed, events.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := streams.Open(t.Context(), e.tenant, nil, events.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	e.change(t, e.tenant, "")
	read(t, s, 1)
	s.Close()
	time.Sleep(50 * time.Millisecond) // a question may be under way
	before := counted.n()
	time.Sleep(500 * time.Millisecond)
	if after := counted.n(); after != before || before == 0 {
		t.Errorf("%d questions, then %d", before, after)
	}
	feed.Close()
	_, err = streams.Open(t.Context(), e.tenant, nil, events.Filter{})
	wantFault(t, "after Close", err, fault.Unavailable)
}
