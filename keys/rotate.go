package keys

import (
	"context"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Rotate makes a new version, which is active and primary when Rotate returns; the version before it is deactivated in the same
// transaction (SP 800-57 part 1 section 7.3). Callers who rotate one key at once are served one after the other.
func (s *Service) Rotate(ctx context.Context, c Caller, key string) (*Key, error) {
	var n nextVersion
	return pipeline(ctx, s, c, verbRotate, func(ctx context.Context, q *request) (*Key, error) {
		if n.begun == nil {
			if k, err := q.replay(ctx); k != nil || err != nil {
				return k, err
			}
		}
		k, err := q.own(ctx, key)
		if err != nil {
			return nil, err
		}
		if k.Internal {
			return nil, keyNotFound()
		}
		if !k.Origin.ours() {
			return nil, fault.New(fault.OperationNotAllowed, "the new version of an imported key is imported")
		}
		return n.add(ctx, q, k, generate)
	}, nil)
}

func generate(ctx context.Context, b backend.Backend, spec backend.Spec) (backend.Ref, error) {
	return b.Generate(ctx, spec)
}

// nextVersion adds a version to a key. Its state outlives a lost race for the final commit, so that material which the device keeps is
// not made twice.
type nextVersion struct {
	begun *Version   // written as creating
	to    *placement // of the new version; nil: where the key is
	done  bool       // with its material
}

// canGrow reports whether a key in the state can get a new version (while it waits for material, by import): leaving a compromised or suspended one behind is what rotation is for.
func canGrow(s State) bool {
	switch s {
	case StatePendingImport, StatePreActive, StateActive, StateDeactivated, StateSuspended, StateCompromised:
		return true
	}
	return false
}

func (n *nextVersion) add(ctx context.Context, q *request, k *Key, make maker) (*Key, error) {
	s := q.s
	if !canGrow(k.State) {
		if n.begun != nil {
			q.abandon(ctx, k, n.begun)
		}
		return nil, fault.New(fault.BadState, "the state of the key forbids a new version")
	}
	if k.Policy.expired(s.now()) {
		if n.begun != nil {
			q.abandon(ctx, k, n.begun)
		}
		return nil, expiredKey()
	}
	to := placement{k.BackendID, k.Custody}
	if n.to != nil {
		to = *n.to
	}
	var b backend.Backend
	if k.Origin != OriginPublicOnly {
		if b = s.byID[to.backend]; b == nil {
			return nil, s.notHere(to.backend)
		}
	}
	if n.done {
		return n.commit(ctx, q, k, n.begun, s.store.UpdateVersion(n.begun))
	}
	now := s.stamp()
	v := &Version{KeyID: k.ID, Version: k.LatestVersion + 1, Origin: k.Origin, BackendID: to.backend, Custody: to.custody,
		Exportable: k.Policy.Exportable, CreatedAt: now, StateAt: now}
	if k.Origin.ours() {
		v.Origin = OriginGenerated
	}
	spec := specOf(k, v.Version, v.Custody, v.Exportable)
	make = s.attested(k, v, make)
	if b == nil || !b.Info().KeepsObjects {
		ref, err := make(ctx, b, spec)
		if err != nil {
			return nil, err
		}
		v.take(k, ref)
		return n.commit(ctx, q, k, v, append(q.token(k.ID, v.Version), s.store.InsertVersion(v))...)
	}
	v.State = StateCreating
	k.LatestVersion, k.UpdatedAt = v.Version, now
	begun := append(q.token(k.ID, v.Version), s.store.InsertVersion(v), s.store.UpdateKey(k))
	if err := q.step(ctx, q.entry.Action+".begin", k.ID, v.Version, begun...); err != nil {
		return nil, err
	}
	n.begun = v
	ref, err := make(ctx, b, spec)
	if err != nil {
		q.abandon(ctx, k.stored(), v)
		q.final = true
		return nil, err
	}
	v.StateAt, n.done = s.stamp(), true
	v.take(k, ref)
	return n.commit(ctx, q, k.stored(), v, s.store.UpdateVersion(v))
}

// commit prepares the last transaction: the new version, the one it follows, and the key.
func (n *nextVersion) commit(ctx context.Context, q *request, k *Key, v *Version, changes ...audit.Change) (*Key, error) {
	s := q.s
	q.entry.Key, q.entry.KeyVersion = k.ID, v.Version
	if k.PrimaryVersion > v.Version {
		// Another node made a later version while this one was in the device: this one is old already.
		late := *v
		late.State = StateDeactivated
		q.change(k.ID, s.store.UpdateVersion(&late))
		return k, nil
	}
	if k.PrimaryVersion != 0 {
		old, err := s.store.Version(ctx, k.ID, k.PrimaryVersion)
		if err != nil {
			return nil, err
		}
		if retired(old, s) {
			changes = append(changes, s.store.UpdateVersion(old))
		}
	}
	k.activate(v)
	q.change(k.ID, append(changes, s.store.UpdateKey(k))...)
	return k.stored(), nil
}

// retired makes the version that another one follows process only, and reports whether that changed it. A suspended one returns
// to no more than that.
func retired(v *Version, s *Service) bool {
	switch {
	case v.State == StateActive || v.State == StatePreActive:
		v.State, v.StateAt = StateDeactivated, s.stamp()
	case v.State == StateSuspended && v.PriorState == StateActive:
		v.PriorState = StateDeactivated
	default:
		return false
	}
	return true
}
