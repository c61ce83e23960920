package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/keywright/keywright/fault"
)

// Options of a Log. Only Origin is required.
type Options struct {
	// Origin names the log in its checkpoints, for ever: a schema-less URL such as "keys.example.org/audit", without
	// spaces and plus signs. It should be unique to the deployment.
	Origin string
	// Signer gives the key that signs checkpoints, whenever one is to be signed; it may fail while the root is locked.
	// Without it the log keeps no checkpoints.
	Signer func(ctx context.Context) (CheckpointSigner, error)
	// PostQuantum gives the key that signs checkpoints beside Signer's, as Signer does. Nil: there is none.
	PostQuantum func(ctx context.Context) (PostQuantumSigner, error)
	// Witnesses are shown each checkpoint that is signed now and then; their keys' names differ.
	Witnesses []Witness
	// CheckpointEvery is how often a checkpoint is signed when the log has grown. Default one minute; negative: only
	// when somebody asks.
	CheckpointEvery time.Duration
	// Alone runs work, until ctx ends, whenever this node is the one of several to sign checkpoints now and then; the context of work ends
	// when it no longer is. Nil: there are no other nodes.
	Alone func(ctx context.Context, work func(ctx context.Context))
	// Now is the clock for entries without a time. Default time.Now.
	Now func() time.Time
	// Registerer takes the metrics until Close. Without it there are none.
	Registerer prometheus.Registerer
	// Queue bounds the records that wait for the store; more are refused with fault.Overloaded. Default 4096.
	Queue int
	// MaxBatch bounds the records of one transaction. Default 512.
	MaxBatch int
	// Logger hears of batches that could not be committed and checkpoints that could not be signed. Default: silent.
	Logger *slog.Logger
}

// Log is the audit log over a store. It is safe for concurrent use.
//
// Records are committed in groups: callers encode and hash their own leaf, queue it and wait; one goroutine takes all that
// wait and commits them in one transaction, and while that is being made durable the next group gathers. Nothing is
// delayed on purpose but what says that it may be (Entry.Patience).
type Log struct {
	store    Store
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	pool     sync.Pool            // of *pending
	head     atomic.Pointer[Head] // the newest head known to be durable; other nodes may have gone on
	ctx      context.Context      // ends the work in the store when Close runs out of time
	cancel   context.CancelFunc
	stop     chan struct{} // closed by the first Close
	finished chan struct{} // closed when the committer has ended
	periodic chan struct{} // closed when the checkpoint goroutine has ended

	kick    chan struct{} // holds one: the committer has something to look at
	mu      sync.Mutex    // guards what follows
	waiting []*pending
	due     time.Time     // when what waits is to be committed at the latest; zero: at once
	patient time.Time     // when the last record with patience came
	gap     time.Duration // the moving mean of the time between those
	closed  bool

	signing    chan struct{}              // holds one token: who has it may sign (single flight) and write checkpoint
	checkpoint atomic.Pointer[signedHead] // the newest checkpoint kept
	witnesses  []*watched                 // used by the one goroutine that signs now and then
}

// pending is one record on its way, with room for all that it needs, so that a record allocates next to nothing.
type pending struct {
	Item
	entry   Entry
	leaf    []byte // 0x00 ‖ leaf: what is hashed
	failed  []int
	changes []Change
	done    chan struct{} // gets one value when Index and Err are final; room for it, for a caller who has gone
}

// Open opens the log in the store and checks that what is stored fits together: the head, the nodes and the last entries
// that it is made of, and the newest checkpoint. It fails with fault.StoreCorrupted when they do not.
func Open(ctx context.Context, store Store, opts Options) (*Log, error) {
	if _, err := note.NewVerifier(placeholderKey(opts.Origin)); err != nil {
		return nil, fmt.Errorf("audit: the origin of the log is not a valid name: %w", err)
	}
	if opts.CheckpointEvery == 0 {
		opts.CheckpointEvery = time.Minute
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Queue <= 0 {
		opts.Queue = 4096
	}
	if opts.MaxBatch <= 0 {
		opts.MaxBatch = 512
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		store: store, opts: opts, log: opts.Logger,
		stop: make(chan struct{}), finished: make(chan struct{}), periodic: make(chan struct{}),
		signing: make(chan struct{}, 1),
	}
	var err error
	if l.witnesses, err = watch(opts.Witnesses); err != nil {
		return nil, err
	}
	l.pool.New = func() any { return &pending{leaf: make([]byte, 0, 512), done: make(chan struct{}, 1)} }
	l.kick = make(chan struct{}, 1)
	l.signing <- struct{}{}
	head, kept, err := checkStore(ctx, store, opts.Origin)
	if err != nil {
		return nil, err
	}
	l.head.Store(&head)
	l.checkpoint.Store(kept)
	if l.metrics, err = newMetrics(l, opts.Registerer); err != nil {
		return nil, fmt.Errorf("registering metrics of the audit log: %w", err)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	go l.commitLoop()
	if opts.Signer != nil && opts.CheckpointEvery > 0 {
		go l.checkpointLoop()
	} else {
		close(l.periodic)
	}
	return l, nil
}

// Size is the number of durable entries that this node knows of.
func (l *Log) Size() uint64 { return l.head.Load().Size }

const late = "the deadline passed before the audit record was durable"

var (
	errClosed     = fault.New(fault.Unavailable, "the service is stopping")
	errOverloaded = fault.New(fault.Overloaded, "too many audit records are waiting").RetryAfter(time.Second)
)

// Record implements Recorder.
func (l *Log) Record(ctx context.Context, e *Entry, changes ...Change) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fault.Wrap(fault.Timeout, late, errors.Join(ErrLate, err))
	}
	if e.Time.IsZero() {
		e.Time = l.opts.Now()
	}
	p, ok := l.pool.Get().(*pending)
	if !ok {
		return 0, errors.New("audit: foreign value in the pool")
	}
	// Everything is copied: a caller whose deadline passes goes away while the item is still on its way.
	p.entry = *e
	p.entry.normalize()
	p.failed = append(p.failed[:0], p.entry.Failed...)
	p.entry.Failed = p.failed
	p.changes = append(p.changes[:0], changes...)
	p.leaf = p.entry.appendLeaf(append(p.leaf[:0], 0))
	p.Item = Item{Entry: &p.entry, Leaf: p.leaf[1:], Hash: sha256.Sum256(p.leaf), Changes: p.changes}

	if err := l.enqueue(p); err != nil {
		l.release(p)
		return 0, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		select {
		case <-p.done: // both came at once: it is durable, and that is the better answer
		default:
			// The item stays in the queue: what was done with the key is told even when nobody waits for it any more.
			return 0, fault.Wrap(fault.Timeout, late, ctx.Err())
		}
	}
	index, err := p.Index, p.Err
	l.release(p)
	if err != nil {
		return 0, err
	}
	leave(ctx, index)
	return index, nil
}

func (l *Log) enqueue(p *pending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	if len(l.waiting) >= l.opts.Queue {
		return errOverloaded
	}
	l.waiting = append(l.waiting, p)
	var until time.Time
	if p.entry.Patience > 0 {
		until = l.awaits(min(p.entry.Patience, maxPatience))
	}
	first := len(l.waiting) == 1
	if first || until.Before(l.due) {
		l.due = until
		l.wake()
	} else if len(l.waiting) == l.opts.MaxBatch {
		l.wake()
	}
	return nil
}

// maxPatience is the longest that a record waits for others.
const maxPatience = 5 * time.Millisecond

// awaits gives until when a record with patience waits for the next of its kind; not at all, if that is not to be expected in this time. l.mu is held.
func (l *Log) awaits(patience time.Duration) time.Time {
	now := time.Now()
	l.gap += (min(now.Sub(l.patient), 2*maxPatience) - l.gap) / 4
	l.patient = now
	if l.gap > patience {
		return time.Time{}
	}
	return now.Add(patience)
}

// wake has the committer look at the queue, now or when it next would sleep.
func (l *Log) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// release gives a finished item back, without what it held of others.
func (l *Log) release(p *pending) {
	const keep = 4 << 10 // a rare huge leaf is not kept in the pool
	if cap(p.leaf) > keep {
		return
	}
	clear(p.changes)
	p.entry, p.Item = Entry{}, Item{}
	l.pool.Put(p)
}

// Close refuses new records, commits those that wait, signs a last checkpoint when the log has grown, and ends the
// goroutines. When ctx ends first, the work in the store is cancelled, those who wait get fault.AuditUnavailable, and the
// error is fault.Timeout. It may be called more than once.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	l.wake()
	if first {
		close(l.stop)
	}
	select {
	case <-l.finished:
	case <-ctx.Done():
		l.cancel()
		return fault.Wrap(fault.Timeout, "the audit log could not be flushed in time", ctx.Err())
	}
	if first {
		l.lastCheckpoint(ctx)
		l.metrics.unregister()
	}
	l.cancel()
	select {
	case <-l.periodic:
		return nil
	case <-ctx.Done():
		return fault.Wrap(fault.Timeout, "a checkpoint of the audit log is still being signed", ctx.Err())
	}
}

func (l *Log) lastCheckpoint(ctx context.Context) {
	if l.opts.Signer == nil || l.opts.CheckpointEvery < 0 || !l.grown() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a device that hangs must not hold up the stop for ever
	defer cancel()
	if _, err := l.Checkpoint(ctx); err != nil && !fault.Has(err, fault.Locked) { // while locked there is no key to sign with
		l.log.WarnContext(ctx, "signing the last audit checkpoint", "error", err)
	}
}
