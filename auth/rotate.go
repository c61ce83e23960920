package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
)

// MaxOverlap is the longest time for which the secret before a rotation stays good.
const MaxOverlap = 90 * 24 * time.Hour

// RotateRequest asks for a new secret of an API key.
type RotateRequest struct {
	ID      uuid.UUID
	Overlap time.Duration // for which the old secret stays good; 0: it ends at once
}

// RotateAPIKey gives an API key a new secret, this once. Id, rights and grants stay; the secret before it is good for the overlap, and one
// before that ends at once. A key may rotate itself; another's takes scope settings:write, all rights that it has (for what is granted
// to it policies:write) and, of an API key, that it lasts as long, since who sees the secret can use it. Errors: fault.APIKeyNotFound, BadField, Forbidden, Conflict (revoked, or rotated at the same time), IdempotencyConflict.
// Allowed or denied, it is recorded.
func (s *Service) RotateAPIKey(ctx context.Context, caller *Principal, r RotateRequest, requestID string, t idempotency.Token) (*APIKey, string, error) {
	if caller == nil {
		return nil, "", errUnauthenticated
	}
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionRotate, Resource: "api-key:" + r.ID.String(), RequestID: requestID}
	k, presented, err := s.rotate(ctx, caller, r, e, t, start)
	if err != nil {
		return nil, "", s.denied(ctx, start, &e, err)
	}
	return k, presented, nil
}

func (s *Service) rotate(ctx context.Context, caller *Principal, r RotateRequest, e audit.Entry, t idempotency.Token, start time.Time) (*APIKey, string, error) {
	// Before the key is known: who may renew none but itself is told nothing of others.
	if err := s.decide(caller, ActionRotate, &Resource{Tenant: caller.Tenant, Principal: e.Resource}); err != nil {
		return nil, "", err
	}
	if r.Overlap < 0 || r.Overlap > MaxOverlap {
		return nil, "", fault.New(fault.BadField, "the overlap is at most 90 days")
	}
	for try := 0; ; try++ {
		k, err := s.store.APIKey(ctx, caller.Tenant, r.ID)
		if err != nil {
			return nil, "", err
		}
		on, err := s.toRenew(ctx, k, caller)
		if err == nil {
			err = s.decide(caller, ActionRotate, on)
		}
		if err != nil {
			return nil, "", err
		}
		made, presented, err := s.replay(ctx, caller, t, ActionRotate, e.RequestID, start) // of the same key, whose id is of the request
		if made != nil || err != nil {
			return made, presented, err
		}
		now := s.now().UTC().Truncate(time.Microsecond)
		if !k.RevokedAt.IsZero() || !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt) {
			return nil, "", fault.New(fault.Conflict, "the API key is revoked or has expired")
		}
		old := k.MAC
		k.Previous = PreviousSecret{}
		if r.Overlap > 0 {
			k.Previous = PreviousSecret{Prefix: k.Prefix, MAC: old, Until: now.Add(r.Overlap)}
		}
		k.Makers, k.ShownAt = k.makers(), k.since() // what the last rotation said is about to be overwritten
		k.RotatedAt, k.RotatedBy = now, caller.ID
		if caller.ID != k.PrincipalID() {
			k.Makers, k.ShownAt = k.makers(), now
		}
		k.Prefix, presented = newToken(k.Brand)
		if k.MAC, err = s.pepper.mac(s.derive, presented); err != nil {
			return nil, "", err
		}
		presented, changes, err := s.memorable(k, presented, []audit.Change{s.store.RotateAPIKey(k, old)}, t)
		if err != nil {
			return nil, "", err
		}
		ok := e
		ok.Detail = "overlap " + r.Overlap.String()
		err = s.record(ctx, start, &ok, nil, changes...)
		s.cache.revoke(r.ID) // also after an error: it may have become durable although nobody can say so
		if fault.Has(err, fault.Conflict) && try == 0 {
			continue // somebody with the same token was faster
		}
		if err != nil {
			return nil, "", err
		}
		return k, presented, nil
	}
}

// reachedBy reports whether the principal is restricted to no less than the key.
func (k *APIKey) reachedBy(p *Principal) bool {
	inherited, err := k.Restrictions.inherit(p.Restrictions)
	return err == nil && inherited.equal(&k.Restrictions)
}

// outlives reports whether the key is good for longer than the API key that the principal has presented. That a certificate, a token or a session ends limits how long
// somebody is taken at his word, and not what he may do: who has it gets the next.
func (k *APIKey) outlives(p *Principal) bool {
	return p.Kind == KindAPIKey && !p.ExpiresAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(p.ExpiresAt))
}

// ForgetAPIKey makes this node look at an API key again; uuid.Nil: at all of them.
func (s *Service) ForgetAPIKey(id uuid.UUID) {
	s.cache.forget(func(e *entry) bool { return id == uuid.Nil || e.id == id })
}

// Regranted makes this node look at a principal again, since its grants have changed.
func (s *Service) Regranted(principal string) {
	s.cache.forget(func(e *entry) bool { return e.principal.ID == principal })
}

// ForgetTenant makes this node look at all credentials of a tenant again; uuid.Nil: of all tenants.
func (s *Service) ForgetTenant(id uuid.UUID) {
	s.cache.forget(func(e *entry) bool { return id == uuid.Nil || e.principal.Tenant == id })
}

// Principal gives the principal of an API key of the tenant, as a decision would see it, without its presenting anything: for dry runs.
// fault.APIKeyNotFound, also for one that is revoked.
func (s *Service) Principal(ctx context.Context, tenant, id uuid.UUID) (*Principal, error) {
	k, err := s.store.APIKey(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	if !k.RevokedAt.IsZero() {
		return nil, fault.New(fault.APIKeyNotFound, "no such API key")
	}
	p, err := s.principal(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("reading an API key: %w", err)
	}
	return p, nil
}
