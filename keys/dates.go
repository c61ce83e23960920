package keys

import (
	"context"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// maxDate bounds the dates of a policy: what lies beyond is a mistake.
const maxDate = 100 * 366 * 24 * time.Hour

func (p *Policy) activation() time.Time { return p.ActivatesAt }
func (p *Policy) expiry() time.Time     { return p.ExpiresAt }

// nextByDate is where a date of the policy that has passed takes a version in the state; the state itself when none does.
func (p *Policy) nextByDate(s State, now time.Time) State {
	r := ruleOf(s)
	if r.date == nil {
		return s
	}
	if at := r.date(p); at.IsZero() || now.Before(at) {
		return s
	}
	return r.then
}

// byDate is the state that counts: the one that is written, as the dates of the policy have it by now. Maintain writes it down soon.
func (p *Policy) byDate(s State, now time.Time) State {
	for {
		next := p.nextByDate(s, now)
		if next == s {
			return s
		}
		s = next
	}
}

// stateAt is the state of a version as it counts: by the dates, and with that of a key on its way out over it.
func (k *Key) stateAt(s State, now time.Time) State { return overlay(k, k.Policy.byDate(s, now)) }

func (p *Policy) expired(now time.Time) bool {
	return !p.ExpiresAt.IsZero() && !now.Before(p.ExpiresAt)
}

// born is the state that a version gets with its material.
func (k *Key) born(at time.Time) State {
	if k.Policy.ActivatesAt.After(at) {
		return StatePreActive
	}
	return StateActive
}

// unborn reports whether a key in the state has never been active.
func unborn(s State) bool {
	return s == StateCreating || s == StatePreActive || s == StatePendingImport
}

func expiredKey() error {
	return fault.New(fault.BadState, "the key has expired: give it a later date of expiry first")
}

// stamped gives a policy whose dates are as the store keeps them.
func (p Policy) stamped() Policy {
	for _, at := range []*time.Time{&p.ActivatesAt, &p.ExpiresAt} {
		if !at.IsZero() {
			*at = at.UTC().Truncate(time.Microsecond)
		}
	}
	return p
}

// checkDates validates the dates of a new policy against those before it, which are zero for a new key, and the state of the key.
func (p *Policy) checkDates(old *Policy, s State, now time.Time) error {
	for _, at := range []time.Time{p.ActivatesAt, p.ExpiresAt} {
		if !at.IsZero() && (at.After(now.Add(maxDate)) || at.Unix() < 0) {
			return fault.New(fault.BadField, "the dates of a key must lie after 1970 and at most a hundred years ahead")
		}
	}
	if !p.ActivatesAt.IsZero() && !p.ExpiresAt.IsZero() && !p.ExpiresAt.After(p.ActivatesAt) {
		return fault.New(fault.BadField, "the date of expiry must be after that of activation")
	}
	if !p.ExpiresAt.IsZero() && !p.ExpiresAt.Equal(old.ExpiresAt) && !p.ExpiresAt.After(now) {
		return fault.New(fault.BadField, "the date of expiry must be in the future")
	}
	if !unborn(s) && !p.ActivatesAt.IsZero() && !p.ActivatesAt.Equal(old.ActivatesAt) {
		return fault.New(fault.BadField, "the date of activation is settled once the key has been active")
	}
	return nil
}

// dateVerb is what the log calls the change that a date makes.
func dateVerb(to State) verb {
	if to == StateActive {
		return verbActivate
	}
	return verbExpire
}

// advance prepares what the next date that has passed makes of the key's primary version; nil: nothing.
func (s *Service) advance(ctx context.Context, k *Key) (changes []audit.Change, to State, err error) {
	if k.PrimaryVersion == 0 {
		return nil, k.State, nil
	}
	now := s.stamp()
	to = k.Policy.nextByDate(k.State, now)
	if to == k.State {
		return nil, to, nil
	}
	v, err := s.store.Version(ctx, k.ID, k.PrimaryVersion)
	if err != nil {
		return nil, to, err
	}
	v.PriorState, v.State, v.StateAt = v.State, to, now
	k.State, k.UpdatedAt = to, now
	return []audit.Change{s.store.UpdateVersion(v), s.store.UpdateKey(k)}, to, nil
}

// settle writes down what dates have made of a key that the request owns, before the request changes those dates. Each change has an entry of its own.
func (q *request) settle(ctx context.Context, k *Key) (*Key, error) {
	for {
		changes, to, err := q.s.advance(ctx, k)
		if err != nil || changes == nil {
			return k, err
		}
		e := audit.Entry{Tenant: k.Tenant, Principal: systemID, Action: dateVerb(to).String(), Key: k.ID, KeyVersion: k.PrimaryVersion,
			RequestID: q.caller.RequestID, Outcome: okOutcome, Detail: scheduled}
		_, err = q.s.recorder.Record(ctx, &e, changes...)
		q.s.cache.drop(k.ID, uncertain(err))
		if err = q.heard(err); err != nil {
			if fault.Has(err, fault.Conflict) {
				err = again{err}
			}
			return nil, err
		}
		if k, err = q.s.store.KeyByID(ctx, k.Tenant, k.ID); err != nil {
			return nil, err
		}
	}
}
