package keys

import (
	"context"
	"crypto"
	"errors"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// record is a key as the hot path wants it: looked up once, everything derived from it worked out once. It never changes but for
// the versions that it learns.
type record struct {
	cacheLinks
	key      *Key
	facts    *auth.Key
	info     backend.AlgorithmInfo
	capable  opset  // by algorithm, purpose and origin
	policy   opset  // by the policy
	label    string // of the backend, in metrics
	limits   limits // of what its versions protect
	counts   opset  // the operations that are counted against them
	dated    bool   // it has an activation or expiry to come or gone
	versions atomic.Pointer[map[uint32]*version]
	timers   [verbCount]atomic.Pointer[timer]
}

// version is a key version ready for use.
type version struct {
	*Version
	state   State // with that of the key over it
	allows  opset
	flagged bool
	ref     backend.Ref
	backend backend.Backend  // nil: not open on this node, or public-only
	public  crypto.PublicKey // nil for symmetric keys
	tally   *tally           // nil: its uses are not counted
}

// maxRecordVersions bounds what one record remembers: a key rotated for years has thousands, and few are used.
const maxRecordVersions = 32

// overlay gives the state of a version as it counts: a key on its way out takes all its versions along.
func overlay(k *Key, s State) State {
	if k.State == StatePendingDeletion || k.State == StateDestroyed {
		if s == StateDestroyed {
			return s
		}
		return k.State
	}
	return s
}

func (s *Service) newRecord(k *Key) (*record, error) {
	info, ok := backend.Lookup(k.Algorithm)
	if !ok {
		return nil, fault.New(fault.StoreCorrupted, "the stored record has an algorithm that does not exist")
	}
	r := &record{key: k, facts: factsOf(k), info: info, capable: setOf(backend.OperationsOf(info, k.Purpose)...), policy: everything()}
	if k.Origin == OriginPublicOnly {
		r.capable &= setOf(backend.OpEncrypt, backend.OpVerify)
	}
	if len(k.Policy.Operations) > 0 {
		r.policy = setOf(k.Policy.Operations...)
	}
	r.label = s.BackendName(k.BackendID)
	if k.BackendID == "" {
		r.label = "none"
	}
	r.limits.max = amount{info.MaxMessages, info.MaxBytes}
	r.limits.rotate.messages, r.limits.rotate.bytes = k.RotateAfter()
	if r.limits != (limits{}) {
		r.counts = protecting()
	}
	r.dated = !k.Policy.ActivatesAt.IsZero() || !k.Policy.ExpiresAt.IsZero()
	r.loaded = s.now()
	r.versions.Store(&map[uint32]*version{})
	return r, nil
}

// flights are the loads under way, so that a thousand callers of one cold key ask the store once.
type flights struct{ group singleflight.Group }

const loadTimeout = 10 * time.Second

// flight is how a shared load ended, and when it began.
type flight struct {
	began  ticket
	at     time.Time // when the store was asked
	record *record
	err    error
}

// share runs load once for all callers that ask for the same key at the same time. The load does not end with the first caller's
// context, which is not the others'; each caller leaves by its own. A caller that finds a load under way which began before a
// change that the caller may know of, or very long ago, does not take its result.
func (s *Service) share(ctx context.Context, key string, load func(context.Context) (*Key, error)) (*record, error) {
	once := func(ctx context.Context) *flight {
		f := &flight{began: s.cache.begin(), at: s.now()}
		k, err := load(ctx)
		if fault.Has(err, fault.KeyNotFound) {
			err = keyNotFound() // the same words for a key that is not there and one of another tenant
		}
		if err != nil {
			f.err = err
			return f
		}
		if f.record, f.err = s.newRecord(k); f.err == nil {
			s.cache.add(f.began, f.record)
		}
		return f
	}
	asked := s.cache.begin()
	ch := s.flights.group.DoChan(key, func() (any, error) {
		if err := s.join(); err != nil {
			return &flight{began: asked, at: s.now(), err: err}, nil
		}
		defer s.leave()
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		return once(shared), nil
	})
	select {
	case r := <-ch:
		f := r.Val.(*flight)
		if f.began.before(asked) || s.now().Sub(f.at) > cluster.FreshFor {
			f = once(ctx)
		}
		return f.record, f.err
	case <-ctx.Done():
		return nil, expired(ctx)
	}
}

// expired is the fault of a context that has ended.
func expired(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", context.Cause(ctx))
}

func keyNotFound() error { return fault.New(fault.KeyNotFound, "no such key in this tenant") }

// believed reports whether a record from the cache may be used. The order matters: what made the node know of changes since the record was looked
// up has dropped the record before.
func (s *Service) believed(r *record) bool { return s.fresh() && !r.dropped.Load() }

// recordByID finds a key of the tenant. A key of another tenant, and an internal one unless asked for, does not exist.
func (s *Service) recordByID(ctx context.Context, tenant, id uuid.UUID) (*record, error) {
	if r, ok := s.cache.byID(id); ok && s.believed(r) {
		s.metrics.cacheHits.Inc()
		if r.key.Tenant != tenant {
			return nil, keyNotFound()
		}
		return r, nil
	}
	s.metrics.cacheMisses.Inc()
	return s.share(ctx, "i"+string(tenant[:])+string(id[:]), func(ctx context.Context) (*Key, error) {
		return s.store.KeyByID(ctx, tenant, id)
	})
}

func (s *Service) recordByName(ctx context.Context, tenant uuid.UUID, name string) (*record, error) {
	if r, ok := s.cache.byName(tenant, name); ok && s.believed(r) {
		s.metrics.cacheHits.Inc()
		return r, nil
	}
	s.metrics.cacheMisses.Inc()
	return s.share(ctx, "n"+string(tenant[:])+name, func(ctx context.Context) (*Key, error) {
		return s.store.KeyByName(ctx, tenant, name)
	})
}

// find resolves what a caller named: an id or a name. Internal keys are nobody's to name.
func (s *Service) find(ctx context.Context, tenant uuid.UUID, name string) (*record, error) {
	if id, ok := idForm(name); ok {
		r, err := s.recordByID(ctx, tenant, id)
		if err == nil && r.key.Internal {
			return nil, keyNotFound()
		}
		return r, err
	}
	if CheckName(name) != nil {
		return nil, keyNotFound() // no key can have it
	}
	return s.recordByName(ctx, tenant, name)
}

// version gives a version of the record's key, by number; 0 is the primary one.
func (s *Service) version(ctx context.Context, r *record, n uint32) (*version, error) {
	if n == 0 {
		n = r.key.PrimaryVersion
		if n == 0 {
			return nil, fault.New(fault.BadState, "the key has no usable version yet")
		}
	}
	if v := (*r.versions.Load())[n]; v != nil {
		return v, nil
	}
	if n > r.key.LatestVersion {
		return nil, fault.New(fault.VersionNotFound, "the key has no such version")
	}
	stored, err := s.store.Version(ctx, r.key.ID, n)
	if err != nil {
		return nil, err
	}
	v, err := s.newVersion(r, stored)
	if err != nil {
		return nil, err
	}
	for {
		old := r.versions.Load()
		m := make(map[uint32]*version, len(*old)+1)
		if len(*old) < maxRecordVersions {
			for k, o := range *old {
				m[k] = o
			}
		} else if p := (*old)[r.key.PrimaryVersion]; p != nil {
			m[r.key.PrimaryVersion] = p // all others begin anew
		}
		m[n] = v
		if r.versions.CompareAndSwap(old, &m) {
			return v, nil
		}
	}
}

func (s *Service) newVersion(r *record, stored *Version) (*version, error) {
	k := r.key
	v := &version{Version: stored, state: overlay(k, stored.State), backend: s.byID[stored.BackendID]}
	v.allows, v.flagged = allowed(v.state)
	v.ref = refOf(k, stored)
	if len(stored.Public) > 0 {
		pub, err := keyenc.ParseSPKI(stored.Public)
		if err != nil {
			return nil, fault.Wrap(fault.StoreCorrupted, "the stored public key is malformed", err)
		}
		v.public = pub
	}
	if r.counts != 0 {
		v.tally = s.ledger.tally(k.ID, stored.Version)
		v.tally.learn(amount{stored.Messages, stored.Bytes}, &r.limits)
	}
	return v, nil
}

func specOf(k *Key, n uint32, custody backend.Custody, exportable bool) backend.Spec {
	return backend.Spec{Tenant: k.Tenant, KeyID: k.ID, Version: n, Algorithm: k.Algorithm, Purpose: k.Purpose, Custody: custody, Exportable: exportable}
}

func refOf(k *Key, v *Version) backend.Ref {
	return backend.Ref{Spec: specOf(k, v.Version, v.Custody, v.Exportable), Public: v.Public, Blob: v.Blob}
}

// asFault gives every error that leaves the Service a code: that of a context that ended is a timeout.
func asFault(err error) error {
	var f *fault.Error
	switch {
	case err == nil || errors.As(err, &f):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", err)
	}
	return fault.Wrap(fault.Internal, "internal fault", err)
}
