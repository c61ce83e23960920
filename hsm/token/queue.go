package token

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/fault"
)

// job is one operation on its way to a session. A call into the module cannot be cancelled, so a worker makes it, and the caller
// goes when its context ends: the worker's session is then written off.
type job struct {
	run   func(s *session) error
	ctx   context.Context
	flags jobFlags
	// begun is set by run before it does what must not be done twice.
	begun bool

	state  atomic.Uint32
	done   chan error // holds one
	queued time.Time
}

// jobFlags have in their upper half what the job is counted as.
type jobFlags uint16

const (
	once  jobFlags = 1 << iota // after begun no second attempt
	opens                      // data that does not open is fault.DecryptionFailed
	slow                       // it makes an RSA key
	whole                      // it goes through all objects of the token
)

const (
	waiting uint32 = iota
	working
	finished
	givenUp
)

// session is a worker's own, of one generation.
type session struct {
	pkcs11.SessionHandle
	d   *device
	gen *generation
	job *job
}

// came notes that the module has come back, for an operation of a kind.
func (d *device) came(t Timed) {
	now := int64(time.Since(d.began))
	d.stats.returns.Add(1)
	d.stats.last.Store(now)
	d.stats.lastOf[t].Store(now)
}

// came is the device's, in the middle of an operation.
func (s *session) came() {
	t := TimeOther
	if s.job != nil {
		t = s.job.flags.timed()
	}
	s.d.came(t)
}

// enter waits until it may make, destroy or search for objects of the token, as long as the caller does: what nobody waits for any more would
// only keep the others waiting. leave follows.
func (s *session) enter() error {
	var done <-chan struct{}
	if s.job != nil {
		done = s.job.ctx.Done()
	}
	select {
	case s.gen.objects <- struct{}{}:
	case <-done:
		return timeout(s.job.ctx)
	}
	if s.job != nil && s.job.state.Load() == givenUp {
		s.leave()
		return timeout(s.job.ctx)
	}
	return nil
}

func (s *session) leave() { <-s.gen.objects }

// begin marks the point after which the operation must not be repeated.
func (s *session) begin() { s.job.begun = true }

// do runs an operation on a session of its own and waits for it, or for the end of ctx.
func (d *device) do(ctx context.Context, flags jobFlags, run func(s *session) error) error {
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	if err := d.refusal(); err != nil {
		return err
	}
	if d.limits.call > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d.limits.of(flags), errSlow)
		defer cancel()
	}
	j := &job{run: run, ctx: ctx, flags: flags, done: make(chan error, 1), queued: time.Now()}
	select {
	case d.queue <- j:
	default:
		return errQueueFull
	}
	d.spawn()
	select {
	case err := <-j.done:
		return err
	case <-d.stop:
	case <-ctx.Done():
	}
	// Whoever changes the state owns the outcome.
	if j.state.CompareAndSwap(waiting, givenUp) {
		return d.over(ctx)
	}
	if ctx.Err() == nil {
		// Closing: what runs is waited for, as long as the caller wants.
		select {
		case err := <-j.done:
			return err
		case <-ctx.Done():
		}
	}
	d.mu.Lock()
	gave := j.state.CompareAndSwap(working, givenUp)
	if gave {
		d.given[j] = time.Now()
	}
	d.mu.Unlock()
	if gave {
		select {
		case d.wake <- struct{}{}: // the healer watches calls that are given up
		default:
		}
		return d.over(ctx)
	}
	return <-j.done
}

func (d *device) over(ctx context.Context) error {
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	return errShut
}

// spawn starts a worker when more jobs wait than workers do.
func (d *device) spawn() {
	for int(d.idle.Load()) < len(d.queue) {
		n := d.workers.Load()
		if n >= d.limit.Load() || d.state.Load() == shut {
			return
		}
		if d.workers.CompareAndSwap(n, n+1) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.state.Load() == shut {
				d.workers.Add(-1)
				return
			}
			d.running.Add(1)
			go d.work()
			return
		}
	}
}

// work runs jobs until the token is closed or gives fewer sessions.
func (d *device) work() {
	defer d.running.Done()
	var s *session
	defer func() {
		d.leave(s)
		d.workers.Add(-1)
		d.spawn() // a job that came while we went would wait for nobody
	}()
	for {
		d.idle.Add(1)
		var j *job
		select {
		case j = <-d.queue:
		case <-d.stop:
		}
		d.idle.Add(-1)
		if j == nil {
			return
		}
		d.spawn() // a job that came between our waking and here would wait for this one
		if !j.state.CompareAndSwap(waiting, working) {
			continue
		}
		waited := time.Since(j.queued)
		d.stats.queueTime.Add(int64(waited))
		d.stats.times[j.flags.timed()].queue.observe(waited)
		var err error
		s, err = d.attempt(s, j)
		for try := 0; errors.Is(err, errNoSession) && !j.begun; try++ {
			if d.shrink(j) {
				return // the others have sessions, one of them takes the job
			}
			if try == 20 || !d.sleep(5*time.Millisecond) {
				break
			}
			s, err = d.attempt(s, j) // the others gave theirs up at the same moment
		}
		if j.state.CompareAndSwap(working, finished) {
			j.done <- err
			continue
		}
		d.mu.Lock()
		delete(d.given, j)
		d.mu.Unlock()
		d.gate.RLock()
		s = d.drop(s)
		d.gate.RUnlock()
	}
}

// shrink gives the job back when the token refuses this worker a session and other workers have one.
func (d *device) shrink(j *job) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.gen.Load().working.Load()
	if have < 1 || !j.state.CompareAndSwap(working, waiting) {
		return false
	}
	select {
	case d.queue <- j:
	default:
		j.state.Store(working)
		return false
	}
	if have < d.limit.Load() {
		d.log.Warn("the token gives fewer sessions than it promises", "sessions", have)
		d.limit.Store(have)
	}
	d.limitTill = d.now().Add(time.Minute)
	return true
}

// attempt runs a job, twice if that can heal it. It gives the session to go on with, or nil.
func (d *device) attempt(s *session, j *job) (*session, error) {
	d.gate.RLock()
	defer d.gate.RUnlock()
	d.stats.inUse.Add(1)
	defer d.stats.inUse.Add(-1)
	start := time.Now()
	defer func() {
		took := time.Since(start)
		d.stats.deviceTime.Add(int64(took))
		d.stats.times[j.flags.timed()].device.observe(took)
		d.stats.calls.Add(1)
	}()
	for try := 0; ; try++ {
		if err := d.refusal(); err != nil {
			return d.drop(s), err
		}
		if j.state.Load() == givenUp {
			return s, timeout(j.ctx)
		}
		var err error
		if s == nil || s.gen != d.gen.Load() {
			d.drop(s)
			s, err = d.session()
		}
		if err == nil {
			s.job = j
			err = j.run(s)
			if !fault.Has(err, fault.Timeout) { // it may have waited for another
				d.came(j.flags.timed())
			}
			if err == nil {
				return s, nil
			}
		}
		c, ours := classOf(err)
		if !ours {
			return s, err
		}
		s = d.drop(s)
		again := try == 0 && (j.flags&once == 0 || !j.begun)
		switch c {
		case classSession, classHandle:
			if again {
				continue
			}
			// A handle that was looked up a moment ago: either the object went meanwhile, or the login did.
			if c == classHandle && d.ping() == nil {
				return nil, explain(err)
			}
			d.trip(err, true)
			return nil, d.failed(err)
		case classDoubt:
			if again {
				continue
			}
			return nil, d.judge(j, err)
		case classData:
			if j.flags&opens != 0 {
				return nil, errDecrypt
			}
			return nil, explain(err)
		case classToken, classModule, classLogin:
			d.trip(err, c == classLogin)
			return nil, d.failed(err)
		case classBusy:
			if is(err, pkcs11.CKR_SESSION_COUNT) {
				return nil, errNoSession
			}
			return nil, explain(err)
		default:
			return nil, explain(err)
		}
	}
}

// judge says whose fault a doubtful answer is, given twice: SoftHSM says CKR_GENERAL_ERROR to a text that was tampered with, and
// others say it when the token is gone. The test key on another session tells.
func (d *device) judge(j *job, err error) error {
	if perr := d.ping(); perr != nil {
		d.trip(err, false)
		return d.failed(err)
	}
	if j.flags&opens != 0 {
		return errDecrypt
	}
	return fault.Wrap(fault.BackendUnavailable, "the token refuses the operation without a reason", err).RetryAfter(time.Second)
}

func (d *device) failed(err error) error {
	return fault.Wrap(fault.BackendUnavailable, "the token failed and is being healed", err).RetryAfter(time.Second)
}

// session opens a session for a worker.
func (d *device) session() (*session, error) {
	g := d.gen.Load()
	if g.alone {
		return &session{SessionHandle: g.pinned, d: d, gen: g}, nil
	}
	h, err := g.open(d)
	if err != nil {
		return nil, err
	}
	g.working.Add(1)
	return &session{SessionHandle: h, d: d, gen: g}, nil
}

// drop closes a session that saw an error or that outlived its generation. The gate is held.
func (d *device) drop(s *session) *session {
	// A session of an earlier generation was closed with it, and its number may be another's by now. The only session of a token
	// that has no second one stays: if it is dead, the next call says so.
	if s != nil && s.gen == d.gen.Load() && !s.gen.alone {
		s.gen.close(d, s.SessionHandle)
		s.gen.working.Add(-1)
		d.stats.dropped.Add(1)
	}
	return nil
}

// leave closes a worker's session when the worker ends. Close holds the gate then and closes all of them.
func (d *device) leave(s *session) {
	if s == nil || d.state.Load() == shut {
		return
	}
	d.gate.RLock()
	defer d.gate.RUnlock()
	d.drop(s)
}
