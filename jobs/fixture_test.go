package jobs_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/store/sqlite"
)

// env is a real store with a real log, and services over it as several nodes have them. (Several processes: softhsm-test.)
type env struct {
	store *sqlite.Store
	log   *audit.Log
}

func newEnv(t *testing.T) *env {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "jobs-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	e := &env{}
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
	return e
}

// service is what one node has.
func (e *env) service(t *testing.T) *jobs.Service {
	return jobs.New(e.store, e.log, jobs.Options{Idempotency: e.store, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// runner runs jobs as one node does. It is closed at the end of the test.
func (e *env) runner(t *testing.T, s *jobs.Service, o jobs.RunnerOptions) *jobs.Runner {
	t.Helper()
	if o.Leases == nil {
		o.Leases = e.store
	}
	r, err := jobs.NewRunner(s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeRunner(t, r) })
	return r
}

func closeRunner(t *testing.T, r *jobs.Runner) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Errorf("closing a runner: %v", err)
	}
}

var tenant = uuid.MustParse("01890000-0000-7000-8000-000000000001")

func caller(scopes ...auth.Scope) jobs.Caller {
	return jobs.Caller{Principal: &auth.Principal{ID: "api-key:test", Tenant: tenant, Scopes: scopes}, RequestID: "r"}
}

func create(t *testing.T, s *jobs.Service, kind jobs.Kind, params any) *jobs.Job {
	t.Helper()
	j, err := s.Create(t.Context(), jobs.Request{Tenant: tenant, Kind: kind, Params: params, CreatedBy: "api-key:test", RequestID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// wait waits until the job is as it should be, and gives it.
func (e *env) wait(t *testing.T, id uuid.UUID, what string, ok func(*jobs.Job) bool) *jobs.Job {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		j, err := e.store.Job(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if ok(j) {
			return j
		}
		if time.Now().After(end) {
			t.Fatalf("waiting until %s: %+v", what, j)
		}
	}
}

func (e *env) ended(t *testing.T, id uuid.UUID, want jobs.State) *jobs.Job {
	t.Helper()
	j := e.wait(t, id, "it has ended", func(j *jobs.Job) bool { return j.State.Ended() })
	if j.State != want {
		t.Fatalf("ended as %s, want %s: %+v", j.State, want, j)
	}
	return j
}

// actions gives what the log tells of a job: action and outcome.
func (e *env) actions(t *testing.T, j *jobs.Job) (told []string) {
	t.Helper()
	entries, err := e.store.AuditEntries(t.Context(), 0, 10000)
	if err != nil {
		t.Fatal(err)
	}
	for _, stored := range entries {
		entry, err := audit.ParseLeaf(stored.Leaf)
		if err != nil {
			t.Fatal(err)
		}
		if entry.Resource == j.Resource() {
			told = append(told, entry.Action+" "+entry.Outcome+" "+entry.Principal)
		}
	}
	return told
}

func wantFault(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: got %v, want code %q", what, err, code)
	}
}

// leaser keeps the embedded field's name free for the method.
type leaser = jobs.Leases

// cut is leases that cannot be reached any more once gone is closed: a node without its database.
type cut struct {
	leaser
	gone chan struct{}
}

func (c *cut) Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (cluster.Lease, bool, error) {
	select {
	case <-c.gone:
		return cluster.Lease{}, false, fault.New(fault.StoreUnavailable, "cut")
	default:
		return c.leaser.Acquire(ctx, name, holder, ttl)
	}
}

func (c *cut) Release(ctx context.Context, name string, holder uuid.UUID) error {
	select {
	case <-c.gone:
		return fault.New(fault.StoreUnavailable, "cut")
	default:
		return c.leaser.Release(ctx, name, holder)
	}
}
