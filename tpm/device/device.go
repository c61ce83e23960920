// Package device is one TPM 2.0 and its one owner. Everything that the service wants of the TPM goes through a queue with a bound
// and a deadline, one transaction after the other, because a TPM has one processor, three slots for objects and no idea who asks.
//
// It trusts the machine that it runs on, but not the wires to the TPM: sessions are salted to the storage parent, whose Name is
// pinned by whoever keeps the keys, so that a chip or an interposer that is not the pinned TPM cannot read a password or a secret,
// nor answer in its place (TPM 2.0 part 1, 19.6 and 21). What it cannot see is a pinned Name that was wrong from the beginning.
//
// It copes with what TPMs do: TPM_RC_RETRY and its like are waited out, a reset is found and the parent made again, a device that
// goes away is sought until it is back, and nothing that a transaction loads outlives it.
package device

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Options say how a TPM is opened. The zero value of every field but URI is usable.
type Options struct {
	Name string // the label of metrics and logs
	URI  URI

	// OwnerAuth and EndorsementAuth are the passwords of the two hierarchies; nil where there is none. They are copied.
	OwnerAuth, EndorsementAuth secret.Bytes

	// ParentHandle is the persistent handle of the storage parent, 0x81000000 to 0x817fffff. If nothing is there the parent is made
	// and stays there; a TPM without room for it keeps it as without this option. Zero: URI.Parent, and without that the parent is
	// made anew when the TPM is opened and stays loaded.
	ParentHandle uint32
	// ParentName pins the storage parent: its Name, 34 octets, as Device.ParentName gave it. Nil: not pinned yet; then Open takes any TPM, and the
	// Device from there on that one alone.
	ParentName []byte
	// EKName is the Name of the endorsement key (ECC P-256, default template), as Device.EKName gave it. It only serves to tell a
	// TPM that was cleared from one that is another.
	EKName []byte

	Queue          int           // operations that may wait; default 256
	MaxWait        time.Duration // how long an operation may wait, whatever its deadline; default 5 s
	CommandTimeout time.Duration // after which a TPM that does not answer is taken for gone; default 2 min: making an RSA key may take that
	RetryFor       time.Duration // how long TPM_RC_RETRY and its like are waited out; default 2 s
	WatchEvery     time.Duration // how often lockout and resets are looked at while nothing happens; default 15 s
	// KeepLoaded is how many objects stay loaded between transactions, those used last; default 2, which is what every TPM has room
	// for beside the parent; negative: none.
	KeepLoaded int

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time      // nil: time.Now
}

// The states of a device.
const (
	up     int32 = iota
	down         // the watcher seeks the TPM
	closed       // for ever
)

const (
	closeFor   = 2 * time.Second
	maxRepeats = 3
)

// Device is a TPM in this process. All methods are safe for concurrent use.
type Device struct {
	o   Options
	log *slog.Logger
	now func() time.Time

	turn     chan struct{} // holds one: who put it in has the TPM, and what follows up to the blank line
	line     *line
	parent   parent
	slots    int               // for objects, the parent included
	commands map[uint32]uint32 // TPMA_CC by command code
	cores    []*core
	kept     []*kept
	tick     uint64 // of uses of kept objects
	resets   uint64 // the TPM's own counts of resets and restarts, as of the last start

	state        atomic.Int32
	life         context.Context // ends on Close
	die          context.CancelFunc
	cut          atomic.Pointer[line] // the line, for Close alone
	wake         chan struct{}        // for the watcher; holds one
	running      sync.WaitGroup
	shutOnce     sync.Once
	shutErr      error
	lockoutStale atomic.Bool

	queued  atomic.Int64 // operations that wait or run
	backlog atomic.Int64 // nanoseconds that they will probably take, all together
	stats   counters
	metrics *metrics

	mu    sync.Mutex // guards what follows
	cause error      // of being down
	info  Info
	ops   map[string]*operation
}

// Open reaches the TPM, starts it up if it wants that, makes or finds the storage parent and compares its Name with the pinned one.
//
// Errors are faults: BackendUnavailable when the TPM cannot be used, with ErrGone, ErrOwnerAuth, ErrForeign, ErrCleared or ErrFailed
// in the chain; BadField and MissingField when the options cannot be meant.
func Open(ctx context.Context, o Options) (*Device, error) {
	d := &Device{o: o, log: o.Logger, now: o.Now, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		ops: map[string]*operation{}}
	d.life, d.die = context.WithCancel(context.Background())
	if err := d.defaults(); err != nil {
		return nil, err
	}
	d.o.OwnerAuth, d.o.EndorsementAuth = slices.Clone(o.OwnerAuth), slices.Clone(o.EndorsementAuth)
	d.metrics = newMetrics(d)
	d.turn <- struct{}{}
	err := d.reach(ctx)
	if err == nil {
		err = d.metrics.register(o.Registerer)
	}
	if err != nil {
		d.die()
		d.leave(true)
		d.o.OwnerAuth.Wipe()
		d.o.EndorsementAuth.Wipe()
		return nil, err
	}
	if d.o.ParentName == nil {
		d.o.ParentName = d.parent.handle.Name.Buffer // what comes back after this TPM was away must be this one
	}
	<-d.turn
	d.running.Go(d.watch)
	return d, nil
}

func (d *Device) defaults() error {
	o := &d.o
	switch {
	case o.URI.Network == 0:
		return fault.New(fault.MissingField, "the TPM's URI is missing")
	case o.Queue < 0 || o.MaxWait < 0 || o.CommandTimeout < 0 || o.RetryFor < 0 || o.WatchEvery < 0:
		return fault.New(fault.BadField, "sizes and times of a TPM must not be negative")
	case o.ParentHandle != 0 && (o.ParentHandle < firstPersistent || o.ParentHandle > lastPersistent):
		return fault.New(fault.BadField, "the storage parent's handle must be a persistent one of the owner: 0x81000000 to 0x817fffff")
	}
	if o.ParentHandle == 0 {
		o.ParentHandle = o.URI.Parent
	}
	setDefault(&o.Queue, 256)
	setDefault(&o.MaxWait, 5*time.Second)
	setDefault(&o.CommandTimeout, 2*time.Minute)
	setDefault(&o.RetryFor, 2*time.Second)
	setDefault(&o.WatchEvery, 15*time.Second)
	setDefault(&o.KeepLoaded, 2)
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	return nil
}

func setDefault[T ~int | ~int64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Do runs f alone on the TPM. What f loads is flushed afterwards, whatever happens. op names the kind of operation in metrics and in
// the queue's forecast: a constant of the program, one of a few dozen.
//
// f runs on the caller's goroutine, and has ended when Do returns. Do returns when ctx ends: a command that is then on the TPM goes
// on, its result is dropped, and the next transaction begins after it.
//
// f is run again, at most three times, only when it met a reset, a handle that the TPM lost, or TPM_RC_PCR_CHANGED before any
// command of its own but loads, sessions, policies and readings had been carried out; so f must not depend on what an earlier run of
// it left behind.
//
// Faults: Overloaded with a time to try again when the queue is full or ctx's deadline would pass in it; Timeout; BackendUnavailable
// with a time to try again while the TPM is away or was reset under the operation, with ErrGone, ErrReset, ErrLockout, ErrForeign,
// ErrCleared or ErrFailed in the chain; Overloaded with ErrNVFull. What else the TPM answers comes back from f unchanged.
func (d *Device) Do(ctx context.Context, op string, f func(tx *Tx) error) error {
	c, err := d.enter(ctx, op)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		again, err := d.once(ctx, c, f, try < maxRepeats)
		if !again {
			return err
		}
	}
}

// once runs f in a transaction. It has the turn, and keeps it only if f is to be run again.
func (d *Device) once(ctx context.Context, c *call, f func(tx *Tx) error, mayRepeat bool) (again bool, err error) {
	if err := d.refusal(); err != nil {
		d.exit(c)
		return false, err
	}
	tx := d.begin(ctx)
	ended := false
	defer func() {
		if !ended { // f panics
			d.conclude(ctx, tx)
			d.exit(c)
		}
	}()
	err = f(tx)
	ended = true
	if tx.pending != nil {
		tx.close()
		d.running.Go(func() {
			defer d.exit(c)
			d.drain(tx)
			d.conclude(d.life, tx)
		})
		return false, err
	}
	mended := d.conclude(ctx, tx)
	if err == nil {
		d.exit(c)
		return false, nil
	}
	if mended == dropped {
		mayRepeat = mayRepeat && !c.dropped // a second time it is f's mistake
		c.dropped = true
	}
	if mayRepeat && !tx.effect && ctx.Err() == nil && (mended != nothing || errors.Is(err, tpm2.TPMRCPCRChanged)) && d.refusal() == nil {
		return true, nil
	}
	d.exit(c)
	switch {
	case mended == afterReset:
		return false, unavailable("the TPM was reset during the operation", errors.Join(ErrReset, err))
	case tx.broken != nil:
		return false, tx.broken
	}
	return false, d.explain(err)
}

// What conclude mended, so that f may work now that did not before.
const (
	nothing    = iota
	dropped    // what was only kept for speed is dropped: a handle in it was not what we thought, or f used a wrong one
	afterReset // the TPM was reset, and is established again
)

// conclude mends what the transaction met and flushes what it left. What cannot be mended is left to the watcher.
func (d *Device) conclude(ctx context.Context, tx *Tx) (mended int) {
	tx.close()
	if tx.pending != nil { // f panics
		d.drain(tx)
	}
	if tx.suspect && !tx.reset && tx.broken == nil {
		// The TPM does not know a handle: f's own mistake, or a reset that went unnoticed.
		if d.present(tx) {
			d.dropKept(tx)
			mended = dropped
		} else if tx.broken == nil {
			tx.reset = true
		}
	}
	if tx.reset {
		d.stats.resets.Add(1)
		d.log.Warn("the TPM was reset")
		mended, tx.loaded, tx.broken = afterReset, nil, nil
		if err := d.establish(ctx); err != nil {
			tx.broken = err
		}
	}
	if tx.broken == nil {
		d.finish(tx)
	}
	if tx.astray && tx.broken == nil {
		if err := d.sweep(tx); err != nil && tx.broken == nil {
			tx.broken = err
		}
	}
	if tx.failed {
		tx.broken = d.explain(tpm2.TPMRCFailure)
	}
	if d.lockoutStale.CompareAndSwap(true, false) {
		d.rouse()
	}
	if tx.broken != nil {
		d.trip(tx.broken)
		return nothing
	}
	return mended
}

// drain waits for the response to a command that its caller gave up.
func (d *Device) drain(tx *Tx) {
	command := tx.pending
	tx.pending = nil
	err := d.line.until(tx.began.Add(d.o.CommandTimeout))
	if err == nil {
		var rsp []byte
		if rsp, err = d.line.receive(); err == nil {
			tx.arrived(command, rsp)
			return
		}
	}
	tx.broken = unavailable("the TPM does not answer", errors.Join(ErrGone, err))
}

// finish flushes what a transaction left: its objects and sessions, and all shared sessions but one.
func (d *Device) finish(tx *Tx) {
	for len(tx.loaded) > 0 && tx.broken == nil {
		h := tx.loaded[len(tx.loaded)-1]
		tx.loaded = tx.loaded[:len(tx.loaded)-1]
		tx.mustFlush(h)
	}
	for len(d.kept) > max(d.o.KeepLoaded, 0) && tx.broken == nil {
		if _, err := tx.evictAny(); err != nil && tx.broken == nil {
			tx.broken = err
		}
	}
	if len(d.cores) == 1 && !d.cores[0].unsure {
		d.cores[0].busy = false
		return
	}
	var keep []*core
	for _, c := range slices.Clone(d.cores) { // what is flushed is forgotten, which changes d.cores under the loop
		if c.busy = false; c.unsure || len(keep) > 0 {
			tx.mustFlush(uint32(c.handle))
			continue
		}
		keep = append(keep, c)
	}
	d.cores = keep
}

// dropKept flushes everything that is only kept for speed.
func (d *Device) dropKept(tx *Tx) {
	kept, cores := d.kept, d.cores
	d.kept, d.cores = nil, nil // what is flushed is forgotten, which would change them under the loops
	for _, k := range kept {
		tx.mustFlush(uint32(k.object.Handle))
	}
	for _, c := range cores {
		tx.mustFlush(uint32(c.handle))
	}
}

// refusal is why nothing can be done now, or nil.
func (d *Device) refusal() error {
	switch d.state.Load() {
	case closed:
		return errClosed
	case down:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.cause
	}
	return nil
}

// trip takes the TPM for away; the watcher seeks it.
func (d *Device) trip(cause error) {
	if !d.state.CompareAndSwap(up, down) {
		return
	}
	if !fault.Has(cause, fault.BackendUnavailable) {
		cause = unavailable("the TPM is not available at the moment", cause)
	}
	d.mu.Lock()
	d.cause = cause
	d.mu.Unlock()
	d.stats.trips.Add(1)
	d.log.Warn("the TPM is not available", "cause", cause)
	d.rouse()
}

// rouse makes the watcher look.
func (d *Device) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Ping asks the TPM for its clock. It waits in the queue like everything else.
func (d *Device) Ping(ctx context.Context) error {
	return d.Do(ctx, "ping", func(tx *Tx) error {
		_, err := tpm2.ReadClock{}.Execute(tx)
		return err
	})
}

// ParentName is the Name of the storage parent, to be pinned.
func (d *Device) ParentName() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.info.ParentName)
}

// Close flushes what is loaded and ends every goroutine. A command that the TPM has is waited for two seconds; then the line is cut,
// and a TPM that is not behind a resource manager keeps what that command loads until it is opened again.
func (d *Device) Close() error {
	d.shutOnce.Do(func() {
		d.state.Store(closed)
		d.die()
		timer := time.NewTimer(closeFor)
		defer timer.Stop()
		select {
		case d.turn <- struct{}{}:
		case <-timer.C:
			if l := d.cut.Load(); l != nil {
				d.shutErr = l.close()
			}
			d.turn <- struct{}{}
		}
		d.leave(true)
		<-d.turn
		d.running.Wait()
		d.metrics.unregister(d.o.Registerer)
		d.o.OwnerAuth.Wipe()
		d.o.EndorsementAuth.Wipe()
	})
	return d.shutErr
}
