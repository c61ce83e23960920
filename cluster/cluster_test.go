package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/storetest"
)

// TestCluster runs everything on one server: it is the part that takes time to come up.
func TestCluster(t *testing.T) {
	server := rig.Postgres(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, f *fixture)
	}{
		{"Hears", testHears},
		{"LostNotifications", testLostNotifications},
		{"ListenerCut", testListenerCut},
		{"Pruned", testPruned},
		{"OneAtATime", testOneAtATime},
		{"TakeOver", testTakeOver},
		{"LeaseLost", testLeaseLost},
		{"LeaseTaken", testLeaseTaken},
		{"Once", testOnce},
		{"Presence", testPresence},
		{"Partition", testPartition}, // the last: it stops the server's processes
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &fixture{server: server, options: postgres.Options{PasswordFile: server.PasswordFile, Schema: "cluster " + test.name}}
			f.here, f.there = f.open(t), f.open(t)
			test.run(t, f)
		})
	}
}

// fixture is two nodes' stores on one schema.
type fixture struct {
	server      *rig.Server
	options     postgres.Options
	here, there *postgres.Store
}

func (f *fixture) open(t *testing.T) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), f.server.URI, f.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// change commits something that is news, and gives its id.
func (f *fixture) change(t *testing.T) uuid.UUID {
	t.Helper()
	tenant := uuid.New()
	it := storetest.Item(f.there.SetTenantSettings(tenant, keys.Settings{}))
	if err := f.there.Commit(t.Context(), []*audit.Item{it}, storetest.Extend); err != nil || it.Err != nil {
		t.Fatal(err, it.Err)
	}
	return tenant
}

func (f *fixture) admin(t *testing.T) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(f.server.Admin)
	if err != nil {
		t.Fatal(err)
	}
	c.Password = f.server.Password(t, f.server.AdminFile)
	conn, err := pgx.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// hearer is a feed that runs, and what it has told.
type hearer struct {
	*cluster.Feed
	heard   chan uuid.UUID
	forgets atomic.Int32
}

// hear runs a feed on the store until the test ends.
func hear(t *testing.T, store cluster.Store) *hearer {
	t.Helper()
	h := &hearer{heard: make(chan uuid.UUID, 1000)}
	var err error
	h.Feed, err = cluster.NewFeed(cluster.FeedOptions{Store: store, Subscribers: []cluster.Subscriber{{
		Heard:  func(n cluster.News) { h.heard <- n.ID },
		Forget: func() { h.forgets.Add(1) },
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if h.Fresh() {
		t.Error("fresh before the first look")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	eventually(t, "the first look", h.Fresh)
	if n := h.forgets.Load(); n != 1 {
		t.Errorf("%d forgets at first", n)
	}
	return h
}

// want waits for the news, and gives how long it took.
func (h *hearer) want(t *testing.T, id uuid.UUID, within time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		select {
		case got := <-h.heard:
			if got == id {
				return time.Since(begun)
			}
		case <-time.After(within):
			t.Fatalf("not heard within %v", within)
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begun) > 15*time.Second {
			t.Fatalf("%s: not within 15 s", what)
		}
	}
}

// testHears: what another node changes is told, all of it in order, and fast.
func testHears(t *testing.T, f *fixture) {
	f.change(t) // before the feed: not told
	h := hear(t, f.here)
	var want []uuid.UUID
	for range 300 {
		want = append(want, f.change(t))
	}
	for i, id := range want {
		select {
		case got := <-h.heard:
			if got != id {
				t.Fatalf("the %d-th piece of news is another", i)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%d of %d heard", i, len(want))
		}
	}
	if h.forgets.Load() != 1 || !h.Fresh() {
		t.Errorf("%d forgets, fresh %v", h.forgets.Load(), h.Fresh())
	}
}

// deaf is a store whose notifications are lost.
type deaf struct{ cluster.Store }

func (deaf) Listen(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// testLostNotifications: without a single wake news are told within the time.
func testLostNotifications(t *testing.T, f *fixture) {
	h := hear(t, deaf{f.here})
	for range 10 {
		time.Sleep(37 * time.Millisecond) // at different moments between two looks
		h.want(t, f.change(t), cluster.FreshFor)
	}
}

// testListenerCut: a listener whose connection is cut is replaced, and news are told meanwhile.
func testListenerCut(t *testing.T, f *fixture) {
	h := hear(t, f.here)
	db := f.admin(t)
	listeners := "FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND usename = 'keywright'"
	count := func() (n int) {
		if err := db.QueryRow(t.Context(), "SELECT COUNT(*) "+listeners).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "listening", func() bool { return count() == 1 })
	for range 3 {
		if _, err := db.Exec(t.Context(), "SELECT pg_terminate_backend(pid) "+listeners); err != nil {
			t.Fatal(err)
		}
		h.want(t, f.change(t), cluster.FreshFor)
	}
	eventually(t, "listening again", func() bool { return count() == 1 })
	h.want(t, f.change(t), cluster.FreshFor)
}

// testPruned: a feed that is behind what has been forgotten says so, and goes on.
func testPruned(t *testing.T, f *fixture) {
	slow := &gate{Store: f.here}
	h := hear(t, slow)
	slow.shut(true)
	eventually(t, "not to be fresh", func() bool { return !h.Fresh() })
	f.change(t)
	if err := f.there.PruneNews(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.change(t)
	slow.shut(false)
	eventually(t, "the feed to say that it missed something", func() bool { return h.forgets.Load() == 2 })
	eventually(t, "to be fresh again", h.Fresh)
	h.want(t, f.change(t), cluster.FreshFor)
	if h.forgets.Load() != 2 {
		t.Errorf("%d forgets", h.forgets.Load())
	}
}

// gate is a store that can be shut: nothing answers then.
type gate struct {
	cluster.Store
	closed atomic.Bool
}

func (g *gate) shut(closed bool) { g.closed.Store(closed) }

var errShut = errors.New("shut")

func (g *gate) pass(ctx context.Context) error {
	if g.closed.Load() {
		<-ctx.Done()
		return errShut
	}
	return nil
}

func (g *gate) News(ctx context.Context, from uint64, limit int) ([]cluster.News, uint64, bool, error) {
	if err := g.pass(ctx); err != nil {
		return nil, 0, false, err
	}
	return g.Store.News(ctx, from, limit)
}

func (g *gate) Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (cluster.Lease, bool, error) {
	if err := g.pass(ctx); err != nil {
		return cluster.Lease{}, false, err
	}
	return g.Store.Acquire(ctx, name, holder, ttl)
}

func (g *gate) Release(ctx context.Context, name string, holder uuid.UUID) error {
	if err := g.pass(ctx); err != nil {
		return err
	}
	return g.Store.Release(ctx, name, holder)
}

const ttl = 900 * time.Millisecond

func leases(t *testing.T, store cluster.Store) *cluster.Leases {
	t.Helper()
	l, err := cluster.NewLeases(cluster.LeasesOptions{Store: store, Holder: uuid.New(), TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// worker holds a lease again and again, and says when it works.
type worker struct {
	working atomic.Bool
	turns   atomic.Int32
	began   atomic.Int64 // of the newest turn, in nanoseconds of the wall clock
	cancel  context.CancelFunc
	ended   chan struct{}
}

func work(t *testing.T, l *cluster.Leases, name string, inside func()) *worker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &worker{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		l.Hold(ctx, name, func(ctx context.Context) {
			w.began.Store(time.Now().UnixNano())
			w.turns.Add(1)
			w.working.Store(true)
			if inside != nil {
				inside()
			}
			<-ctx.Done()
			w.working.Store(false)
		})
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *worker) stop() {
	w.cancel()
	<-w.ended
}

// testOneAtATime: of several that want a lease one works at any moment, for as long as it likes; given back, it is another's at once.
func testOneAtATime(t *testing.T, f *fixture) {
	var all []*worker
	for range 3 {
		all = append(all, work(t, leases(t, f.here), "work", nil), work(t, leases(t, f.there), "work", nil))
	}
	count := func() (n int, who *worker) {
		for _, w := range all {
			if w.working.Load() {
				n++
				who = w
			}
		}
		return n, who
	}
	for len(all) > 1 {
		eventually(t, "somebody to work", func() bool { n, _ := count(); return n == 1 })
		_, who := count()
		for until := time.Now().Add(ttl + ttl/2); time.Now().Before(until); time.Sleep(time.Millisecond) {
			if n, now := count(); n != 1 || now != who {
				t.Fatalf("%d work, and it may be others", n)
			}
		}
		who.stop()
		for i := range all {
			if all[i] == who {
				all = append(all[:i], all[i+1:]...)
				break
			}
		}
		if len(all) < 5 {
			break
		}
	}
}

// testTakeOver: the lease of a node that vanishes is taken over when its time is over, and not before.
func testTakeOver(t *testing.T, f *fixture) {
	vanishes := &gate{Store: f.here}
	first := work(t, leases(t, vanishes), "work", nil)
	eventually(t, "the first to work", first.working.Load)
	second := work(t, leases(t, f.there), "work", nil)
	vanishes.shut(true)
	gone := time.Now()
	eventually(t, "the first to stop", func() bool { return !first.working.Load() })
	stopped := time.Now()
	eventually(t, "the second to work", second.working.Load)
	if began := time.Unix(0, second.began.Load()); began.Before(stopped.Add(-10 * time.Millisecond)) {
		t.Errorf("the second worked %v before the first had stopped", stopped.Sub(began))
	}
	if took := time.Since(gone); took > 4*ttl {
		t.Errorf("taken over after %v", took)
	}
	vanishes.shut(false)
	time.Sleep(ttl)
	if first.working.Load() || !second.working.Load() {
		t.Error("who came back works, though another does")
	}
}

// testLeaseLost: work ends before the lease can be another's, also when the store answers nothing at all.
func testLeaseLost(t *testing.T, f *fixture) {
	g := &gate{Store: f.here}
	w := work(t, leases(t, g), "work", nil)
	eventually(t, "to work", w.working.Load)
	g.shut(true)
	gone := time.Now()
	eventually(t, "to stop", func() bool { return !w.working.Load() })
	if took := time.Since(gone); took > ttl {
		t.Errorf("worked on for %v of %v", took, ttl)
	}
	g.shut(false)
	eventually(t, "to work again", w.working.Load)
	if w.turns.Load() != 2 {
		t.Errorf("%d turns", w.turns.Load())
	}
}

// testLeaseTaken: a node that learns that another has its lease stops at once.
func testLeaseTaken(t *testing.T, f *fixture) {
	w := work(t, leases(t, f.here), "work", nil)
	eventually(t, "to work", w.working.Load)
	held, err := f.there.Leases(t.Context())
	if err != nil || len(held) != 1 || held[0].Name != "work" {
		t.Fatal(held, err)
	}
	if err := f.there.Release(t.Context(), "work", held[0].Holder); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.there.Acquire(t.Context(), "work", uuid.New(), 2*time.Second); err != nil {
		t.Fatal(err)
	} else if !ok {
		return // it was prolonged in between: then there was nothing to learn
	}
	eventually(t, "to stop", func() bool { return !w.working.Load() })
}

// testOnce: what is done once at a time is never done twice at a time, and errors come back.
func testOnce(t *testing.T, f *fixture) {
	var inside, runs atomic.Int32
	var group sync.WaitGroup
	for i := range 6 {
		l := leases(t, []*postgres.Store{f.here, f.there}[i%2])
		group.Go(func() {
			err := l.Once(t.Context(), "start", func(context.Context) error {
				if inside.Add(1) != 1 {
					t.Error("two at a time")
				}
				time.Sleep(10 * time.Millisecond)
				inside.Add(-1)
				runs.Add(1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if runs.Load() != 6 {
		t.Errorf("%d runs", runs.Load())
	}
	l := leases(t, f.here)
	if err := l.Once(t.Context(), "start", func(context.Context) error { return errShut }); !errors.Is(err, errShut) {
		t.Errorf("the error of the work became %v", err)
	}
	w := work(t, l, "busy", nil)
	eventually(t, "to work", w.working.Load)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := leases(t, f.there).Once(ctx, "busy", func(context.Context) error { return nil }); err == nil {
		t.Error("done while another held the lease")
	}
}

// testPresence: nodes know of each other, what they have, and when they have gone.
func testPresence(t *testing.T, f *fixture) {
	present := func(store cluster.Store, name string) (*cluster.Presence, func()) {
		n := cluster.Node{ID: uuid.New(), Name: name, StartedAt: time.Now(), Backends: []cluster.NodeBackend{{ID: "tpm:" + name, Name: "chip-" + name, Kind: "tpm"}}}
		p, err := cluster.NewPresence(store, func() *cluster.Node { return &n }, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { p.Run(ctx) })
		stop := func() { cancel(); running.Wait() }
		t.Cleanup(stop)
		return p, stop
	}
	a, stopA := present(f.here, "a")
	eventually(t, "a to be there", func() bool { all, err := a.Nodes(t.Context()); return err == nil && len(all) == 1 })
	b, _ := present(f.there, "b")
	eventually(t, "b to know a", func() bool {
		name, nodes := b.Elsewhere("tpm:a")
		return name == "chip-a" && len(nodes) == 1 && nodes[0] == "a"
	})
	if _, nodes := b.Elsewhere("tpm:b"); len(nodes) != 0 {
		t.Errorf("its own backend is elsewhere: %v", nodes)
	}
	if _, nodes := b.Elsewhere("tpm:c"); len(nodes) != 0 {
		t.Errorf("nobody's backend is on %v", nodes)
	}
	stopA()
	all, err := b.Nodes(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "b" {
		t.Errorf("after a has gone: %v, %v", all, err)
	}
}

// signal sends a signal to the server and all its processes.
func (f *fixture) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	postmaster, err := strconv.Atoi(f.server.PID)
	if err != nil {
		t.Fatal(err)
	}
	pids := []int{postmaster}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", postmaster))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range children {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

// testPartition: a database that says nothing any more, on connections that stay open, makes the node believe nothing after a second; when it
// answers again the node knows of everything before it believes anything.
func testPartition(t *testing.T, f *fixture) {
	h := hear(t, f.here)
	f.signal(t, syscall.SIGSTOP)
	stopped := time.Now()
	defer f.signal(t, syscall.SIGCONT)
	for h.Fresh() {
		if time.Since(stopped) > cluster.FreshFor+100*time.Millisecond {
			t.Fatal("still fresh after a second")
		}
		time.Sleep(time.Millisecond)
	}
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if h.Fresh() {
			t.Fatal("fresh while nobody answers")
		}
	}
	f.signal(t, syscall.SIGCONT)
	back := time.Now()
	id := f.change(t)
	for !h.Fresh() {
		if time.Since(back) > 5*time.Second {
			t.Fatal("not fresh 5 s after the database is back")
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(back)
	h.want(t, id, cluster.FreshFor)
	t.Logf("fresh %v after the database is back", took)
}
