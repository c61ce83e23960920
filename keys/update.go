package keys

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Update changes what the request names. Labels are merged. A policy replaces the one before it as a whole; exportable can be
// taken away by it and never be given.
func (s *Service) Update(ctx context.Context, c Caller, key string, r UpdateRequest) (*Key, error) {
	return pipeline(ctx, s, c, verbUpdate, func(ctx context.Context, q *request) (*Key, error) {
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		if k.State == StateDestroyed || k.State == StateCreating {
			return nil, fault.New(fault.BadState, "the state of the key forbids changes")
		}
		if k, err = q.settle(ctx, k); err != nil {
			return nil, err
		}
		q.entry.Detail = r.what()
		if p := r.Policy; p != nil && (p.GrantsOnly != k.Policy.GrantsOnly || !sameQuorum(p.Quorum, k.Policy.Quorum)) {
			if err := q.permitGuards(ctx, factsOf(k)); err != nil {
				return nil, err
			}
		}
		if err := k.apply(r, s.stamp()); err != nil {
			return nil, err
		}
		if err := q.within(k); err != nil { // by its new name and labels: what could not be made so is not changed so
			return nil, err
		}
		k.UpdatedAt = s.stamp()
		q.change(k.ID, s.store.UpdateKey(k))
		if r.Default != nil {
			if err := q.setDefault(ctx, k, *r.Default); err != nil {
				return nil, err
			}
		}
		return k.stored().shown(s.now()), nil
	}, nil)
}

// what names the changes for the log.
func (r *UpdateRequest) what() string {
	var d []string
	for _, c := range []struct {
		name string
		set  bool
	}{{"name", r.Name != nil}, {"labels", r.Labels != nil}, {"policy", r.Policy != nil}, {"min-decrypt", r.MinDecrypt != nil},
		{"min-encrypt", r.MinEncrypt != nil}, {"default", r.Default != nil}} {
		if c.set {
			d = append(d, c.name)
		}
	}
	return strings.Join(d, " ")
}

// apply checks the changes and makes them in the record, which nobody else has.
func (k *Key) apply(r UpdateRequest, now time.Time) error {
	if r.Name != nil {
		if err := CheckName(*r.Name); err != nil {
			return err
		}
		k.Name = *r.Name
	}
	if r.Labels != nil {
		merged := mergeLabels(k.Labels, r.Labels)
		if err := checkLabels(merged); err != nil {
			return err
		}
		k.Labels = merged
	}
	if r.Policy != nil {
		info, ok := backend.Lookup(k.Algorithm)
		if !ok {
			return fault.New(fault.StoreCorrupted, "the stored record has an algorithm that does not exist")
		}
		if r.Policy.Exportable && !k.Policy.Exportable {
			return fault.New(fault.BadField, "exportable is settled at creation: it can be taken away and not be given")
		}
		if r.Policy.RequireAttestation != k.Policy.RequireAttestation {
			return fault.New(fault.BadField, "whether attestation is demanded is settled at creation")
		}
		if err := checkPolicy(*r.Policy, info, k.Purpose, k.Origin); err != nil {
			return err
		}
		p := r.Policy.clone().stamped()
		if err := p.checkDates(&k.Policy, k.State, now); err != nil {
			return err
		}
		if p.ActivatesAt.IsZero() && !unborn(k.State) {
			p.ActivatesAt = k.Policy.ActivatesAt // it is history, which a policy that does not know of it leaves alone
		}
		k.Policy = p
	}
	for _, least := range []struct{ set, old *uint32 }{{r.MinDecrypt, &k.MinDecrypt}, {r.MinEncrypt, &k.MinEncrypt}} {
		if least.set == nil {
			continue
		}
		if *least.set > k.PrimaryVersion {
			return fault.New(fault.BadVersion, "a minimum is not above the primary version")
		}
		*least.old = *least.set
	}
	return nil
}

// setDefault makes the key its tenant's default, or no longer.
func (q *request) setDefault(ctx context.Context, k *Key, on bool) error {
	if on {
		q.makeDefault(k)
		return q.permitDefault()
	}
	id, err := q.s.store.DefaultKey(ctx, k.Tenant, k.Purpose)
	if fault.Has(err, fault.NoDefaultKey) || err == nil && id != k.ID {
		return nil
	}
	if err != nil {
		return err
	}
	q.changes = append(q.changes, q.s.store.SetDefaultKey(k.Tenant, k.Purpose, uuid.Nil))
	q.defaults = true
	return nil
}

// SetVersionState takes a version to another state, if the table of transitions has it (fault.BadTransition). Deletion is of keys:
// see Delete.
func (s *Service) SetVersionState(ctx context.Context, c Caller, key string, version uint32, to State) (*Version, error) {
	return pipeline(ctx, s, c, verbSetState, func(ctx context.Context, q *request) (*Version, error) {
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		if version == 0 {
			version = k.PrimaryVersion
		}
		q.entry.KeyVersion = version
		if ruleOf(to).unknown() {
			return nil, fault.New(fault.BadField, "the state is unknown")
		}
		q.entry.Detail = string(to)
		v, err := s.store.Version(ctx, k.ID, version)
		if err != nil {
			return nil, err
		}
		now := s.stamp()
		from := k.stateAt(v.State, now)
		if !transition(from, v.PriorState, to) {
			return nil, fault.New(fault.BadTransition, "the state of a key version cannot change in this way")
		}
		if to == StateActive && k.Policy.expired(now) {
			return nil, expiredKey()
		}
		if to == StateActive && k.Policy.ActivatesAt.After(now) {
			k.Policy.ActivatesAt = now // somebody wants it before its date
		}
		return q.setState(k, v, to), nil
	}, nil)
}

// setState prepares the change of a state and gives the version as it is then.
func (q *request) setState(k *Key, v *Version, to State) *Version {
	now := q.s.stamp()
	v.PriorState, v.State, v.StateAt = k.stateAt(v.State, now), to, now
	// The key's revision moves with every state, so that a rotation that read the old one loses and looks again.
	k.UpdatedAt = now
	if v.Version == k.PrimaryVersion {
		k.State = to
	}
	q.change(k.ID, q.s.store.UpdateVersion(v), q.s.store.UpdateKey(k))
	out := v.shown(k, now)
	out.Revision++
	return out
}

// Delete schedules the end of a key after 7 to 30 days (0: 30). Until then nothing can be done with it but CancelDeletion.
func (s *Service) Delete(ctx context.Context, c Caller, key string, waiting time.Duration) (*Key, error) {
	return pipeline(ctx, s, c, verbDelete, func(ctx context.Context, q *request) (*Key, error) {
		if waiting == 0 {
			waiting = MaxWaiting
		}
		if waiting < MinWaiting || waiting > MaxWaiting {
			return nil, fault.New(fault.BadField, "the waiting period is 7 to 30 days")
		}
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		switch {
		case k.State == StatePendingDeletion || k.State == StateDestroyed || k.State == StateCreating:
			return nil, fault.New(fault.BadTransition, "the state of the key forbids its deletion")
		case k.Policy.DeletionProtection:
			return nil, fault.New(fault.DeletionProtected, "the key is protected against deletion by its policy")
		}
		q.entry.Detail = "in " + waiting.String()
		now := s.stamp()
		k.State, k.UpdatedAt, k.DeletionAt = StatePendingDeletion, now, now.Add(waiting)
		q.change(k.ID, s.store.UpdateKey(k))
		return k.stored(), nil
	}, nil)
}

// CancelDeletion takes the key back to the state it was in, if its date has not come.
func (s *Service) CancelDeletion(ctx context.Context, c Caller, key string) (*Key, error) {
	return pipeline(ctx, s, c, verbCancelDeletion, func(ctx context.Context, q *request) (*Key, error) {
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		now := s.stamp()
		if k.State != StatePendingDeletion || !now.Before(k.DeletionAt) {
			return nil, fault.New(fault.BadTransition, "no deletion of the key is to be cancelled")
		}
		k.State, k.UpdatedAt, k.DeletionAt = StatePendingImport, now, time.Time{}
		if k.PrimaryVersion != 0 { // without one it waited for its material
			v, err := s.store.Version(ctx, k.ID, k.PrimaryVersion)
			if err != nil {
				return nil, err
			}
			k.State = v.State
		}
		q.change(k.ID, s.store.UpdateKey(k))
		return k.stored(), nil
	}, nil)
}
