// Package hsm is the backend of PKCS#11 tokens: one token, or a group of several that keep the same keys or share the keys among
// them. It turns key versions into objects of the tokens, or into keys that a token wraps and that are kept outside, and it
// finds them again by what the store keeps of them.
//
// It trusts the token for what the token computes and for keeping its keys. It does not trust the store: everything in a Ref is
// authenticated by a key of the token, so that a Ref that was swapped, edited, damaged or copied from another device does not load, and the
// stored public key is compared with the device's. Tokens come from hsm/token, in this process, or from hsm/remote, in processes of
// their own; they heal themselves. This package chooses among them, and says what they can do and how they are.
package hsm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// Placement says where keys in device custody are kept.
type Placement string

const (
	// PlacementResident keeps each key as an object on the token.
	PlacementResident Placement = "resident"
	// PlacementWrapped keeps each key outside, wrapped by a key that never leaves the token. The token has it as long as it is in use.
	PlacementWrapped Placement = "wrapped"
)

// Sharing says what the members of a group have in common.
type Sharing string

const (
	// SharingReplicas: all members show the same objects, as the HSMs of one domain do; any of them serves every key. The
	// vendor's replication places resident keys on all; wrapped keys need none but the wrapping and service keys.
	SharingReplicas Sharing = "replicas"
	// SharingPinned: each key is on the one member that made it.
	SharingPinned Sharing = "pinned"
)

// Member is one token of a backend.
type Member struct {
	// Token is open. Once Open has succeeded the backend closes it.
	Token token.Token
	// Name is for people; "" is the token's label.
	Name string
	// Weight is the member's share of the operations against the others' weights: 0 is 1. A negative one stands by: it gets
	// operations only when no other member is healthy.
	Weight int
}

// Options are the choices of a backend. Name and Members are required.
type Options struct {
	// Name is the configured name, for Info, logs and metrics.
	Name string
	// ID is the device identity in key records. "" takes the tokens' own, which follows from a key on them: it is the same
	// for all replicas, and on a device to which the domain was restored. A group of pinned members has none, and needs one here.
	ID      string
	Members []Member
	// Sharing is for more than one member; "" is SharingReplicas.
	Sharing Sharing
	// Placement; "" is PlacementResident.
	Placement Placement
	// AllowSealed offers the algorithms that the tokens do not have in sealed custody. Sealed custody that is asked for
	// by name is given for the others with or without it.
	AllowSealed bool
	// Refs is how many checked Refs stay in memory (a few hundred bytes each, nothing secret); 0: 65,536. Negative: none, and
	// each Load asks the token.
	Refs int
	// RefTTL is the longest time for which a checked Ref is believed; 0: 5 minutes.
	RefTTL time.Duration
	// Capacity, TTL and Rand are those of the engine for sealed custody (sealed.Options). Rand nil is the tokens' generator and the operating
	// system's together.
	Capacity int
	TTL      time.Duration
	Rand     io.Reader
	// PingEvery is the time between two tests of a healthy member; 0: 20 seconds. At most a minute.
	PingEvery  time.Duration
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // takes keywright_hsm_* and the engine's metrics; nil: none
	Now        func() time.Time      // nil: time.Now
}

// The answers that are the same everywhere.
var (
	errClosed       = fault.New(fault.BackendUnavailable, "the backend is closed")
	errHandleClosed = fault.New(fault.BackendUnavailable, "the key handle is closed")
	errUnreadable   = fault.New(fault.KeyMaterial, "the stored key material does not open, or does not fit its record")
	errDecrypt      = fault.New(fault.DecryptionFailed, "the ciphertext does not open")
	errImport       = fault.New(fault.BadImport, "the material does not open, or is not a key of the algorithm")
	errUnsupported  = fault.New(fault.Unsupported, "the backend cannot do this with this algorithm")
	errCustody      = fault.New(fault.Unsupported, "the backend does not give this custody")
	errExport       = fault.New(fault.Unsupported, "keys in device custody are not exported")
	errHash         = fault.New(fault.BadField, "the hash is not one for this operation")
	errPadding      = fault.New(fault.BadField, "the padding is not one for this algorithm")
	errDigest       = fault.New(fault.BadSize, "the digest is not as long as its hash")
)

// unreadable gives the one answer for every Ref that is not as it should be; the cause is for the log.
func unreadable(cause error) error {
	return fault.Wrap(fault.KeyMaterial, errUnreadable.Message, cause)
}

// Backend is an opened token or group. It implements backend.Backend, Importer, Sealer, Randomer and Pinger. It is safe for
// concurrent use. On tokens that can do neither AES-GCM nor AES-KWP its Seal and Open answer fault.Unsupported: see CanSeal.
type Backend struct {
	o        Options
	info     backend.Info
	log      *slog.Logger
	now      func() time.Time
	gate     sealed.Gate
	members  []*member
	pinned   bool
	wrapped  bool
	can      map[backend.Algorithm]backend.Capability
	keyed    bool // Refs are authenticated by a key of the token
	form     sealForm
	refs     *refs
	engine   *sealed.Engine // nil: no sealed custody
	metrics  *metrics
	epoch    atomic.Uint64 // of all members together: grows with each initialisation
	stop     context.CancelFunc
	watchers sync.WaitGroup
	closing  sync.Once
	closeErr error
}

var (
	_ backend.Backend  = (*Backend)(nil)
	_ backend.Importer = (*Backend)(nil)
	_ backend.Sealer   = (*Backend)(nil)
	_ backend.Randomer = (*Backend)(nil)
	_ backend.Pinger   = (*Backend)(nil)
)

// Open makes a backend of open tokens. On a token that it has not seen it makes the service's own keys (see ServiceKeys). When
// it fails the tokens stay open and the caller's.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	b, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := b.service(ctx); err != nil {
		return nil, err
	}
	if b.form != 0 {
		b.engine, err = sealed.New(engineSealer{b}, sealed.Options{Name: o.Name, Custody: backend.CustodySealed, Capacity: o.Capacity,
			TTL: o.TTL, Rand: b.generator(), Now: o.Now, Registerer: o.Registerer})
		if err != nil {
			return nil, err
		}
	}
	err = b.describe()
	if err == nil {
		err = b.metrics.register(o.Registerer)
	}
	if err != nil {
		if b.engine != nil {
			_ = b.engine.Close() // it has done nothing yet
		}
		return nil, err
	}
	watch, stop := context.WithCancel(context.Background())
	b.stop = stop
	for _, m := range b.members {
		b.watchers.Go(func() { b.watch(watch, m) })
	}
	return b, nil
}

func prepare(o Options) (*Backend, error) {
	if o.Name == "" || len(o.Members) == 0 {
		return nil, errors.New("hsm: a name and a token are required")
	}
	defaults(&o)
	if o.Placement != PlacementResident && o.Placement != PlacementWrapped {
		return nil, fault.New(fault.BadField, "the placement must be resident or wrapped")
	}
	if o.Sharing != SharingReplicas && o.Sharing != SharingPinned {
		return nil, fault.New(fault.BadField, "the members of a group must be replicas or pinned")
	}
	b := &Backend{o: o, log: o.Logger.With("backend", o.Name), now: o.Now, gate: sealed.NewGate(), wrapped: o.Placement == PlacementWrapped,
		pinned: o.Sharing == SharingPinned && len(o.Members) > 1}
	if b.pinned && o.ID == "" {
		return nil, fault.New(fault.MissingField, "a group of pinned members needs an identity of its own")
	}
	names := map[string]bool{}
	for i, given := range o.Members {
		if given.Token == nil {
			return nil, errors.New("hsm: a member without a token")
		}
		m := newMember(i, given)
		if b.pinned && (m.serial == "" || names[m.serial]) {
			return nil, fault.New(fault.BadField, "pinned members need tokens with serial numbers that differ")
		}
		names[m.serial] = true
		b.members = append(b.members, m)
	}
	b.refs = newRefs(o.Refs, o.RefTTL, o.Now)
	b.metrics = newMetrics(o.Name, b.members)
	return b, nil
}

func defaults(o *Options) {
	if o.Placement == "" {
		o.Placement = PlacementResident
	}
	if o.Sharing == "" {
		o.Sharing = SharingReplicas
	}
	if o.Refs == 0 {
		o.Refs = 1 << 16
	}
	if o.RefTTL <= 0 {
		o.RefTTL = 5 * time.Minute
	}
	if o.PingEvery <= 0 || o.PingEvery > time.Minute {
		o.PingEvery = 20 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Info describes the backend. The caller must not change what its slices hold.
func (b *Backend) Info() backend.Info { return b.info }

// CanSeal reports whether Seal and Open work, and with them sealed custody.
func (b *Backend) CanSeal() bool { return b.form != 0 }

// Close waits for calls under way, ends the engine, which wipes opened keys, then the watching of the members, and closes the tokens last, all at
// once. A second Close does nothing and gives the same error.
func (b *Backend) Close() error {
	b.gate.Close()
	b.closing.Do(func() {
		if b.engine != nil {
			b.closeErr = b.engine.Close()
		}
		b.stop()
		b.watchers.Wait()
		b.metrics.unregister(b.o.Registerer)
		errs := make([]error, len(b.members))
		var all sync.WaitGroup
		for i, m := range b.members {
			all.Go(func() { errs[i] = m.token.Close() })
		}
		all.Wait()
		b.closeErr = errors.Join(b.closeErr, errors.Join(errs...))
	})
	return b.closeErr
}

// enter begins a call; gate.Leave ends it.
func (b *Backend) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if !b.gate.Enter() {
		return errClosed
	}
	return nil
}

func ended(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", context.Cause(ctx))
}

// describe makes Info of what all members can do.
func (b *Backend) describe() error {
	b.info = backend.Info{Kind: "hsm", Name: b.o.Name, ID: b.o.ID, Custody: []backend.Custody{backend.CustodyDevice}, KeepsObjects: !b.wrapped}
	if b.info.ID == "" {
		b.info.ID = b.members[0].identity
		for _, m := range b.members {
			if m.verified.Load() {
				b.info.ID = m.identity
				break
			}
		}
	}
	b.can = map[backend.Algorithm]backend.Capability{}
	for _, a := range backend.Algorithms() {
		c, ok := b.common(a.Name)
		if !ok {
			continue
		}
		b.can[a.Name] = c
		b.info.Capabilities = append(b.info.Capabilities, c)
	}
	if len(b.can) == 0 {
		return fault.New(fault.Unsupported, "the tokens can do nothing together with this placement")
	}
	if b.form != 0 {
		b.info.Custody = append(b.info.Custody, backend.CustodySealed)
	}
	if b.engine != nil && b.o.AllowSealed {
		for _, c := range b.engine.Capabilities() {
			if _, ok := b.can[c.Algorithm]; !ok {
				b.can[c.Algorithm] = c
				b.info.Capabilities = append(b.info.Capabilities, c)
			}
		}
	}
	b.info.Quirks = b.quirks()
	return nil
}

// common gives what every member can do with an algorithm, in the placement of this backend.
func (b *Backend) common(a backend.Algorithm) (backend.Capability, bool) {
	var out backend.Capability
	for i, m := range b.members {
		at := slices.IndexFunc(m.description.Capabilities, func(c backend.Capability) bool { return c.Algorithm == a })
		if at < 0 || b.wrapped && !slices.Contains(m.description.Wrappable, a) {
			return out, false
		}
		c := m.description.Capabilities[at]
		if i == 0 {
			out = backend.Capability{Algorithm: a, Custody: backend.CustodyDevice, Operations: slices.Clone(c.Operations), Import: c.Import}
			continue
		}
		out.Import = out.Import && c.Import
		out.Operations = slices.DeleteFunc(out.Operations, func(op backend.Operation) bool { return !slices.Contains(c.Operations, op) })
	}
	return out, len(out.Operations) > 0
}

// quirks says in words what an operator should know.
func (b *Backend) quirks() []string {
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, m := range b.members {
		prefix := ""
		if len(b.members) > 1 {
			prefix = m.name + ": "
		}
		if m.description.LeaksWrapped {
			add(prefix + "The token lets a key that is marked as non-extractable be wrapped out, which was accepted: whoever has its PIN can have the keys, whatever their custody says.")
		}
		for _, q := range m.description.Quirks {
			add(prefix + q)
		}
	}
	if b.wrapped {
		add("Keys are kept outside the token, wrapped by its wrapping key: without that key they are lost, and copies of the store keep them until they are erased too.")
	}
	if !b.keyed {
		add("The token has no HMAC-SHA-256: records of keys are protected against damage and mistakes, not against an editor of the store.")
	}
	add("Imported keys come in clear as far as this process, which gives them to the token encrypted under a fresh key where the token can unwrap.")
	if b.form != 0 {
		add("Keys in sealed custody are opened in this process for use, and stay in its memory for the cache's time to live.")
	}
	return out
}
