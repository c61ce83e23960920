package keys

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// Options are the parts of a Service. Store, Idempotency, Recorder and at least one backend are required.
type Options struct {
	Store       Store
	Idempotency idempotency.Store
	Recorder    audit.Recorder
	// Backends are the opened devices; the first is the default for new keys. The Service does not close them. Names and
	// identities must be unique.
	Backends []backend.Backend
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Rand is the source of data keys, identifiers and random bytes; nil: crypto/rand.
	Rand io.Reader
	// Registerer takes the metrics; nil: they are counted and shown nowhere.
	Registerer prometheus.Registerer
	// Logger takes what Maintain finds; nil: nothing is logged.
	Logger *slog.Logger
	// Jobs takes the work that outlives a request; nil: Move is not there.
	Jobs Jobs
	// RecordCache is how many key records stay ready in memory; 0: 16384.
	RecordCache int
	// RecordMaxAge is how long a record stays ready before it is read again; 0: until it is changed through this Service
	// or named to Invalidate, which is enough while this Service is the only one that writes to the store, or there is Fresh.
	RecordMaxAge time.Duration
	// Maintained is told after each Maintain that did or tried something what that was, by tenant. It is called by Maintain, and holds it up. nil:
	// nobody is told.
	Maintained func(context.Context, []Maintained)
	// Fresh reports whether every change on other nodes that is older than a second has been told to Heard. While it says no, nothing
	// cached is used and each request reads the store. Nil: there are no other nodes.
	Fresh func() bool
	// Regranted is told whose grants this Service has changed, as soon as they are. Nil: nobody is told, and what others remember of
	// principals is as old as they let it be.
	Regranted func(principal string)
	// OperationsPerDay gives how many operations with keys a tenant of a plan may carry out from midnight to midnight, UTC; 0: any number. Nil: no plan has a
	// limit.
	OperationsPerDay func(plan string) int64
	// Elsewhere says what a backend that this node does not have is called on the nodes that do, and which those are. Nil: there are no
	// other nodes.
	Elsewhere func(backendID string) (name string, nodes []string)
}

// Service carries out every operation on keys. It implements API and is safe for concurrent use.
type Service struct {
	store       Store
	idempotency idempotency.Store
	recorder    audit.Recorder
	backends    []backend.Backend
	byID        map[string]backend.Backend
	byName      map[string]backend.Backend
	names       map[string]string // identity to configured name
	now         func() time.Time
	rand        io.Reader
	log         *slog.Logger
	fresh       func() bool
	elsewhere   func(backendID string) (name string, nodes []string)
	regranted   func(principal string)

	jobs     Jobs
	cache    *recordCache
	defaults *defaultCache
	flights  flights
	locks    keyLocks
	ledger   *ledger
	days     days
	daily    func(plan string) int64
	metrics  *metrics

	inFlight atomic.Int64
	closed   atomic.Bool
	closing  sync.Once
	drained  chan struct{} // one value when the last call leaves after Close

	maintained func(context.Context, []Maintained)
	tidy       sync.Mutex // one Maintain at a time; it guards all below
	pruned     time.Time  // when Maintain pruned last
	pass       map[uuid.UUID]*Maintained
	waiting    waiting
}

var _ API = (*Service)(nil)

// New makes a Service. Close ends it.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Idempotency == nil || o.Recorder == nil || len(o.Backends) == 0 {
		return nil, errors.New("keys: store, idempotency store, recorder and a backend are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fresh == nil {
		o.Fresh = func() bool { return true }
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func(string) (string, []string) { return "", nil }
	}
	if o.OperationsPerDay == nil {
		o.OperationsPerDay = func(string) int64 { return 0 }
	}
	if o.Regranted == nil {
		o.Regranted = func(string) {}
	}
	if o.RecordCache == 0 {
		o.RecordCache = 16384
	}
	if o.RecordCache < 0 || o.RecordMaxAge < 0 {
		return nil, errors.New("keys: size and age of the record cache are not negative")
	}
	s := &Service{store: o.Store, idempotency: o.Idempotency, recorder: o.Recorder, backends: o.Backends, now: o.Now, rand: o.Rand, log: o.Logger, jobs: o.Jobs,
		fresh: o.Fresh, elsewhere: o.Elsewhere, regranted: o.Regranted, daily: o.OperationsPerDay,
		byID: map[string]backend.Backend{}, byName: map[string]backend.Backend{}, names: map[string]string{},
		cache: newRecordCache(o.RecordCache, o.RecordMaxAge, o.Now), defaults: newDefaultCache(o.RecordMaxAge, o.Now), drained: make(chan struct{}, 1),
		ledger: newLedger(ledgerPart * o.RecordCache), maintained: o.Maintained, waiting: waiting{}}
	for _, b := range o.Backends {
		info := b.Info()
		if other := s.byID[info.ID]; other != nil && info.ID != "" {
			return nil, fmt.Errorf("the backends %s and %s are the same device: one backend has all of its keys", other.Info().Name, info.Name)
		}
		if info.ID == "" || info.Name == "" || s.byName[info.Name] != nil {
			return nil, errors.New("keys: names and identities of backends must be set and unique")
		}
		s.byID[info.ID], s.byName[info.Name], s.names[info.ID] = b, b, info.Name
	}
	m, err := newMetrics(o.Registerer, s)
	if err != nil {
		return nil, err
	}
	s.metrics = m
	return s, nil
}

// Close refuses new calls with fault.Unavailable and waits for those under way. It leaves the backends, the store and the
// recorder open: they belong to whoever opened them. A second Close waits like the first.
func (s *Service) Close() error {
	s.closing.Do(func() {
		s.closed.Store(true)
		if s.inFlight.Load() > 0 {
			<-s.drained
		}
	})
	return nil
}

// enter counts a call in, or refuses it once Close has begun.
func (s *Service) enter() error {
	s.inFlight.Add(1)
	if s.closed.Load() {
		s.leave()
		return fault.New(fault.Unavailable, "the service is stopping")
	}
	return nil
}

// join counts in what is done for calls that are in already, even while Close waits for those. When all of them have gone after Close it is
// refused.
func (s *Service) join() error {
	if s.inFlight.Add(1) == 1 && s.closed.Load() {
		s.leave()
		return fault.New(fault.Unavailable, "the service is stopping")
	}
	return nil
}

func (s *Service) leave() {
	if s.inFlight.Add(-1) == 0 && s.closed.Load() {
		select {
		case s.drained <- struct{}{}:
		default: // there is a value already
		}
	}
}

// ledgerPart is how many versions' uses are kept in hand for each record in the cache: more, as a record comes back and uses that are forgotten do not.
const ledgerPart = 2

// newID gives a fresh version 7 UUID (RFC 9562 section 5.7): ordered by time, so that the newest keys lie together in the store's index.
// Its last 62 bits are random.
func (s *Service) newID() (uuid.UUID, error) {
	id, err := uuid.NewV7FromReader(s.rand)
	if err != nil {
		return uuid.Nil, fault.Wrap(fault.Internal, "internal fault", err)
	}
	return id, nil
}

// defaultCache keeps the default keys of tenants, so that a request that names no key reads no database either.
type defaultCache struct {
	mu     sync.RWMutex // guards all below
	keys   map[defaultKey]defaultEntry
	epoch  uint64
	until  time.Time // nothing is kept before: a change of a default may still be under way
	maxAge time.Duration
	now    func() time.Time
}

type defaultKey struct {
	tenant  uuid.UUID
	purpose backend.Purpose
}

type defaultEntry struct {
	id     uuid.UUID
	loaded time.Time
}

const maxDefaults = 4096

func newDefaultCache(maxAge time.Duration, now func() time.Time) *defaultCache {
	return &defaultCache{keys: map[defaultKey]defaultEntry{}, maxAge: maxAge, now: now}
}

func (c *defaultCache) drop() {
	c.mu.Lock()
	c.epoch++
	clear(c.keys)
	c.mu.Unlock()
}

func (c *defaultCache) doubt() {
	c.mu.Lock()
	c.epoch++
	clear(c.keys)
	c.until = c.now().Add(doubtPeriod)
	c.mu.Unlock()
}

// defaultOf gives the tenant's default key for a purpose, or fault.NoDefaultKey.
func (s *Service) defaultOf(ctx context.Context, tenant uuid.UUID, p backend.Purpose) (uuid.UUID, error) {
	c, k := s.defaults, defaultKey{tenant, p}
	c.mu.RLock()
	e, ok := c.keys[k]
	ok = ok && s.fresh() // under the lock: what makes the node know of a change has emptied the cache before
	epoch := c.epoch
	c.mu.RUnlock()
	if ok && (c.maxAge == 0 || c.now().Sub(e.loaded) <= c.maxAge) {
		return e.id, nil
	}
	id, err := s.store.DefaultKey(ctx, tenant, p)
	if err != nil {
		return uuid.Nil, err
	}
	c.mu.Lock()
	if now := c.now(); c.epoch == epoch && !now.Before(c.until) {
		if len(c.keys) >= maxDefaults {
			clear(c.keys)
		}
		c.keys[k] = defaultEntry{id, now}
	}
	c.mu.Unlock()
	return id, nil
}
