// Package sealed is the engine behind sealed custody, one for all backends: software cryptography on key material that a
// backend's sealer opens.
//
// It trusts its sealer to keep sealed material secret and genuine, and the process's own memory to keep opened material for
// a bounded time. It does not trust the store: everything in a Ref is bound to its material, so that a Ref that was
// swapped, edited, damaged or copied to another tenant, key or version does not load.
//
// What opened material means: between opening and wiping it lies in this process's memory, and whoever reads that memory has
// the key. It stays for at most the cache's time to live, or as long as a handle is in use. Buffers with private keys are
// overwritten then; key schedules and states inside the standard library's ciphers cannot be reached for that and are left
// to the garbage collector.
package sealed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

// Defaults of Options.
const (
	DefaultCapacity = 4096
	DefaultBytes    = 96 << 20
	DefaultTTL      = 5 * time.Minute
)

// Options are the choices of an engine. The zero value but for Custody is usable.
type Options struct {
	// Name is the backend's configured name, for the label of the metrics.
	Name string
	// Custody is what the engine's keys have: backend.CustodySealed over a device, backend.CustodySoftware over the
	// software root.
	Custody backend.Custody
	// Capacity is the most opened keys that are kept in memory. 0 is DefaultCapacity, negative switches the cache off:
	// every Load then asks the sealer.
	Capacity int
	// Bytes is about the most memory that opened keys may take in the cache: an ML-DSA-65 key takes 70 kB, most others less than 10. Keys
	// in use outlive their eviction. 0 is DefaultBytes, negative no limit but Capacity.
	Bytes int64
	// Held, when it is not nil, is kept at the bytes that this engine's cache and those of others with the same Held have taken.
	Held *atomic.Int64
	// TTL is the longest time for which opened material is kept after its opening. 0 is DefaultTTL, negative switches the
	// cache off.
	TTL time.Duration
	// Rand is what key material is drawn from; nil is crypto/rand.Reader. It must be safe for concurrent use. RSA primes
	// come from the standard library, which takes them from the operating system alone, and so do nonces, salts and the
	// random parts of signatures.
	Rand io.Reader
	// Now is the clock; nil is time.Now. It should carry a monotonic reading.
	Now func() time.Time
	// Registerer takes the metrics keywright_sealed_cache_*; nil for none. They are taken out again by Close.
	Registerer prometheus.Registerer
}

// slowQueue is how many signatures that take tenths of a second (SLH-DSA) wait for each processor; more are refused.
const slowQueue = 16

// The answers that are the same everywhere.
var (
	errClosed       = fault.New(fault.BackendUnavailable, "the backend is closed")
	errHandleClosed = fault.New(fault.BackendUnavailable, "the key handle is closed")
	errUnreadable   = fault.New(fault.KeyMaterial, "the stored key material does not open, or does not fit its record")
	errDecrypt      = fault.New(fault.DecryptionFailed, "the ciphertext does not open")
	errImport       = fault.New(fault.BadImport, "the material does not open, or is not a key of the algorithm")
	errUnsupported  = fault.New(fault.Unsupported, "the backend cannot do this with this algorithm")
	errCustody      = fault.New(fault.Unsupported, "the backend does not give this custody")
)

// Engine makes, opens and uses sealed keys. It is safe for concurrent use. It has the methods of backend.Backend and
// backend.Importer but for Info, which is the backend's own.
type Engine struct {
	sealer  backend.Sealer
	custody backend.Custody
	rand    io.Reader
	gate    Gate
	cache   *cache
	rsa     *primeWorks
	slow    *pqc.Pool
	metrics *collector
	reg     prometheus.Registerer
	closing sync.Once
}

// New makes an engine over a sealer. It fails when the options do not fit each other or the metrics are registered
// already. The sealer must outlive the engine; Close does not close it.
func New(sealer backend.Sealer, o Options) (*Engine, error) {
	if sealer == nil {
		return nil, errors.New("sealed: no sealer")
	}
	if o.Custody != backend.CustodySealed && o.Custody != backend.CustodySoftware {
		return nil, errors.New("sealed: the custody must be sealed or software")
	}
	if o.Capacity == 0 {
		o.Capacity = DefaultCapacity
	}
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Engine{sealer: sealer, custody: o.Custody, rand: o.Rand, gate: NewGate(), reg: o.Registerer,
		rsa: newPrimeWorks(runtime.GOMAXPROCS(0))}
	e.slow = pqc.NewPool(runtime.GOMAXPROCS(0), slowQueue*runtime.GOMAXPROCS(0))
	e.cache = newCache(o.Capacity, o.Bytes, o.TTL, o.Now)
	e.cache.held = o.Held
	e.metrics = newCollector(o.Name, e.cache)
	if e.reg != nil {
		if err := e.reg.Register(e.metrics); err != nil {
			e.cache.close()
			return nil, fmt.Errorf("sealed: registering metrics: %w", err)
		}
	}
	return e, nil
}

// Close waits for calls under way, wipes what is cached and ends the engine's goroutines; a key of which the making was
// given up by its caller is waited for too (RSA, seconds). Handles that are still open answer fault.BackendUnavailable
// and wipe their material when they are closed. A second Close does nothing.
func (e *Engine) Close() error {
	e.gate.Close()
	e.closing.Do(func() {
		e.rsa.wait()
		e.slow.Close()
		e.cache.close()
		if e.reg != nil {
			e.reg.Unregister(e.metrics)
		}
	})
	return nil
}

// Load gives a handle for a key version. With the material in the cache it costs a map look-up under a sharded lock and
// one allocation, whatever the number of keys; otherwise the sealer is asked, once for all callers who want the same Ref
// at that time.
func (e *Engine) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	if ent := e.cache.hit(&r); ent != nil {
		return ent.mat.handle(e, ent), nil
	}
	return e.miss(ctx, r)
}

// miss has its own copy of the Ref, so that a hit needs none on the heap.
func (e *Engine) miss(ctx context.Context, r backend.Ref) (backend.Key, error) {
	ent, err := e.cache.load(ctx, &r, e.open)
	if err != nil {
		return nil, err
	}
	return ent.mat.handle(e, ent), nil
}

// Destroy drops the cached material of the key version, and what is being opened of it at this moment is not cached
// either. Handles in use stay usable until they are closed. The Ref's bytes are the caller's to erase. It is no error when
// nothing is cached, or when the Ref does not open.
func (e *Engine) Destroy(ctx context.Context, r backend.Ref) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.gate.Leave()
	e.cache.drop(&r.Spec)
	return nil
}

// enter begins a call; gate.Leave ends it.
func (e *Engine) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if !e.gate.Enter() {
		return errClosed
	}
	return nil
}

func ended(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", context.Cause(ctx))
}
