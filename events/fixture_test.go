package events_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
)

// env is a real store with a real log, and what tells of it as one node has it. (Several nodes: softhsm-test.)
type env struct {
	store  *sqlite.Store
	log    *audit.Log
	feed   *events.Feed
	tenant uuid.UUID
	logger *slog.Logger
}

func newEnv(t *testing.T) *env {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "events-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	e := &env{tenant: uuid.New(), logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if e.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "store.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	if e.log, err = audit.Open(t.Context(), e.store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.log.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := e.store.Close(); err != nil {
			t.Error(err)
		}
	})
	e.feed = events.NewFeed(e.store, named{e.store}, e.logger)
	t.Cleanup(e.feed.Close)
	return e
}

// named gives the names of the store's keys.
type named struct{ store *sqlite.Store }

func (n named) EventKey(ctx context.Context, tenant, id uuid.UUID) (string, map[string]string, error) {
	k, err := n.store.KeyByID(ctx, tenant, id)
	if err != nil {
		return "", nil, err
	}
	return k.Name, k.Labels, nil
}

// change makes one change of a tenant and gives the index of its entry.
func (e *env) change(t *testing.T, tenant uuid.UUID, detail string) uint64 {
	t.Helper()
	k := &auth.APIKey{ID: uuid.New(), Tenant: tenant, Name: "ci", Brand: "kw", Prefix: uuid.NewString(), CreatedAt: time.Now()}
	n, err := e.log.Record(t.Context(), &audit.Entry{Tenant: tenant, Principal: "api-key:tester", Action: "api-key.create", Resource: k.PrincipalID(),
		Outcome: "ok", Detail: detail}, e.store.InsertAPIKey(k))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// noise records an operation, which is no change.
func (e *env) noise(t *testing.T) {
	t.Helper()
	if _, err := e.log.Record(t.Context(), &audit.Entry{Tenant: e.tenant, Principal: "api-key:tester", Action: "encrypt", Outcome: "ok"}); err != nil {
		t.Fatal(err)
	}
}

func (e *env) streams(t *testing.T, o events.StreamOptions) *events.Streams {
	t.Helper()
	s, err := events.NewStreams(e.feed, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func decode(t *testing.T, b []byte) wire.Event {
	t.Helper()
	var e wire.Event
	if err := json.Unmarshal(b, &e, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	return e
}

// root derives keys as the root does: another one for each label.
func derive(label string) (secret.Bytes, error) {
	sum := sha256.Sum256([]byte(label))
	return sum[:], nil
}

// clock is a clock that can be set forward.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// webhooks gives the service of one node. It may call this machine.
func (e *env) webhooks(t *testing.T, set func(*events.Options)) *events.Webhooks {
	t.Helper()
	o := events.Options{Store: e.store, Recorder: e.log, Feed: e.feed, Derive: derive, Logger: e.logger, FirstWait: 10 * time.Millisecond,
		MaxWait: 100 * time.Millisecond, Reach: events.Reach{Allow: []string{"127.0.0.0/8"}, PlainHTTP: true}}
	if set != nil {
		set(&o)
	}
	w, err := events.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// deliver delivers until stop is called, or the test ends.
func (e *env) deliver(t *testing.T, w *events.Webhooks) (stop func()) {
	t.Helper()
	leases, err := cluster.NewLeases(cluster.LeasesOptions{Store: e.store, Holder: uuid.New(), TTL: time.Second, Logger: e.logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Deliver(ctx, leases)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func (e *env) caller() events.Caller {
	return events.Caller{Tenant: e.tenant, Principal: "api-key:tester", RequestID: "r"}
}

func wantFault(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: got %v, want code %q", what, err, code)
	}
}

// wait waits for a condition that comes by itself.
func wait(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func fmtIDs(list []*events.Event) (s string) {
	for _, e := range list {
		s += fmt.Sprint(e.Index, " ")
	}
	return s
}

// counting counts how often news are asked for.
type counting struct {
	events.Log
	mu sync.Mutex
	c  int
}

func (c *counting) n() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c
}

func (c *counting) News(ctx context.Context, from uint64, limit int) ([]cluster.News, uint64, bool, error) {
	c.mu.Lock()
	c.c++
	c.mu.Unlock()
	return c.Log.News(ctx, from, limit)
}
