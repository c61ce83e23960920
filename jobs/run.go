package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
)

// Worker does the work of a kind. It goes on from the cursor that an earlier attempt saved, and ends soon after ctx has ended. Another
// node may begin while an attempt that has lost its lease is still ending: what it changes, it changes by compare-and-swap. nil: all was
// tried. An error for which Passing is true is met again later, any other fails the job.
type Worker func(ctx context.Context, r *Run) error

// Passing reports whether a failure may well be none the next time.
func Passing(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Unavailable, fault.Locked, fault.Overloaded, fault.Timeout, fault.AuditUnavailable, fault.StoreUnavailable,
		fault.BackendUnavailable, fault.Conflict:
		return true
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// Why the context of an attempt ends before the work does.
var (
	errCancelled = errors.New("the job was cancelled")
	errLost      = errors.New("the lease of the job was lost")
	errClosing   = errors.New("the service is stopping")
)

// Run is one attempt at a job, as its worker sees it. It is safe for concurrent use.
type Run struct {
	job   Job // as it was claimed; not changed
	store Store
	now   func() time.Time
	stop  context.CancelCauseFunc

	saving sync.Mutex // held while progress is written, so that the newest is written last

	mu      sync.Mutex // guards what follows
	cursor  []byte
	counts  Counts
	notices []Notice
	dirty   bool // there is something that the store does not know
	moved   bool // the job has got on in this attempt
	state   State
	saved   time.Time
}

func newRun(j *Job, store Store, now func() time.Time, stop context.CancelCauseFunc) *Run {
	return &Run{job: *j, store: store, now: now, stop: stop, cursor: j.Cursor, counts: j.Counts, notices: j.Notices, state: j.State, saved: now()}
}

// Job gives the job as it was when this attempt began. It is the caller's.
func (r *Run) Job() *Job {
	j := r.job
	return &j
}

// Params gives the job's parameters.
func (r *Run) Params() json.RawMessage { return r.job.Params }

// Cursor gives what was noted last: by this attempt, or by those before it.
func (r *Run) Cursor() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cursor
}

// Counts gives how far the job is.
func (r *Run) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Progress sets how much is done, of how much (0: not known). It is written at most once a second.
func (r *Run) Progress(done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved = r.moved || done > r.counts.Done
	r.counts.Done, r.counts.Total, r.dirty = done, total, true
}

// Add counts what is done.
func (r *Run) Add(done int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Done += done
	r.dirty, r.moved = true, r.moved || done > 0
}

// Fail counts an item that failed for good, and notes why: the code and the message of a fault, nothing of anything else.
func (r *Run) Fail(resource string, err error) {
	n := notice(resource, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Failed++
	r.dirty, r.moved = true, true
	if len(r.notices) < MaxNotices {
		r.notices = append(r.notices[:len(r.notices):len(r.notices)], n)
	}
}

// NewNotice makes the notice of an item that failed: the code and the message of a fault, nothing of anything else.
func NewNotice(resource string, err error) Notice { return notice(resource, err) }

func notice(resource string, err error) Notice {
	n := Notice{Resource: resource, Code: fault.CodeOf(err)}
	var f *fault.Error
	if errors.As(err, &f) {
		n.Message = f.Message
	} else {
		n.Message = "an internal fault: the log of the service has its cause"
	}
	return n
}

// Mark notes where another attempt would go on. It is written together with the counts, at most once a second: what was done since the last
// time may be done again.
func (r *Run) Mark(cursor []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cursor, r.dirty, r.moved = cursor, true, true
}

// Save is Mark, written before it returns. An error means that the attempt is to end: the job was cancelled, another node has it, or the
// store cannot be written.
func (r *Run) Save(ctx context.Context, cursor []byte) error {
	r.Mark(cursor)
	return r.flush(ctx)
}

// flush writes the progress as it is, and ends the attempt when the job is not its own any more.
func (r *Run) flush(ctx context.Context) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	p := r.progress()
	if len(p.Cursor) > MaxCursor {
		return fault.New(fault.Internal, "the cursor of the job is too long")
	}
	state, err := r.store.SaveProgress(ctx, p)
	if err != nil {
		if fault.Has(err, fault.Conflict) {
			r.stop(errLost)
			return fault.Wrap(fault.Conflict, "another node has the job", errLost)
		}
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
		return err
	}
	return r.see(state)
}

// progress gives what is to be written, and takes it for written.
func (r *Run) progress() *Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty, r.saved = false, r.now()
	return &Progress{ID: r.job.ID, Node: r.job.Node, State: Running, Cursor: r.cursor, Counts: r.counts, Notices: r.notices,
		RetryAt: r.job.RetryAt, At: r.saved.UTC().Truncate(time.Microsecond)}
}

// see takes notice of the state in the store.
func (r *Run) see(state State) error {
	r.mu.Lock()
	r.state = state
	r.mu.Unlock()
	if state.Ended() {
		r.stop(errCancelled)
		return fault.Wrap(fault.JobEnded, "the job was cancelled", errCancelled)
	}
	return nil
}

// due reports whether progress is to be written by now.
func (r *Run) due(every time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dirty && r.now().Sub(r.saved) >= every
}

// attempts gives how many attempts in a row have failed, this one included: none before it counts when the job got on.
func (r *Run) attempts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.moved {
		return 1
	}
	return r.job.Attempts + 1
}
