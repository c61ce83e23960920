package token

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

const (
	defaultSessions     = 64
	reserve             = 2 // the pinned login session and the holder of wrapped keys
	defaultQueue        = 1024
	defaultReinit       = time.Second
	defaultKEKLabel     = "keywright-kek"
	defaultWrappedCache = 1024
	objectLabel         = "keywright"

	drainFor  = time.Second      // re-initialisation waits so long for calls under way
	closeFor  = 2 * time.Second  // so does Close
	loginFor  = 30 * time.Second // a login through the configured gate
	stuckFor  = time.Second      // a call given up is stuck when the module still has it after this time
	stuckMany = 4                // so many stuck calls make the token unhealthy
)

// The states of the breaker.
const (
	closed   int32 = iota // operations run
	open                  // refused while the healer works
	halfOpen              // the healer tries its test key
	shut                  // closed for ever
)

// device is a token in this process.
type device struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	pins *PINMemory
	lib  *module

	// gate is held for reading by whoever is in the module, and for writing while it is finalized, so that never both happen.
	// The healer takes it by TryLock alone: a waiting writer would make readers wait behind a call that hangs.
	gate  sync.RWMutex
	state atomic.Int32
	gen   atomic.Pointer[generation]
	traits
	profile profile
	wrapped wrappedCache
	limits  limits
	began   time.Time

	queue    chan *job
	idle     atomic.Int32
	workers  atomic.Int32
	limit    atomic.Int32 // of workers
	stop     chan struct{}
	wake     chan struct{} // for the healer; holds one
	running  sync.WaitGroup
	shutOnce sync.Once
	shutErr  error

	mu        sync.Mutex // guards the rest
	cause     error      // of the breaker being open
	light     bool       // the next healing need not initialise the module
	pinBad    bool
	pinGood   bool               // this PIN has been taken at least once
	given     map[*job]time.Time // calls given up that the module still has, since when
	mending   time.Time          // since when the healer is in the module
	busyIDs   map[ID]bool        // being generated or imported
	serial    string             // of the token that was found first
	limitTill time.Time          // until then the limit is what the token forced on us

	stats counters
}

type counters struct {
	inUse                        atomic.Int64
	reinitialisations, dropped   atomic.Uint64
	logins, loginsRefused, calls atomic.Uint64
	queueTime, deviceTime        atomic.Int64
	returns                      atomic.Uint64 // see came
	last                         atomic.Int64  // when that was: since began, in nanoseconds
	lastOf                       [timedKinds]atomic.Int64
	times                        timings
}

var _ Token = (*device)(nil)

// Open loads the module, finds the token, logs in and probes what works. The PIN is copied; the caller may wipe its own. An
// error is fault.BackendUnavailable when the token is not there or refuses (ErrPINRefused in the chain when it is the PIN: do not
// open it with that PIN again), fault.BadField when the configuration cannot be meant, fault.PolicyDenied when the token lets
// non-extractable keys be wrapped out and cfg does not accept that.
//
// The context bounds the opening. A module that hangs beyond it keeps one goroutine and stays loaded.
//
// One process should have one Token per module: modules are initialised for the whole process, and a second Token cannot
// re-initialise one that the first uses.
func Open(ctx context.Context, cfg Config, o Options) (Token, error) {
	if cfg.Module == "" {
		return nil, fault.New(fault.MissingField, "the path of the PKCS#11 module is missing")
	}
	if cfg.Serial == "" && cfg.Label == "" {
		return nil, fault.New(fault.MissingField, "the token must be named by serial or label")
	}
	if cfg.Sessions < 0 || cfg.Queue < 0 || cfg.ReinitEvery < 0 || cfg.WrappedCache < 0 {
		return nil, fault.New(fault.BadField, "sizes and intervals of a token must not be negative")
	}
	if cfg.Profile != "" && !slices.ContainsFunc(profiles, func(p profile) bool { return p.name == cfg.Profile }) {
		return nil, fault.New(fault.BadField, "the vendor profile is unknown")
	}
	d := &device{cfg: cfg, log: o.Logger, now: o.Now, pins: o.PINs, limits: limits{o.CallTimeout}}
	d.cfg.PIN = slices.Clone(cfg.PIN)
	d.defaults()
	done := make(chan error, 1)
	go func() { done <- d.start(ctx) }()
	select {
	case err := <-done:
		if err != nil {
			d.cfg.PIN.Wipe()
			return nil, err
		}
		return d, nil
	case <-ctx.Done():
		// The opening may be inside the module, where nothing can end it. When it comes out it is undone.
		go func() {
			if err := <-done; err == nil {
				_ = d.Close() // nobody is left to hear of it
			}
			d.cfg.PIN.Wipe()
		}()
		return nil, timeout(ctx)
	}
}

func (d *device) defaults() {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&d.cfg.Sessions, defaultSessions)
	set(&d.cfg.Queue, defaultQueue)
	set(&d.cfg.WrappedCache, defaultWrappedCache)
	if d.cfg.KEKLabel == "" {
		d.cfg.KEKLabel = defaultKEKLabel
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.pins == nil {
		d.pins = &PINMemory{}
	}
	d.began = time.Now()
	d.queue = make(chan *job, d.cfg.Queue)
	d.stop = make(chan struct{})
	d.wake = make(chan struct{}, 1)
	d.given = map[*job]time.Time{}
	d.busyIDs = map[ID]bool{}
	d.wrapped.init(d.cfg.WrappedCache)
}

// start does the opening. It leaves nothing behind when it fails.
func (d *device) start(ctx context.Context) (err error) {
	if d.lib, err = load(d.cfg.Module, d.cfg.InitArgs); err != nil {
		return fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module cannot be loaded", err)
	}
	undo := func() {
		if g := d.gen.Load(); g != nil {
			d.abandon(g)
		}
		if ferr := d.lib.finalize(); ferr != nil {
			d.log.Warn("finalizing the module", "error", ferr)
		}
		d.lib.release()
	}
	if err := d.lib.initialize(); err != nil {
		d.lib.release()
		return fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module does not initialise", err)
	}
	g, err := d.generation(1)
	if err != nil {
		undo()
		return explain(err)
	}
	d.gen.Store(g)
	d.setLimit(g)
	if err := d.probe(ctx, g); err != nil {
		undo()
		return explain(err)
	}
	if err := d.testKey(g); err != nil {
		undo()
		return explain(err)
	}
	d.running.Add(1)
	go d.heal()
	return nil
}

func (d *device) Describe() Description {
	out := d.gen.Load().description
	out.Mechanisms = slices.Clone(out.Mechanisms)
	out.Capabilities = cloneCapabilities(out.Capabilities)
	out.Quirks, out.Wrappable = slices.Clone(out.Quirks), slices.Clone(out.Wrappable)
	out.Inside, out.InsideHashes = slices.Clone(out.Inside), slices.Clone(out.InsideHashes)
	return out
}

func cloneCapabilities(in []backend.Capability) []backend.Capability {
	out := slices.Clone(in)
	for i := range out {
		out[i].Operations = slices.Clone(out[i].Operations)
	}
	return out
}

func (d *device) Stats() Stats {
	d.mu.Lock()
	stuck := len(d.given)
	var oldest, silent, mending time.Duration
	for j, since := range d.given {
		if j.flags&slow != 0 { // whoever leaves earlier says nothing of the module
			since = later(since, j.queued.Add(slowTime))
		}
		for_ := time.Since(since)
		oldest = max(oldest, for_)
		quiet := time.Since(d.began) - time.Duration(d.stats.lastOf[j.flags.timed()].Load())
		silent = max(silent, min(for_, quiet))
	}
	if !d.mending.IsZero() {
		if mending = time.Since(d.mending); mending > stuckFor {
			stuck++ // the healer hangs, or is slow
		}
	}
	d.mu.Unlock()
	return Stats{
		Sessions:          int(d.gen.Load().sessions.Load()),
		SessionsInUse:     int(d.stats.inUse.Load()),
		Reinitialisations: d.stats.reinitialisations.Load(),
		SessionsDropped:   d.stats.dropped.Load(),
		Logins:            d.stats.logins.Load(),
		LoginsRefused:     d.stats.loginsRefused.Load(),
		Stuck:             stuck,
		StuckFor:          oldest,
		SilentFor:         silent,
		MendingFor:        mending,
		Returns:           d.stats.returns.Load(),
		Breaker:           [...]string{"closed", "open", "half-open", "open"}[d.state.Load()],
		Queued:            len(d.queue),
		Calls:             d.stats.calls.Load(),
		Times:             d.stats.times.load(),
		QueueTime:         time.Duration(d.stats.queueTime.Load()),
		DeviceTime:        time.Duration(d.stats.deviceTime.Load()),
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Close waits for calls under way, two seconds at most, then closes the sessions and finalizes the module. With calls that hang it
// gives an error and leaves the module as it is: nothing can be done to it safely but end the process.
func (d *device) Close() error {
	d.shutOnce.Do(func() {
		d.mu.Lock()
		d.state.Store(shut) // under the mutex, so that no worker starts after it
		d.mu.Unlock()
		close(d.stop)
		if !d.lock(closeFor) {
			// The healer may be what hangs: the PIN stays as it is, for zeros must not be sent in its place.
			d.shutErr = fault.New(fault.BackendUnavailable, "calls of the token's module hang: it is not finalized")
			return
		}
		d.gate.Unlock() // nobody is in the module, and whoever comes now is refused
		d.running.Wait()
		d.cfg.PIN.Wipe()
		d.abandon(d.gen.Load())
		if err := d.lib.finalize(); err != nil {
			d.shutErr = fault.Wrap(fault.BackendUnavailable, "the token's module does not finalize", err)
		}
		d.lib.release()
	})
	return d.shutErr
}

// lock takes the gate for writing, if everybody leaves the module in time.
func (d *device) lock(within time.Duration) bool {
	deadline := time.Now().Add(within)
	for {
		if d.gate.TryLock() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
}

// trip opens the breaker. light: new sessions and a login may be enough.
func (d *device) trip(cause error, light bool) {
	d.mu.Lock()
	first := d.state.CompareAndSwap(closed, open)
	if first {
		d.cause, d.light = cause, light
	} else {
		d.light = d.light && light
	}
	d.mu.Unlock()
	if first {
		d.log.Warn("the token failed and is being healed", "error", cause)
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// refusal is why no operation runs now; nil when they do.
func (d *device) refusal() error {
	switch d.state.Load() {
	case closed:
		return nil
	case shut:
		return errShut
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pinBad {
		return errPIN()
	}
	if errors.Is(d.cause, errStuck) {
		return errStuck
	}
	return errHealing
}
