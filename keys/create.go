package keys

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// abandonTimeout bounds the note that a creation has failed; Maintain writes it later when that fails too.
const abandonTimeout = 5 * time.Second

// Create makes a key and its first version, which is active when Create returns; with OriginImported it waits for its material
// instead. With an idempotency token the same request gives the same key.
func (s *Service) Create(ctx context.Context, c Caller, r CreateRequest) (*Key, error) {
	return pipeline(ctx, s, c, verbCreate, func(ctx context.Context, q *request) (*Key, error) {
		if k, err := q.replay(ctx); k != nil || err != nil {
			return k, err
		}
		if r.Origin == OriginPublicOnly {
			return nil, fault.New(fault.BadField, "a public-only key is made by import")
		}
		k, v, err := q.draft(ctx, r)
		if err != nil {
			return nil, err
		}
		if k.Origin == OriginImported {
			v.State, k.State = StatePendingImport, StatePendingImport
			return q.insert(k, v, r.Default, 0), nil
		}
		return q.bear(ctx, k, v, r.Default, generate)
	}, nil)
}

// stamp is the time as the store keeps it.
func (s *Service) stamp() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// draft is draft of the Service for a caller who may make such a key.
func (q *request) draft(ctx context.Context, r CreateRequest) (*Key, *Version, error) {
	k, v, err := q.s.draft(ctx, q.tenant(), r)
	if err != nil {
		return nil, nil, err
	}
	if err := q.permit(ctx, factsOf(k), false); err != nil || !r.Default {
		return k, v, err
	}
	return k, v, q.permitDefault()
}

// draft checks a request for a new key and makes its record and that of its first version, without material.
func (s *Service) draft(ctx context.Context, tenant uuid.UUID, r CreateRequest) (*Key, *Version, error) {
	if r.Name == "" || r.Algorithm == "" {
		return nil, nil, fault.New(fault.MissingField, "name and algorithm are required")
	}
	if err := CheckName(r.Name); err != nil {
		return nil, nil, err
	}
	info, ok := backend.Lookup(r.Algorithm)
	if !ok {
		return nil, nil, fault.New(fault.BadAlgorithm, "the algorithm is unknown")
	}
	if err := checkLabels(r.Labels); err != nil {
		return nil, nil, err
	}
	origin := r.Origin
	switch origin {
	case "":
		origin = OriginGenerated
	case OriginGenerated, OriginImported, OriginPublicOnly:
	default:
		return nil, nil, fault.New(fault.BadField, "the origin is generated or imported")
	}
	purpose, err := purposeOf(info, r.Purpose, r.Policy.Operations)
	if err != nil {
		return nil, nil, err
	}
	if err := checkPolicy(r.Policy, info, purpose, origin); err != nil {
		return nil, nil, err
	}
	now := s.stamp()
	p := r.Policy.clone().stamped()
	if err := p.checkDates(&Policy{}, StateCreating, now); err != nil {
		return nil, nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	k := &Key{ID: id, Tenant: tenant, Name: r.Name, Algorithm: r.Algorithm, Purpose: purpose, Origin: origin, Labels: maps.Clone(r.Labels),
		Policy: p, LatestVersion: 1, CreatedAt: now, UpdatedAt: now, RotatedAt: now}
	v := &Version{KeyID: id, Version: 1, Origin: origin, Exportable: r.Policy.Exportable, CreatedAt: now, StateAt: now}
	if origin == OriginPublicOnly {
		if r.Backend != "" || r.Custody != "" {
			return nil, nil, fault.New(fault.BadField, "a public-only key has no backend and no custody")
		}
		return k, v, nil
	}
	if err := s.admit(ctx, tenant, info); err != nil {
		return nil, nil, err
	}
	if err := s.place(k, v, r.Backend, r.Custody); err != nil {
		return nil, nil, err
	}
	return k, v, nil
}

// place settles backend and custody. A custody that is asked for is what the key gets, or it gets none: never a weaker one in silence.
func (s *Service) place(k *Key, v *Version, name string, custody backend.Custody) error {
	b, err := s.backendNamed(name)
	if err != nil {
		return err
	}
	can, ok := b.Info().Can(k.Algorithm)
	if !ok && len(b.Info().Capabilities) == 0 {
		return fault.New(fault.BackendUnavailable, "the backend has not been there since the start, and what it can do is not known").RetryAfter(time.Second)
	}
	if !ok {
		return unsupported()
	}
	if k.Origin == OriginImported && !can.Import {
		return unsupported()
	}
	switch {
	case custody == "":
		custody = can.Custody
	case !knownCustody(custody):
		return errCustodyName()
	case custody != can.Custody && (strength(custody) > strength(can.Custody) || !slices.Contains(b.Info().Custody, custody)):
		return fault.New(fault.Unsupported, "the backend does not give this algorithm this custody")
	}
	can.Custody = custody // a weaker one than the device has, for whoever asks: for exportable keys, or to have no object on the token
	if err := attestable(k.Policy, can); err != nil {
		return err
	}
	k.BackendID, k.Custody = b.Info().ID, custody
	v.BackendID, v.Custody = k.BackendID, custody
	return nil
}

// maker brings material into a backend: it generates or imports.
type maker func(context.Context, backend.Backend, backend.Spec) (backend.Ref, error)

// bear makes the material of a new key. Where the device keeps objects, key and version are written before the device is touched, so
// that no object can be there that nothing knows of; elsewhere one transaction does it all.
func (q *request) bear(ctx context.Context, k *Key, v *Version, isDefault bool, make maker) (*Key, error) {
	b := q.s.byID[v.BackendID]
	if b == nil {
		return nil, q.s.notHere(v.BackendID)
	}
	spec := specOf(k, v.Version, v.Custody, v.Exportable)
	make = q.s.attested(k, v, make)
	if !b.Info().KeepsObjects {
		ref, err := make(ctx, b, spec)
		if err != nil {
			return nil, err
		}
		v.take(k, ref)
		k.activate(v)
		return q.insert(k, v, isDefault, 1), nil
	}
	k.State, v.State = StateCreating, StateCreating
	begun := append(q.token(k.ID, v.Version), q.s.store.InsertKey(k, v))
	if err := q.step(ctx, q.entry.Action+".begin", k.ID, v.Version, begun...); err != nil {
		return nil, err
	}
	q.final = true
	q.entry.Key, q.entry.KeyVersion = k.ID, v.Version
	ref, err := make(ctx, b, spec)
	if err != nil {
		q.abandon(ctx, k, v)
		return nil, err
	}
	v.StateAt = q.s.stamp()
	v.take(k, ref)
	k.activate(v)
	q.change(k.ID, q.s.store.UpdateVersion(v), q.s.store.UpdateKey(k))
	if isDefault {
		q.makeDefault(k)
	}
	return k.stored(), nil
}

// insert puts the one transaction of a creation together.
func (q *request) insert(k *Key, v *Version, isDefault bool, version uint32) *Key {
	q.entry.Key, q.entry.KeyVersion = k.ID, version
	q.change(k.ID, append(q.token(k.ID, v.Version), q.s.store.InsertKey(k, v))...)
	if isDefault {
		q.makeDefault(k)
	}
	out := *k
	return &out
}

func (q *request) makeDefault(k *Key) {
	q.changes = append(q.changes, q.s.store.SetDefaultKey(k.Tenant, k.Purpose, k.ID))
	q.defaults = true
}

// take fills in what the backend gave to a version of k. Its StateAt is when that was.
func (v *Version) take(k *Key, ref backend.Ref) {
	v.State, v.Public, v.Blob, v.Custody = k.born(v.StateAt), ref.Public, ref.Blob, ref.Spec.Custody
	if ref.Inside {
		v.Origin = OriginImportedInside
	}
}

// activate makes v the primary version.
func (k *Key) activate(v *Version) {
	k.PrimaryVersion, k.LatestVersion = v.Version, max(k.LatestVersion, v.Version)
	k.State, k.Custody, k.BackendID = v.State, v.Custody, v.BackendID
	k.RotatedAt, k.UpdatedAt = v.StateAt, v.StateAt
	if k.Origin == OriginMoved && v.Origin == OriginGenerated {
		k.Origin = OriginGenerated
	}
}

// stored is the record as it is in the store once its update is carried out.
func (k *Key) stored() *Key {
	out := *k
	out.Revision++
	return &out
}

// abandon notes that a version in creation will never be: whatever the device holds of it is reported, not erased. It is not the
// failure of the request when this fails, since Maintain does it later.
func (q *request) abandon(ctx context.Context, k *Key, v *Version) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	changes := q.s.abandoned(k, v)
	if err := q.step(ctx, verbAbandon.String(), k.ID, v.Version, changes...); err != nil {
		q.s.log.Warn("a key version whose creation failed could not be marked", "key", k.ID, "version", v.Version, "error", err)
		return
	}
	q.s.metrics.stale.Inc()
}

// abandoned prepares the end of a version that never came to be. A key that has no other version ends with it, so that its name is free
// again; a key that waits for its material goes on waiting.
func (s *Service) abandoned(k *Key, v *Version) []audit.Change {
	now := s.stamp()
	gone := *v
	gone.State, gone.PriorState, gone.Blob, gone.StateAt = StateDestroyed, StateCreating, nil, now
	changes := []audit.Change{s.store.UpdateVersion(&gone)}
	if k.State != StateCreating {
		return changes
	}
	after := *k
	after.State, after.UpdatedAt = StateDestroyed, now
	if k.Origin == OriginImported && v.PriorState == StatePendingImport {
		after.State = StatePendingImport
	}
	return append(changes, s.store.UpdateKey(&after))
}

// replay gives the key of an earlier call with the same idempotency token, or nil when there was none.
func (q *request) replay(ctx context.Context) (*Key, error) {
	t := q.caller.Idempotency
	if t.Key == "" {
		return nil, nil
	}
	r, err := q.s.idempotency.Idempotency(ctx, q.tenant(), t.Key, q.s.now())
	if err != nil || r == nil {
		return nil, err
	}
	if r.Request != t.Request {
		return nil, fault.New(fault.IdempotencyConflict, "the Idempotency-Key was used before with another request")
	}
	k, err := q.s.store.KeyByID(ctx, q.tenant(), r.Resource)
	if err != nil {
		return nil, err
	}
	q.entry.Key, q.entry.KeyVersion, q.entry.Detail = k.ID, r.Version, "replayed"
	q.again = true
	if err := q.permit(ctx, factsOf(k), false); err != nil {
		return nil, err
	}
	v, err := q.s.store.Version(ctx, k.ID, r.Version)
	if err != nil {
		return nil, err
	}
	if v.State == StateCreating || v.State == StateDestroyed && v.PriorState == StateCreating {
		return nil, fault.New(fault.Conflict, "the first call with this Idempotency-Key has not finished or has failed").RetryAfter(waitForChange)
	}
	return k.shown(q.s.now()), nil
}

// token prepares the idempotency record of the call, first of its changes: of two calls at once one fails with a conflict and then finds
// what the other made.
func (q *request) token(key uuid.UUID, version uint32) []audit.Change {
	t := q.caller.Idempotency
	if t.Key == "" {
		return nil
	}
	return []audit.Change{q.s.idempotency.InsertIdempotency(&idempotency.Record{Tenant: q.tenant(), Key: t.Key, Request: t.Request,
		Resource: key, Version: version, CreatedAt: q.s.stamp()})}
}

// shown is the record as callers see it: what is in creation is pre-active, and dates that have passed count.
func (k *Key) shown(now time.Time) *Key {
	state := k.Policy.byDate(k.State, now)
	if state == StateCreating {
		state = StatePreActive
	}
	if state == k.State {
		return k
	}
	out := *k
	out.State = state
	return &out
}
