package keys

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

const (
	scheduled     = "scheduled"
	maintainPage  = 1000      // keys that are read at once
	destroyPage   = 64        // versions that end in one transaction
	staleAfter    = time.Hour // how long a creation may take
	pruneInterval = time.Hour
)

// Maintain does what is due: it ends keys whose waiting period is over, activates and expires by date, rotates by period and by use, marks versions whose
// creation never finished, and prunes idempotency records. The binary calls it every few seconds. Each act is recorded with the principal "system". It goes
// on past what fails and gives all failures together. What failed is tried again after 10 s, and then after twice the time before, up to 10 minutes: each
// attempt has its entry in the log. On several nodes MaintainKeys and Prune are for the one whose turn it is.
func (s *Service) Maintain(ctx context.Context) error {
	return errors.Join(s.MaintainKeys(ctx, func(string) bool { return true }), s.Prune(ctx))
}

// MaintainKeys does what is due with the keys whose backend, by its identity, is mine. The identity of keys without a private part is "".
func (s *Service) MaintainKeys(ctx context.Context, mine func(backendID string) bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.tidy.Lock()
	defer s.tidy.Unlock()
	s.pass = map[uuid.UUID]*Maintained{}
	defer func() { s.report(ctx) }()
	var failed []error
	for after := (DueCursor{}); ; {
		due, next, err := s.store.KeysDue(ctx, s.now(), after, maintainPage)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, k := range due {
			if ctx.Err() != nil {
				return expired(ctx)
			}
			if !mine(k.BackendID) {
				continue
			}
			if !s.waiting.over(k.ID, s.now()) {
				continue
			}
			err := s.maintainKey(ctx, k)
			s.waiting.settle(k.ID, s.now(), err)
			if err != nil {
				s.log.Warn("scheduled work on a key failed", "key", k.ID, "error", err)
				failed = append(failed, err)
			}
		}
		if after = next; next == (DueCursor{}) {
			return errors.Join(failed...)
		}
	}
}

// Has reports whether the backend, by its identity, is one of this service's.
func (s *Service) Has(backendID string) bool { return s.byID[backendID] != nil }

// Prune removes old idempotency records, once an hour however often it is called.
func (s *Service) Prune(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.tidy.Lock()
	defer s.tidy.Unlock()
	now := s.now()
	if now.Sub(s.pruned) < pruneInterval {
		return nil
	}
	_, err := pipeline(ctx, s, system(uuid.Nil, ""), verbPrune, func(ctx context.Context, q *request) (struct{}, error) {
		q.changes = append(q.changes, s.idempotency.PruneIdempotency(s.stamp().Add(-idempotency.TTL)))
		return struct{}{}, nil
	}, nil)
	if err == nil {
		s.pruned = now
	}
	return err
}

func (s *Service) maintainKey(ctx context.Context, k *Key) error {
	if err := s.abandonStale(ctx, k); err != nil {
		return err
	}
	if k.State == StatePendingDeletion {
		if k.DeletionAt.IsZero() || s.now().Before(k.DeletionAt) {
			return nil
		}
		return s.counted(ActDestroy, k, s.destroy(ctx, k))
	}
	for range 2 { // both dates may have passed
		next := k.Policy.nextByDate(k.State, s.now())
		if next == k.State {
			break
		}
		if err := s.counted(dateAct(next), k, s.followDate(ctx, k, next)); err != nil {
			return err
		}
		var err error
		if k, err = s.store.KeyByID(ctx, k.Tenant, k.ID); err != nil {
			return err
		}
	}
	reason, err := s.rotationDue(ctx, k)
	if err != nil || reason == "" {
		return err
	}
	return s.counted(ActRotate, k, s.rotateDue(ctx, k, reason))
}

// errOvertaken is that there was nothing left to be done: somebody else did it, or changed what called for it.
var errOvertaken = errors.New("overtaken")

// followDate writes down what a date has made of a key.
func (s *Service) followDate(ctx context.Context, k *Key, to State) error {
	_, err := pipeline(ctx, s, system(k.Tenant, ""), dateVerb(to), func(ctx context.Context, q *request) (struct{}, error) {
		fresh, err := q.ownID(ctx, k.ID)
		if err != nil {
			return struct{}{}, err
		}
		if fresh.State != k.State {
			return struct{}{}, fault.Wrap(fault.Conflict, "the key was changed meanwhile", errOvertaken)
		}
		changes, now, err := s.advance(ctx, fresh)
		if err != nil {
			return struct{}{}, err
		}
		if changes == nil || now != to {
			return struct{}{}, fault.Wrap(fault.Conflict, "the key was changed meanwhile", errOvertaken)
		}
		q.entry.KeyVersion, q.entry.Detail = fresh.PrimaryVersion, scheduled
		q.change(k.ID, changes...)
		return struct{}{}, nil
	}, nil)
	return err
}

// rotationDue says why a key is to be rotated now; "" when it is not.
func (s *Service) rotationDue(ctx context.Context, k *Key) (reason string, err error) {
	now := s.now()
	if k.State != StateActive || k.Origin != OriginGenerated || k.Policy.expired(now) {
		return "", nil
	}
	if at := k.periodEnds(); !at.IsZero() && !now.Before(at) {
		return scheduled, nil
	}
	if messages, bytes := k.RotateAfter(); messages == 0 && bytes == 0 {
		return "", nil
	}
	v, err := s.store.Version(ctx, k.ID, k.PrimaryVersion)
	if err != nil || !k.usedUp(v) {
		return "", err
	}
	return "by use", nil
}

// rotateDue rotates a key that is due, unless somebody has done so since.
func (s *Service) rotateDue(ctx context.Context, k *Key, reason string) error {
	var n nextVersion
	_, err := pipeline(ctx, s, system(k.Tenant, ""), verbRotate, func(ctx context.Context, q *request) (*Key, error) {
		fresh, err := q.ownID(ctx, k.ID)
		if err != nil {
			return nil, err
		}
		if n.begun == nil && (!fresh.RotatedAt.Equal(k.RotatedAt) || fresh.State != StateActive) {
			return nil, fault.Wrap(fault.Conflict, "the key was changed meanwhile", errOvertaken)
		}
		q.entry.Detail = reason
		return n.add(ctx, q, fresh, generate)
	}, nil)
	return err
}

// destroy ends a key: first what devices hold, then the sealed material in the record, a bounded number of versions in a transaction, the key
// itself in the last one. It goes on where an earlier attempt stopped.
func (s *Service) destroy(ctx context.Context, k *Key) error {
	next := uint32(1)
	for more := true; more; {
		_, err := pipeline(ctx, s, system(k.Tenant, ""), verbDestroy, func(ctx context.Context, q *request) (struct{}, error) {
			fresh, err := q.ownID(ctx, k.ID)
			if err != nil {
				return struct{}{}, err
			}
			if fresh.State != StatePendingDeletion || s.now().Before(fresh.DeletionAt) {
				return struct{}{}, fault.New(fault.BadTransition, "the deletion of the key was cancelled")
			}
			versions, err := s.store.Versions(ctx, k.ID, next, destroyPage)
			if err != nil {
				return struct{}{}, err
			}
			now := s.stamp()
			for _, v := range versions {
				c, err := s.destroyVersion(ctx, fresh, v, now)
				if err != nil {
					return struct{}{}, err
				}
				if c != nil {
					q.changes = append(q.changes, c)
				}
			}
			if more = len(versions) == destroyPage; more {
				next = versions[len(versions)-1].Version + 1
				q.entry.Detail = "versions"
				q.touched = append(q.touched, k.ID)
				return struct{}{}, nil
			}
			fresh.State, fresh.UpdatedAt, fresh.DeletionAt = StateDestroyed, now, time.Time{}
			q.change(k.ID, s.store.UpdateKey(fresh))
			return struct{}{}, q.setDefault(ctx, fresh, false)
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// destroyVersion erases what the backend holds of a version and prepares the end of its record; nil when that has come already.
func (s *Service) destroyVersion(ctx context.Context, k *Key, v *Version, now time.Time) (audit.Change, error) {
	if v.State == StateDestroyed {
		return nil, nil
	}
	if len(v.Blob) > 0 {
		b := s.byID[v.BackendID]
		if b == nil {
			return nil, s.notHere(v.BackendID)
		}
		if err := b.Destroy(ctx, refOf(k, v)); err != nil {
			return nil, err
		}
	}
	v.PriorState, v.State, v.StateAt, v.Blob = v.State, StateDestroyed, now, nil
	return s.store.UpdateVersion(v), nil
}

// abandonStale marks the versions of a key that have been in creation for longer than an hour: whoever made them is gone. What a device may
// hold of them stays there, is counted and logged, and is for an operator to look at.
func (s *Service) abandonStale(ctx context.Context, k *Key) error {
	versions, err := s.creating(ctx, k)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if s.now().Sub(v.StateAt) < staleAfter {
			continue
		}
		_, err := pipeline(ctx, s, system(k.Tenant, ""), verbAbandon, func(ctx context.Context, q *request) (struct{}, error) {
			fresh, err := q.ownID(ctx, k.ID)
			if err != nil {
				return struct{}{}, err
			}
			q.entry.KeyVersion = v.Version
			q.change(k.ID, s.abandoned(fresh, v)...)
			q.final = true // whoever finished it after all was right
			return struct{}{}, nil
		}, nil)
		if fault.Has(err, fault.Conflict) {
			continue
		}
		if err := s.counted(ActAbandon, k, err); err != nil {
			return err
		}
		s.metrics.stale.Inc()
		s.log.Warn("a key version was never finished; its backend may hold an object of it", "key", k.ID, "version", v.Version,
			"backend", s.BackendName(v.BackendID))
	}
	return nil
}

// creating gives the versions of a key that are in creation.
func (s *Service) creating(ctx context.Context, k *Key) (found []*Version, err error) {
	for from := uint32(1); ; {
		page, err := s.store.Versions(ctx, k.ID, from, maxPage)
		if err != nil {
			return nil, err
		}
		for _, v := range page {
			if v.State == StateCreating {
				found = append(found, v)
			}
		}
		if len(page) < maxPage {
			return found, nil
		}
		from = page[len(page)-1].Version + 1
	}
}
