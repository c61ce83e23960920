package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// Leases is what a Runner needs of cluster.Store.
type Leases interface {
	Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (l cluster.Lease, held bool, err error)
	Release(ctx context.Context, name string, holder uuid.UUID) error
	Leases(ctx context.Context) ([]cluster.Lease, error)
}

// Definition is a kind that a node can run.
type Definition struct {
	Kind Kind
	Work Worker
	// Here reports whether this node can do the work now; those that cannot leave it to others. nil: every node can.
	Here func(*Job) bool
}

// RunnerOptions of a Runner. Leases and Kinds are required.
type RunnerOptions struct {
	// Node is who holds the leases: cluster.Node.ID. Zero: an id of its own.
	Node   uuid.UUID
	Leases Leases
	Kinds  []Definition
	// Concurrent bounds the jobs that run at once on this node. Default 4.
	Concurrent int
	// Poll is how often the store is asked for jobs when nobody wakes the runner, and TTL how long a lease lasts that is not
	// prolonged: what a node ran that died is gone on with after about their sum. Default 1 s and 5 s.
	Poll, TTL time.Duration
	// Registerer takes the metrics until Close. Without it there are none.
	Registerer prometheus.Registerer
}

const (
	openEach    = 64 // jobs of a tenant that one look sees
	openLimit   = 512
	flushEvery  = time.Second            // progress that is not saved by the worker
	lookEvery   = 500 * time.Millisecond // whether a running job was cancelled
	retryFirst  = time.Second
	retryMost   = time.Minute
	settleFor   = 10 * time.Second // what ending an attempt may take
	pruneEvery  = time.Hour
	prunePage   = 500
	leasePrefix = "job/"
	pruneLease  = "job-prune"
)

// Runner runs jobs on this node.
type Runner struct {
	service *Service
	store   Store
	o       RunnerOptions
	kinds   map[Kind]Definition
	log     *slog.Logger
	metrics *metrics

	ctx    context.Context // ends at Close, with errClosing
	cancel context.CancelCauseFunc
	group  sync.WaitGroup // the loop and every attempt

	mu      sync.Mutex // guards running and closed
	closed  bool
	running map[uuid.UUID]chan struct{} // for each job that runs here, what makes its keeper look at once
}

// NewRunner begins to run jobs of the kinds, those of other nodes that are gone among them. Every goroutine ends at Close.
func NewRunner(s *Service, o RunnerOptions) (*Runner, error) {
	if o.Leases == nil {
		return nil, errors.New("jobs: a runner needs leases")
	}
	if o.Node == uuid.Nil {
		var err error
		if o.Node, err = uuid.NewRandom(); err != nil {
			return nil, fmt.Errorf("naming the runner: %w", err)
		}
	}
	if o.Concurrent <= 0 {
		o.Concurrent = 4
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.TTL <= 0 {
		o.TTL = 5 * time.Second
	}
	r := &Runner{service: s, store: s.store, o: o, kinds: map[Kind]Definition{}, log: s.log, running: map[uuid.UUID]chan struct{}{}}
	for _, d := range o.Kinds {
		if _, twice := r.kinds[d.Kind]; twice || d.Kind == "" || d.Work == nil {
			return nil, fmt.Errorf("jobs: kind %q is defined twice, or not at all", d.Kind)
		}
		r.kinds[d.Kind] = d
	}
	var err error
	if r.metrics, err = newMetrics(r, o.Registerer); err != nil {
		return nil, fmt.Errorf("registering metrics of jobs: %w", err)
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.group.Add(1)
	go r.loop()
	return r, nil
}

// Close stops every attempt, gives the jobs back so that others go on with them at once, and waits. When ctx ends first the error is
// fault.Timeout. It may be called more than once.
func (r *Runner) Close(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		r.cancel(errClosing)
	}
	ended := make(chan struct{})
	go func() {
		r.group.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		if first {
			r.metrics.unregister()
		}
		return nil
	case <-ctx.Done():
		return fault.Wrap(fault.Timeout, "a job did not end in time", ctx.Err())
	}
}

// loop looks for jobs when it is woken, and every now and then.
func (r *Runner) loop() {
	defer r.group.Done()
	poll := time.NewTicker(r.o.Poll)
	defer poll.Stop()
	prune := time.NewTimer(time.Minute + time.Duration(rand.Int64N(int64(pruneEvery)))) //nolint:gosec // spreads nodes, hides nothing
	defer prune.Stop()
	var failing bool
	for {
		err := r.look()
		switch {
		case err != nil && !failing && r.ctx.Err() == nil:
			r.log.Warn("jobs cannot be looked for", "error", err)
			failing = true
		case err == nil:
			failing = false
		}
		select {
		case <-r.ctx.Done():
			return
		case <-poll.C:
		case <-r.service.made:
			r.lookAgain()
		case <-prune.C:
			if err := r.prune(); err != nil && r.ctx.Err() == nil {
				r.log.Warn("jobs that ended long ago could not be forgotten", "error", err)
			}
			prune.Reset(pruneEvery)
		}
	}
}

// lookAgain makes the keepers of all attempts look at their jobs: one may have been cancelled.
func (r *Runner) lookAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kick := range r.running {
		select {
		case kick <- struct{}{}:
		default: // it looks in any case
		}
	}
}

// look begins with what is open and nobody has, as far as there is room.
func (r *Runner) look() error {
	if r.room() == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.o.TTL)
	defer cancel()
	open, err := r.store.OpenJobs(ctx, r.service.now(), openEach, openLimit)
	if err != nil || len(open) == 0 {
		return err
	}
	leases, err := r.o.Leases.Leases(ctx)
	if err != nil {
		return err
	}
	others := make(map[string]bool, len(leases))
	for _, l := range leases {
		others[l.Name] = l.Holder != r.o.Node
	}
	for _, j := range open {
		d, known := r.kinds[j.Kind]
		if !known || others[leaseOf(j.ID)] || d.Here != nil && !d.Here(j) {
			continue
		}
		kick := r.enter(j.ID)
		if kick == nil {
			continue
		}
		go r.attempt(j.ID, d, kick)
		if r.room() == 0 {
			break
		}
	}
	return nil
}

func leaseOf(id uuid.UUID) string { return leasePrefix + id.String() }

func (r *Runner) room() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.o.Concurrent - len(r.running)
}

// enter takes a place for an attempt; nil when there is none, or the job runs here.
func (r *Runner) enter(id uuid.UUID) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, runs := r.running[id]; runs || r.closed || len(r.running) >= r.o.Concurrent {
		return nil
	}
	kick := make(chan struct{}, 1)
	r.running[id] = kick
	r.group.Add(1)
	return kick
}

func (r *Runner) leave(id uuid.UUID) {
	r.mu.Lock()
	delete(r.running, id)
	r.mu.Unlock()
	r.service.Wake() // there is room
	r.group.Done()
}

// attempt takes the lease and the job, runs it, and writes down what became of it.
func (r *Runner) attempt(id uuid.UUID, d Definition, kick chan struct{}) {
	defer r.leave(id)
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	l := lease{leases: r.o.Leases, name: leaseOf(id), holder: r.o.Node, ttl: r.o.TTL}
	held, err := l.take(ctx)
	if err != nil || !held {
		if err != nil && ctx.Err() == nil {
			r.log.Warn("the lease of a job cannot be taken", "job", id, "error", err)
		}
		return
	}
	j, err := r.store.ClaimJob(ctx, id, r.o.Node, r.service.stamp())
	if err != nil {
		if !fault.Has(err, fault.JobEnded) && !fault.Has(err, fault.JobNotFound) && ctx.Err() == nil {
			r.log.Warn("a job cannot be begun", "job", id, "error", err)
		}
		l.release(ctx)
		return
	}
	run := newRun(j, r.store, r.service.now, cancel)
	var keeper sync.WaitGroup
	keeping, enough := context.WithCancel(context.WithoutCancel(ctx))
	keeper.Go(func() { r.keep(keeping, run, &l, kick) })
	err = work(ctx, d.Work, run, r.log)
	r.settle(ctx, run, err)
	enough()
	keeper.Wait()
	if !errors.Is(context.Cause(ctx), errLost) {
		l.release(ctx)
	}
}

// work calls the worker. What panics has failed for good.
func work(ctx context.Context, w Worker, run *Run, log *slog.Logger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			text := fmt.Sprintf("%T", p) // its value could be anything
			if e, ok := p.(runtime.Error); ok {
				text = e.Error()
			}
			log.Error("the worker of a job panicked", "job", run.job.ID, "kind", run.job.Kind, "panic", text, "stack", string(debug.Stack()))
			err = fault.New(fault.Internal, "the work failed by a fault of the program")
		}
	}()
	return w(ctx, run)
}

// keep prolongs the lease, writes progress, and looks whether the job was cancelled, until the attempt is over.
func (r *Runner) keep(ctx context.Context, run *Run, l *lease, kick <-chan struct{}) {
	tick := time.NewTicker(min(lookEvery, r.o.TTL/5))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-kick:
		}
		if !l.keep(ctx) {
			run.stop(errLost)
			return
		}
		// What fails here is met again at the next tick, and by the lease when it lasts.
		bounded, cancel := context.WithTimeout(ctx, r.o.TTL/2)
		if run.due(flushEvery) {
			if err := run.flush(bounded); err != nil && ctx.Err() == nil && !errors.Is(err, errCancelled) {
				r.log.Debug("the progress of a job was not written", "job", run.job.ID, "error", err)
			}
		} else if j, err := r.store.Job(bounded, run.job.ID); err == nil {
			if j.Node != r.o.Node {
				run.stop(errLost)
			}
			_ = run.see(j.State) // it ends the attempt, which is all there is to do
		}
		cancel()
	}
}

// settle writes down what became of an attempt.
func (r *Runner) settle(attempt context.Context, run *Run, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(attempt), settleFor)
	defer cancel()
	cause := context.Cause(attempt)
	log := r.log.With("job", run.job.ID, "kind", run.job.Kind)
	switch {
	case errors.Is(cause, errLost):
		log.Warn("another node has the job")
		return
	case errors.Is(cause, errCancelled):
		if err := run.flush(ctx); err != nil && !errors.Is(err, errCancelled) {
			log.Warn("the last progress of a cancelled job was not written", "error", err)
		}
		r.metrics.end(run.job.Kind, Cancelled)
		return
	case err != nil && errors.Is(cause, errClosing):
		r.giveBack(ctx, run, nil, log)
		return
	case err != nil && Passing(err):
		log.Info("a job is tried again later", "error", err)
		r.giveBack(ctx, run, err, log)
		return
	}
	j := run.ended(r.service.stamp(), err)
	if err != nil {
		log.Warn("a job failed", "error", err)
	}
	if failed := r.record(ctx, run, j); failed != nil {
		if fault.Has(failed, fault.Conflict) {
			return // it was cancelled, or another node has it
		}
		log.Warn("the end of a job could not be written; it is met again", "error", failed)
		r.giveBack(ctx, run, failed, log)
		return
	}
	r.metrics.end(j.Kind, j.State)
}

// ended is the job as it is to be written at its end.
func (r *Run) ended(at time.Time, err error) *Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.job
	j.State, j.Counts, j.Notices, j.EndedAt, j.UpdatedAt, j.Cursor, j.Error, j.Message = Done, r.counts, r.notices, at, at, nil, "", ""
	if err != nil {
		n := notice("", err)
		j.State, j.Error, j.Message = Failed, n.Code, n.Message
	}
	return &j
}

func (r *Runner) record(ctx context.Context, run *Run, j *Job) error {
	run.saving.Lock() // no progress is written any more
	defer run.saving.Unlock()
	items := j.Counts.Done + j.Counts.Failed
	_, err := r.service.recorder.Record(ctx, &audit.Entry{Tenant: j.Tenant, Principal: j.CreatedBy, Action: ActionEnd, Resource: j.Resource(),
		Outcome: outcome(j), Items: int(items), Detail: string(j.Kind), Latency: max(j.EndedAt.Sub(j.StartedAt), 0)}, r.store.EndJob(j))
	return err
}

// giveBack leaves the job to whoever comes first: at once, or after a failure when its time has come.
func (r *Runner) giveBack(ctx context.Context, run *Run, err error, log *slog.Logger) {
	p := run.progress()
	p.State, p.RetryAt = Queued, r.service.stamp()
	p.Attempts, p.Error, p.Message = run.job.Attempts, run.job.Error, run.job.Message
	if err != nil {
		n := notice("", err)
		p.Attempts, p.Error, p.Message = run.attempts(), n.Code, n.Message
		p.RetryAt = p.RetryAt.Add(backoff(p.Attempts))
	}
	if _, failed := r.store.SaveProgress(ctx, p); failed != nil && !fault.Has(failed, fault.Conflict) {
		log.Warn("a job could not be given back; it is taken when its lease is over", "error", failed)
	}
}

// backoff is how long to wait after so many failures: a second, doubled up to a minute, less up to a quarter.
func backoff(attempts int) time.Duration {
	d := retryFirst << min(max(attempts-1, 0), 6)
	d = min(d, retryMost)
	return d - time.Duration(rand.Int64N(int64(d/4))) //nolint:gosec // spreads nodes, hides nothing
}

// prune forgets what ended long ago, on one node.
func (r *Runner) prune() error {
	ctx, cancel := context.WithTimeout(r.ctx, settleFor)
	defer cancel()
	l := lease{leases: r.o.Leases, name: pruneLease, holder: r.o.Node, ttl: 2 * settleFor}
	if held, err := l.take(ctx); err != nil || !held {
		return err
	}
	defer l.release(ctx)
	for {
		n, err := r.store.PruneJobs(ctx, r.service.now().Add(-Keep), prunePage)
		if err != nil || n < prunePage {
			return err
		}
	}
}
