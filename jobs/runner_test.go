package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

const never = time.Hour

// TestRun: a job begins as soon as it is made, and its end tells what was done.
func TestRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	e.runner(t, s, jobs.RunnerOptions{Poll: never, Registerer: prometheus.NewRegistry(), Kinds: []jobs.Definition{{Kind: "count", Work: func(ctx context.Context, r *jobs.Run) error {
		var p struct{ N int64 }
		if err := json.Unmarshal(r.Params(), &p); err != nil {
			return err
		}
		for i := range p.N {
			if i == 2 {
				r.Fail("key:x/3", fault.New(fault.NotExportable, "it cannot leave"))
				r.Fail("key:x/4", errors.New("secret cause"))
				continue
			}
			r.Add(1)
			if err := r.Save(ctx, []byte(strconv.FormatInt(i, 10))); err != nil {
				return err
			}
		}
		r.Progress(r.Counts().Done, p.N)
		return nil
	}}}})
	start := time.Now()
	j := create(t, s, "count", map[string]int{"N": 5})
	j = e.ended(t, j.ID, jobs.Done)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a job that was queued took %v: nobody was woken", took)
	}
	if want := (jobs.Counts{Done: 4, Failed: 2, Total: 5}); j.Counts != want {
		t.Errorf("counts %+v, want %+v", j.Counts, want)
	}
	want := []jobs.Notice{{Resource: "key:x/3", Code: fault.NotExportable, Message: "it cannot leave"},
		{Resource: "key:x/4", Code: fault.Internal, Message: "an internal fault: the log of the service has its cause"}}
	if diff := cmp.Diff(want, j.Notices); diff != "" {
		t.Error(diff)
	}
	if j.Error != "" || j.Cursor != nil || j.StartedAt.IsZero() || j.EndedAt.Before(j.StartedAt) || j.Node == uuid.Nil {
		t.Errorf("%+v", j)
	}
	if diff := cmp.Diff([]string{"job.create ok api-key:test", "job.end ok api-key:test"}, e.actions(t, j)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	if leases, err := e.store.Leases(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
}

// TestCancel: a job that runs on one node is cancelled on another, which cannot wake the first: it ends within a second all the same.
func TestCancel(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a, b := e.service(t), e.service(t)
	began, ended := make(chan struct{}), make(chan time.Time, 1)
	e.runner(t, a, jobs.RunnerOptions{Poll: never, Kinds: []jobs.Definition{{Kind: "long", Work: func(ctx context.Context, r *jobs.Run) error {
		close(began)
		<-ctx.Done()
		r.Progress(3, 9)
		ended <- time.Now()
		return ctx.Err()
	}}}})
	j := create(t, a, "long", nil)
	<-began
	start := time.Now()
	c := caller(auth.ScopeKeysRead, auth.ScopeKeysWrite)
	cancelled, err := b.Cancel(t.Context(), c, j.ID)
	if err != nil || cancelled.State != jobs.Cancelled {
		t.Fatalf("%+v, %v", cancelled, err)
	}
	if took := (<-ended).Sub(start); took > time.Second {
		t.Errorf("it went on for %v", took)
	}
	_, err = b.Cancel(t.Context(), c, j.ID)
	wantFault(t, "a second time", err, fault.JobEnded)
	j = e.wait(t, j.ID, "its last progress is written", func(j *jobs.Job) bool { return j.Counts.Done == 3 })
	if j.State != jobs.Cancelled || j.Error != "" {
		t.Errorf("%+v", j)
	}
	want := []string{"job.create ok api-key:test", "job.cancel ok api-key:test", "job.cancel ERR_JOB_ENDED api-key:test"}
	if diff := cmp.Diff(want, e.actions(t, j)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}

	// With news it is at once: Wake is what a node does when it hears of them.
	began, ended = make(chan struct{}), make(chan time.Time, 1)
	j = create(t, a, "long", nil)
	<-began
	if _, err := b.Cancel(t.Context(), c, j.ID); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	a.Wake()
	if took := (<-ended).Sub(start); took > 250*time.Millisecond {
		t.Errorf("woken, it went on for %v", took)
	}
}

// TestRetry: what passes is tried again from the cursor, what does not fails the job, and the caller reads the message of a fault only.
func TestRetry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	var tries atomic.Int64
	e.runner(t, s, jobs.RunnerOptions{Poll: 20 * time.Millisecond, Kinds: []jobs.Definition{
		{Kind: "passing", Work: func(ctx context.Context, r *jobs.Run) error {
			switch tries.Add(1) {
			case 1:
				r.Add(2)
				if err := r.Save(ctx, []byte("two")); err != nil {
					return err
				}
				return fault.Wrap(fault.BackendUnavailable, "not now", errors.New("device gone"))
			case 2:
				return fault.New(fault.Locked, "locked")
			}
			if string(r.Cursor()) != "two" || r.Counts().Done != 2 || r.Job().Attempts != 2 {
				return fault.New(fault.Internal, "nothing is known of the first attempt")
			}
			r.Add(1)
			return nil
		}},
		{Kind: "permanent", Work: func(context.Context, *jobs.Run) error { return fault.New(fault.NotExportable, "it cannot leave") }},
		{Kind: "unknown", Work: func(context.Context, *jobs.Run) error { return errors.New("secret cause") }},
		{Kind: "panics", Work: func(context.Context, *jobs.Run) error { panic("secret cause") }},
	}})
	start := time.Now()
	j := create(t, s, "passing", nil)
	waiting := e.wait(t, j.ID, "it waits", func(j *jobs.Job) bool { return j.Attempts > 0 })
	if waiting.State != jobs.Queued || waiting.Error != fault.BackendUnavailable || waiting.Message != "not now" || !waiting.RetryAt.After(waiting.CreatedAt) {
		t.Errorf("waiting: %+v", waiting)
	}
	for kind, want := range map[jobs.Kind]struct {
		code    fault.Code
		message string
	}{
		"permanent": {fault.NotExportable, "it cannot leave"},
		"unknown":   {fault.Internal, "an internal fault: the log of the service has its cause"},
		"panics":    {fault.Internal, "the work failed by a fault of the program"},
	} {
		failed := e.ended(t, create(t, s, kind, nil).ID, jobs.Failed)
		if failed.Error != want.code || failed.Message != want.message {
			t.Errorf("%s: %q %q", kind, failed.Error, failed.Message)
		}
		if told := e.actions(t, failed); len(told) != 2 || told[1] != "job.end "+string(want.code)+" api-key:test" {
			t.Errorf("%s: the log tells %q", kind, told)
		}
	}
	j = e.ended(t, j.ID, jobs.Done)
	if j.Counts.Done != 3 || j.Error != "" || tries.Load() != 3 {
		t.Errorf("after %d attempts: %+v", tries.Load(), j)
	}
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("two failed attempts took %v: there was no pause", took)
	}
}

// TestTakeover: a node that cannot reach the leases stops by itself before another takes its job, which goes on from the cursor.
func TestTakeover(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const ttl = time.Second
	a, b := e.service(t), e.service(t)
	leases := &cut{leaser: e.store, gone: make(chan struct{})}
	var atOnce, most atomic.Int64
	enter := func() func() {
		if n := atOnce.Add(1); n > most.Load() {
			most.Store(n)
		}
		return func() { atOnce.Add(-1) }
	}
	began, stopped := make(chan struct{}), make(chan error, 1)
	e.runner(t, a, jobs.RunnerOptions{Poll: 50 * time.Millisecond, TTL: ttl, Leases: leases, Kinds: []jobs.Definition{{Kind: "long", Work: func(ctx context.Context, r *jobs.Run) error {
		defer enter()()
		if err := r.Save(ctx, []byte("half")); err != nil {
			return err
		}
		close(began)
		<-ctx.Done()
		stopped <- r.Save(context.WithoutCancel(ctx), []byte("late"))
		return ctx.Err()
	}}}})
	j := create(t, a, "long", nil)
	<-began
	first := e.wait(t, j.ID, "it runs", func(j *jobs.Job) bool { return j.State == jobs.Running })
	e.runner(t, b, jobs.RunnerOptions{Poll: 50 * time.Millisecond, TTL: ttl, Kinds: []jobs.Definition{{Kind: "long", Work: func(ctx context.Context, r *jobs.Run) error {
		defer enter()()
		if string(r.Cursor()) == "" {
			return fault.New(fault.Internal, "nothing is known of the first attempt")
		}
		r.Progress(1, 1)
		return nil
	}}}})
	time.Sleep(2 * ttl) // the lease is prolonged: nothing is taken
	if now := e.wait(t, j.ID, "", func(*jobs.Job) bool { return true }); now.State != jobs.Running || now.Node != first.Node {
		t.Fatalf("taken from a node that is well: %+v", now)
	}
	close(leases.gone)
	start := time.Now()
	last := e.ended(t, j.ID, jobs.Done)
	if took := time.Since(start); took > 4*ttl {
		t.Errorf("taken over after %v", took)
	}
	if last.Node == first.Node || most.Load() != 1 {
		t.Errorf("%d attempts at once, the last on the first node: %v", most.Load(), last.Node == first.Node)
	}
	if err := <-stopped; err != nil {
		t.Logf("the first node's last word: %v", err)
	}
}

// TestClose: a node that stops gives its jobs back, and another goes on at once.
func TestClose(t *testing.T) {
	e := newEnv(t)
	before := runtime.NumGoroutine()
	a := e.service(t)
	began := make(chan struct{}, 1)
	work := func(ctx context.Context, r *jobs.Run) error {
		if string(r.Cursor()) == "half" {
			return nil
		}
		r.Mark([]byte("half"))
		began <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	kinds := []jobs.Definition{{Kind: "long", Work: work}}
	first := e.runner(t, a, jobs.RunnerOptions{Poll: never, Kinds: kinds})
	j := create(t, a, "long", nil)
	<-began
	closeRunner(t, first)
	if given := e.wait(t, j.ID, "it is given back", func(j *jobs.Job) bool { return j.State == jobs.Queued }); given.Error != "" || given.Attempts != 0 {
		t.Errorf("given back: %+v", given)
	}
	start := time.Now()
	second := e.runner(t, e.service(t), jobs.RunnerOptions{Poll: never, Kinds: kinds})
	e.ended(t, j.ID, jobs.Done)
	if took := time.Since(start); took > time.Second {
		t.Errorf("gone on with after %v", took)
	}
	closeRunner(t, second)
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}

	// A worker that does not end holds Close up no longer than it may take.
	free := make(chan struct{})
	stuck := e.runner(t, a, jobs.RunnerOptions{Poll: never, Kinds: []jobs.Definition{{Kind: "stuck", Work: func(context.Context, *jobs.Run) error {
		began <- struct{}{}
		<-free
		return nil
	}}}})
	create(t, a, "stuck", nil)
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantFault(t, "closing", stuck.Close(ctx), fault.Timeout)
	close(free)
}

// TestOnce: two nodes run many jobs, each once, no more at a time than they may, and one tenant does not wait for all jobs of another.
func TestOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const count, each = 40, 3
	var mu sync.Mutex // guards runs and order
	runs := map[uuid.UUID]int{}
	var order []uuid.UUID // tenants
	var most, now [2]atomic.Int64
	gate := make(chan struct{})
	var services [2]*jobs.Service
	other := uuid.New()
	for i := range services {
		services[i] = e.service(t)
	}
	for i := range count {
		create(t, services[i%2], "short", nil)
	}
	if _, err := services[0].Create(t.Context(), jobs.Request{Tenant: other, Kind: "short"}); err != nil {
		t.Fatal(err)
	}
	for i, s := range services {
		e.runner(t, s, jobs.RunnerOptions{Poll: 50 * time.Millisecond, Concurrent: each, Kinds: []jobs.Definition{{Kind: "short", Work: func(_ context.Context, r *jobs.Run) error {
			if n := now[i].Add(1); n > most[i].Load() {
				most[i].Store(n)
			}
			defer now[i].Add(-1)
			<-gate
			mu.Lock()
			runs[r.Job().ID]++
			order = append(order, r.Job().Tenant)
			mu.Unlock()
			return nil
		}}}})
	}
	time.Sleep(200 * time.Millisecond)
	close(gate)
	for _, of := range []uuid.UUID{tenant, other} {
		found, err := e.store.Jobs(t.Context(), of, jobs.Filter{}, uuid.Nil, count)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range found {
			e.ended(t, j.ID, jobs.Done)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(runs) != count+1 {
		t.Errorf("%d jobs ran", len(runs))
	}
	for id, n := range runs {
		if n != 1 {
			t.Errorf("job %v ran %d times", id, n)
		}
	}
	for i := range most {
		if most[i].Load() > each {
			t.Errorf("%d jobs at once on node %d", most[i].Load(), i)
		}
	}
	// It is in the second turn of the two nodes; what both write down at the same time may come in any order.
	if at := slices.Index(order, other); at >= 4*each {
		t.Errorf("the job of the other tenant was the %d-th", at+1)
	}
}

// TestHere: a node that cannot do a job leaves it to one that can.
func TestHere(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	work := func(where string) jobs.Worker {
		return func(_ context.Context, r *jobs.Run) error {
			r.Fail(where, fault.New(fault.Unsupported, ""))
			return nil
		}
	}
	e.runner(t, s, jobs.RunnerOptions{Poll: 20 * time.Millisecond, Kinds: []jobs.Definition{{Kind: "local", Work: work("a"), Here: func(j *jobs.Job) bool { return string(j.Params) == `"a"` }}}})
	j := create(t, s, "local", "b")
	mine := create(t, s, "local", "a")
	if got := e.ended(t, mine.ID, jobs.Done); got.Notices[0].Resource != "a" {
		t.Errorf("%+v", got)
	}
	time.Sleep(100 * time.Millisecond)
	if now := e.wait(t, j.ID, "", func(*jobs.Job) bool { return true }); now.State != jobs.Queued {
		t.Fatalf("%+v", now)
	}
	e.runner(t, e.service(t), jobs.RunnerOptions{Poll: 20 * time.Millisecond, Kinds: []jobs.Definition{{Kind: "local", Work: work("b")}}})
	if got := e.ended(t, j.ID, jobs.Done); got.Notices[0].Resource != "b" {
		t.Errorf("%+v", got)
	}
}

// TestProgressIsSeen: what a worker notes without saving it can be read about a second later, and costs no audit entry.
func TestProgressIsSeen(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	free := make(chan struct{})
	e.runner(t, s, jobs.RunnerOptions{Poll: never, Kinds: []jobs.Definition{{Kind: "slow", Work: func(_ context.Context, r *jobs.Run) error {
		for i := range int64(1000) {
			r.Progress(i, 2000)
		}
		r.Mark([]byte("999"))
		<-free
		return nil
	}}}})
	j := create(t, s, "slow", nil)
	seen := e.wait(t, j.ID, "progress is seen", func(j *jobs.Job) bool { return j.Counts.Done == 999 })
	if string(seen.Cursor) != "999" || seen.Counts.Total != 2000 {
		t.Errorf("%+v", seen)
	}
	head, err := e.store.AuditHead(t.Context())
	if err != nil || head.Size != 1 {
		t.Errorf("%d entries, %v", head.Size, err)
	}
	close(free)
	e.ended(t, j.ID, jobs.Done)
}

// TestPrune: what ended more than thirty days ago is forgotten, what ended later and what has not ended is kept.
func TestPrune(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	made := map[string]uuid.UUID{}
	for name, age := range map[string]time.Duration{"old": jobs.Keep + time.Hour, "young": jobs.Keep - time.Hour, "open": 0} {
		j, _, err := s.Prepare(jobs.Request{Tenant: tenant, Kind: "k"})
		if err != nil {
			t.Fatal(err)
		}
		j.CreatedAt = j.CreatedAt.Add(-2 * jobs.Keep)
		if age > 0 {
			j.State, j.EndedAt = jobs.Done, time.Now().Add(-age).UTC().Truncate(time.Microsecond)
		}
		if _, err := e.log.Record(t.Context(), &audit.Entry{Principal: "system", Action: "test", Outcome: "ok"}, e.store.InsertJob(j)); err != nil {
			t.Fatal(err)
		}
		made[name] = j.ID
	}
	r := e.runner(t, s, jobs.RunnerOptions{Poll: never})
	if err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	for name, code := range map[string]fault.Code{"old": fault.JobNotFound, "young": "", "open": ""} {
		_, err := e.store.Job(t.Context(), made[name])
		wantFault(t, name, err, code)
	}
	if leases, err := e.store.Leases(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
}
