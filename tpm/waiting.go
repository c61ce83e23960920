package tpm

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// WaitOptions are the choices of Await. Name and Open are required.
type WaitOptions struct {
	// Name is the configured name.
	Name string
	// Open opens the backend; it is called again until it succeeds. Its context ends after two minutes, for slow TPMs take long to be
	// tried; the first one, when there is something known to go on with, after 30 seconds; and when the Waiting closes.
	Open func(context.Context) (*Backend, error)
	// Known is what an earlier opening said (Backend.Info). With it a TPM that is not there, or not the pinned one, is waited for; without it the first call of
	// Open must succeed.
	Known *backend.Info
	// Required makes Await fail like the first call of Open, whatever is known.
	Required bool
	// Arrived is called when a backend that was waited for can be used; nil: nobody wants to know.
	Arrived    func()
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics
	// Soon and Late are the first and the longest time between two calls of Open. Default 250 milliseconds and 4 seconds; after a refused password always 30 seconds.
	Soon, Late time.Duration
}

// The times of waiting.
const (
	attemptTime  = 2 * time.Minute
	firstTime    = 30 * time.Second // of a backend that is known: a TPM that hangs must not hold the start up for longer
	refusedPause = 30 * time.Second
)

// Waiting is a backend whose TPM may not be there yet: until it is, every call but Info and Close answers fault.BackendUnavailable, and says why. Once open it
// is the Backend. It is safe for concurrent use.
type Waiting struct {
	o     WaitOptions
	log   *slog.Logger
	known backend.Info
	since time.Time
	gauge prometheus.Collector

	back atomic.Pointer[Backend]
	why  atomic.Pointer[fault.Error] // while back is nil
	stop context.CancelFunc
	done sync.WaitGroup
	once sync.Once
	err  error // of Close
}

var (
	_ backend.Backend  = (*Waiting)(nil)
	_ backend.Importer = (*Waiting)(nil)
	_ backend.Sealer   = (*Waiting)(nil)
	_ backend.Randomer = (*Waiting)(nil)
	_ backend.Pinger   = (*Waiting)(nil)
	_ backend.Grouper  = (*Waiting)(nil)
	_ backend.Queuer   = (*Waiting)(nil)
)

// Await opens a backend, or waits for its TPM in the background if it is known from before. ctx is for the first attempt. Errors are those of WaitOptions.Open.
func Await(ctx context.Context, o WaitOptions) (*Waiting, error) {
	if o.Name == "" || o.Open == nil || o.Soon < 0 || o.Late < 0 {
		return nil, errors.New("tpm: a name and a way to open are required")
	}
	if o.Soon == 0 {
		o.Soon = 250 * time.Millisecond
	}
	if o.Late == 0 {
		o.Late = 4 * time.Second
	}
	w := &Waiting{o: o, log: o.Logger, since: time.Now()}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	life, stop := context.WithCancel(context.Background())
	w.stop = stop
	limit := attemptTime
	if o.Known != nil && !o.Required {
		limit = firstTime
	}
	b, err := w.attempt(ctx, limit)
	if err != nil && (o.Known == nil || o.Known.ID == "" || o.Required || ctx.Err() != nil || !passing(err)) {
		stop()
		return nil, err
	}
	if merr := w.register(); merr != nil {
		stop()
		if b != nil {
			merr = errors.Join(merr, b.Close())
		}
		return nil, merr
	}
	if err == nil {
		w.back.Store(b)
		return w, nil
	}
	w.known = *o.Known
	w.known.Name = o.Name
	w.explain(err)
	w.log.Error("the TPM of the backend cannot be used: its keys rest until it can", "backend", o.Name, "error", err)
	w.done.Go(func() { w.seek(life, err) })
	return w, nil
}

// register shows whether the TPM is there, which the device's own metrics cannot before.
func (w *Waiting) register() error {
	if w.o.Registerer == nil {
		return nil
	}
	w.gauge = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keywright_tpm_open", Help: "1: the TPM was reached since the start, and is the pinned one.",
		ConstLabels: prometheus.Labels{"backend": w.o.Name}}, func() float64 {
		if w.back.Load() != nil {
			return 1
		}
		return 0
	})
	if err := w.o.Registerer.Register(w.gauge); err != nil {
		return fmt.Errorf("registering the backend's metrics: %w", err)
	}
	return nil
}

// attempt opens the backend once.
func (w *Waiting) attempt(ctx context.Context, limit time.Duration) (*Backend, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return w.o.Open(ctx)
}

// passing reports whether an error of opening may go away by itself, or by somebody who attends to the TPM.
func passing(err error) bool {
	return fault.Has(err, fault.BackendUnavailable) || fault.Has(err, fault.Timeout) || fault.Has(err, fault.Overloaded)
}

// seek tries until the TPM is there. A reason is logged when it is another than the last.
func (w *Waiting) seek(ctx context.Context, last error) {
	timer := time.NewTimer(w.o.Soon)
	defer timer.Stop()
	for wait := w.o.Soon; ; wait = min(2*wait, w.o.Late) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		b, err := w.attempt(ctx, attemptTime)
		if err == nil {
			w.back.Store(b)
			w.log.Info("the TPM of the backend is there", "backend", w.o.Name)
			if w.o.Arrived != nil {
				w.o.Arrived()
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.explain(err)
		if message(err) != message(last) {
			w.log.Error("the TPM of the backend still cannot be used", "backend", w.o.Name, "error", err)
		}
		last = err
		if errors.Is(err, device.ErrOwnerAuth) {
			wait = refusedPause
		}
		timer.Reset(wait)
	}
}

func message(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Message
	}
	return "the TPM cannot be used"
}

// explain keeps why the TPM cannot be used, for callers.
func (w *Waiting) explain(err error) {
	w.why.Store(fault.Wrap(fault.BackendUnavailable, message(err), err).RetryAfter(time.Second))
}

// open gives the backend, or why there is none. A context that has ended goes before that.
func (w *Waiting) open(ctx context.Context) (*Backend, error) {
	if b := w.back.Load(); b != nil {
		return b, nil
	}
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	return nil, w.why.Load()
}

// Info is that of the backend, or what is known from before.
func (w *Waiting) Info() backend.Info {
	if b := w.back.Load(); b != nil {
		return b.Info()
	}
	return w.known
}

// Members gives the TPM as the one device of the backend.
func (w *Waiting) Members() []backend.MemberStatus {
	s := backend.MemberStatus{Name: w.o.Name, State: "healthy", Weight: 1, Since: w.since}
	switch b := w.back.Load(); {
	case b == nil:
		s.State, s.Reason = "missing", w.why.Load().Message
	case b.dev.Stats().Down:
		s.State, s.Reason = "unavailable", "the TPM is away or does not answer, and is sought"
	}
	return []backend.MemberStatus{s}
}

// Queued is how many operations wait for the TPM.
func (w *Waiting) Queued() int {
	if b := w.back.Load(); b != nil {
		return b.Queued()
	}
	return 0
}

// Close ends the waiting and closes the backend.
func (w *Waiting) Close() error {
	w.once.Do(func() {
		w.stop()
		w.done.Wait()
		if w.gauge != nil {
			w.o.Registerer.Unregister(w.gauge)
		}
		if b := w.back.Load(); b != nil {
			w.err = b.Close()
			return
		}
		w.why.Store(errClosed)
	})
	return w.err
}

// Generate is Backend.Generate.
func (w *Waiting) Generate(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	b, err := w.open(ctx)
	if err != nil {
		return backend.Ref{}, err
	}
	return b.Generate(ctx, s)
}

// Load is Backend.Load.
func (w *Waiting) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	b, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	return b.Load(ctx, r)
}

// Destroy is Backend.Destroy.
func (w *Waiting) Destroy(ctx context.Context, r backend.Ref) error {
	b, err := w.open(ctx)
	if err != nil {
		return err
	}
	return b.Destroy(ctx, r)
}

// Import is Backend.Import.
func (w *Waiting) Import(ctx context.Context, s backend.Spec, material []byte) (backend.Ref, error) {
	b, err := w.open(ctx)
	if err != nil {
		return backend.Ref{}, err
	}
	return b.Import(ctx, s, material)
}

// ImportWrapped is Backend.ImportWrapped.
func (w *Waiting) ImportWrapped(ctx context.Context, s backend.Spec, with backend.Ref, hash crypto.Hash, wrapped []byte) (backend.Ref, error) {
	b, err := w.open(ctx)
	if err != nil {
		return backend.Ref{}, err
	}
	return b.ImportWrapped(ctx, s, with, hash, wrapped)
}

// Seal is Backend.Seal.
func (w *Waiting) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	b, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	return b.Seal(ctx, plaintext, binding)
}

// Open is Backend.Open.
func (w *Waiting) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	b, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	return b.Open(ctx, sealed, binding)
}

// Random is Backend.Random.
func (w *Waiting) Random(ctx context.Context, p []byte) error {
	b, err := w.open(ctx)
	if err != nil {
		return err
	}
	return b.Random(ctx, p)
}

// Ping is Backend.Ping.
func (w *Waiting) Ping(ctx context.Context) error {
	b, err := w.open(ctx)
	if err != nil {
		return err
	}
	return b.Ping(ctx)
}
