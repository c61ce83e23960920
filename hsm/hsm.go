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
	"cmp"
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
	// SharingCopies: each resident key is on all members, placed there by the service: the member that makes it wraps it under the wrapping
	// key that all of them have, the others unwrap it, and the Ref keeps it so for those that are away. Members need the same service and
	// wrapping keys, and no replication of the vendor's beyond that.
	SharingCopies Sharing = "copies"
	// SharingPinned: each key is on the one member that made it.
	SharingPinned Sharing = "pinned"
)

// Member is one token of a backend: an open one, or the way to open it.
type Member struct {
	// Token is open. Once Open has succeeded the backend closes it.
	Token token.Token
	// Open opens the token; it is called when Token is nil, at the opening and then from time to time until it succeeds. It is never called
	// again once its error has had token.ErrPINRefused in its chain.
	Open func(context.Context) (token.Token, error)
	// Name is for people; "" is the label of an open token, or a number.
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
	// MinCopies is how many members must have taken a new key before it is given out, with SharingCopies; 0: more than half of them.
	MinCopies int
	// Known is what an earlier opening found. With it, or with an ID, a backend of which no token is there yet is opened all the same: it
	// answers fault.BackendUnavailable until the first one comes, which must have the same identity.
	Known *Known
	// Remember takes what a later opening should be given as Known, once the backend works; nil: nobody wants it. It may be
	// called by Open or afterwards by a goroutine of the backend.
	Remember func(Known)
	// Required makes Open fail when no token is there.
	Required bool
	// FailoverAfter is the longest time that a member of a group may take before another one is asked, for operations that may be
	// repeated; 0: 1 second. Members that are quick by habit get less, and none gets more than half of the time that is left.
	FailoverAfter time.Duration
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
	// Capacity, Bytes, Held, TTL and Rand are those of the engine for sealed custody (sealed.Options). Rand nil is the tokens' generator and the operating
	// system's together.
	Capacity int
	Bytes    int64
	Held     *atomic.Int64
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
	errMissing      = fault.New(fault.BackendUnavailable, "no token of the backend has been there since the start").RetryAfter(joinFirst)
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
	info     atomic.Pointer[backend.Info]
	log      *slog.Logger
	now      func() time.Time
	gate     sealed.Gate
	began    time.Time
	members  []*member
	taking   sync.Mutex // held while a member gets its token
	pinned   bool
	wrapped  bool
	copies   bool
	copying  copying
	settling sync.Mutex  // held while the backend is made of the tokens that are there
	ready    atomic.Bool // it is made: what follows is set, once, before that
	identity string      // of the group's tokens; "" for pinned ones
	can      map[backend.Algorithm]backend.Capability
	keyed    bool // Refs are authenticated by a key of the token
	form     sealForm
	rotating sync.Mutex // held while sealing keys are made or destroyed
	refs     *refs
	engine   *sealed.Engine // nil: no sealed custody
	metrics  *metrics
	epoch    atomic.Uint64   // of all members together: grows with each initialisation
	life     context.Context //nolint:containedctx // of what the backend does by itself; ends with Close
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

func prepare(o Options) (*Backend, error) {
	if o.Name == "" || len(o.Members) == 0 {
		return nil, errors.New("hsm: a name and a token are required")
	}
	defaults(&o)
	if o.Placement != PlacementResident && o.Placement != PlacementWrapped {
		return nil, fault.New(fault.BadField, "the placement must be resident or wrapped")
	}
	if o.Sharing != SharingReplicas && o.Sharing != SharingPinned && o.Sharing != SharingCopies {
		return nil, fault.New(fault.BadField, "the members of a group must be replicas, copies or pinned")
	}
	if o.Sharing == SharingCopies && o.Placement != PlacementResident {
		return nil, fault.New(fault.BadField, "only resident keys are copied: wrapped ones need no copies")
	}
	if o.MinCopies < 0 || o.MinCopies > len(o.Members) {
		return nil, fault.New(fault.BadField, "there cannot be so many copies of a key")
	}
	b := &Backend{o: o, began: time.Now(), log: o.Logger.With("backend", o.Name), now: o.Now, gate: sealed.NewGate(), wrapped: o.Placement == PlacementWrapped,
		copies: o.Sharing == SharingCopies, pinned: o.Sharing == SharingPinned && len(o.Members) > 1}
	if b.pinned && o.ID == "" {
		return nil, fault.New(fault.MissingField, "a group of pinned members needs an identity of its own")
	}
	for i, given := range o.Members {
		if given.Token == nil && given.Open == nil {
			return nil, errors.New("hsm: a member without a token")
		}
		b.members = append(b.members, newMember(i, given))
	}
	for _, m := range b.members {
		if given := o.Members[m.index].Token; given != nil {
			if err := b.take(m, given); err != nil {
				return nil, err
			}
		}
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
	if o.MinCopies == 0 {
		o.MinCopies = len(o.Members)/2 + 1
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
	if o.FailoverAfter <= 0 {
		o.FailoverAfter = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Info describes the backend. Until the first token has come it is what was known before, if anything was. The caller must not
// change what its slices hold.
func (b *Backend) Info() backend.Info { return *b.info.Load() }

// CanSeal reports whether Seal and Open work, and with them sealed custody.
func (b *Backend) CanSeal() bool { return b.ready.Load() && b.form != 0 }

// Close waits for calls under way, ends the watching of the members and the engine, which wipes opened keys, and closes the tokens last, all at
// once. A second Close does nothing and gives the same error.
func (b *Backend) Close() error {
	b.gate.Close()
	b.closing.Do(func() {
		b.stop()
		b.watchers.Wait()
		if b.engine != nil {
			b.closeErr = b.engine.Close()
		}
		b.metrics.unregister(b.o.Registerer)
		b.closeErr = errors.Join(b.closeErr, b.closeTokens(func(*member) bool { return true }))
	})
	return b.closeErr
}

// closeTokens closes those of the members' tokens that are there and wanted, all at once.
func (b *Backend) closeTokens(wanted func(*member) bool) error {
	errs := make([]error, len(b.members))
	var all sync.WaitGroup
	for i, m := range b.members {
		if m.joined.Load() && wanted(m) {
			all.Go(func() { errs[i] = m.token.Close() })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// enter begins a call; gate.Leave ends it.
func (b *Backend) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if !b.gate.Enter() {
		return errClosed
	}
	if !b.ready.Load() {
		b.gate.Leave()
		return errMissing
	}
	return nil
}

func ended(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", context.Cause(ctx))
}

// wraps reports whether keys leave the token that makes them, wrapped.
func (b *Backend) wraps() bool { return b.wrapped || b.copies }

// describe makes Info of what the members that are there can all do.
func (b *Backend) describe() error {
	info := backend.Info{Kind: "hsm", Name: b.o.Name, ID: cmp.Or(b.o.ID, b.identity), Custody: []backend.Custody{backend.CustodyDevice}, KeepsObjects: !b.wrapped}
	b.can = map[backend.Algorithm]backend.Capability{}
	for _, a := range backend.Algorithms() {
		c, ok := b.common(a.Name)
		if !ok {
			continue
		}
		b.can[a.Name] = c
		info.Capabilities = append(info.Capabilities, c)
	}
	if len(b.can) == 0 {
		return fault.New(fault.Unsupported, "the tokens can do nothing together with this placement")
	}
	if b.form != 0 {
		info.Custody = append(info.Custody, backend.CustodySealed)
	}
	if b.engine != nil && b.o.AllowSealed {
		for _, c := range b.engine.Capabilities() {
			if _, ok := b.can[c.Algorithm]; !ok {
				b.can[c.Algorithm] = c
				info.Capabilities = append(info.Capabilities, c)
			}
		}
	}
	info.Quirks = b.quirks()
	if slices.ContainsFunc(b.present(), leaks) {
		info.CustodyCaveat = caveat
	}
	b.info.Store(&info)
	return nil
}

// common gives what every member can do with an algorithm, in the placement of this backend.
func (b *Backend) common(a backend.Algorithm) (backend.Capability, bool) {
	var out backend.Capability
	for i, m := range b.present() {
		at := slices.IndexFunc(m.description.Capabilities, func(c backend.Capability) bool { return c.Algorithm == a })
		if at < 0 || b.wraps() && !slices.Contains(m.description.Wrappable, a) {
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
	if len(out.Operations) == 0 {
		return out, false
	}
	out.Operations = append(out.Operations, backend.OpAttest) // every token tells the attributes of its objects
	return out, true
}

const caveat = "The token lets a key that is marked as non-extractable be wrapped out, which the configuration accepts: whoever has the token's PIN can have the keys."

func leaks(m *member) bool { return m.description.LeaksWrapped }

// quirks says in words what an operator should know.
func (b *Backend) quirks() []string {
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, m := range b.present() {
		prefix := ""
		if len(b.members) > 1 {
			prefix = m.name + ": "
		}
		if leaks(m) {
			add(prefix + caveat)
		}
		for _, q := range m.description.Quirks {
			add(prefix + q)
		}
	}
	if b.wrapped {
		add("Keys are kept outside the token, wrapped by its wrapping key: without that key they are lost, and copies of the store keep them until they are erased too.")
	}
	if b.copies {
		add("Keys are copied to all members of the group under its wrapping key, and the store keeps that copy: whoever can use the wrapping key can have them, and copies of the store keep a destroyed key until they are erased too.")
	}
	if !b.keyed {
		add("The token has no HMAC-SHA-256: records of keys are protected against damage and mistakes, not against an editor of the store.")
	}
	add(b.importing())
	if b.form != 0 {
		add("Keys in sealed custody are opened in this process for use, and stay in its memory for the cache's time to live.")
	}
	return out
}
