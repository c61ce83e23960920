package auth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Authenticate says who presents this API key, or token of another issuer, from where (not valid: nobody knows). Whoever has a Principal from here has passed what
// Decide asks at the door: expiry, the tenant's status and the address. A credential that is genuine and refused there comes back with the
// refusal, fault.TenantSuspended or fault.Forbidden, and its decision, so that it can be recorded whose it is.
func (s *Service) Authenticate(ctx context.Context, presented string, from netip.Addr) (*Principal, Decision, error) {
	var p *Principal
	var err error
	if s.tokens != nil && isToken(presented) {
		p, err = s.byToken(ctx, presented)
	} else {
		p, err = s.identify(ctx, presented)
	}
	if err != nil {
		return nil, Decision{}, err
	}
	d := Decide(&Request{Principal: p, Now: s.now(), Door: true, Address: from})
	return p, d, d.Err()
}

// identify says whose this API key is. Malformed, unknown, expired and revoked keys are all the same
// fault.Unauthenticated. fault.Locked while the root is not open. When the store is needed and fails, the error is the
// store's, and nobody is let in on memory older than Recheck.
//
// A key that was presented within the last Recheck costs one HMAC and one look into memory.
func (s *Service) identify(ctx context.Context, presented string) (*Principal, error) {
	if _, err := s.pepper.macs(s.derive); err != nil {
		return nil, err
	}
	t, ok := parseToken(presented)
	if !ok {
		return nil, errUnauthenticated
	}
	m, err := s.pepper.mac(s.derive, presented)
	if err != nil {
		return nil, err
	}
	generation := s.cache.generation.Load()
	if e := s.cache.get(&m); e != nil && (s.fresh == nil || s.fresh()) {
		now := s.now()
		if e.expired(now) {
			return nil, errUnauthenticated
		}
		if s.fresh != nil && s.cache.generation.Load() == generation {
			return e.principal, nil
		}
		if s.fresh != nil {
			return s.confirm(ctx, t, &m) // what made the node know of changes may have dropped the entry before
		}
		age := now.Sub(e.confirmed)
		switch {
		case age >= 0 && age < softRecheck:
			return e.principal, nil
		case age >= 0 && age < Recheck:
			if e.looking.Swap(true) {
				return e.principal, nil
			}
			p, err := s.confirm(ctx, t, &m)
			if err != nil && !fault.Has(err, fault.Unauthenticated) && s.now().Sub(e.confirmed) < Recheck {
				// The store could not say. The entry is good for the rest of its time, unless a key was revoked meanwhile; the
				// next caller asks again.
				e.looking.Store(false)
				if s.cache.generation.Load() == generation {
					return e.principal, nil
				}
			}
			return p, err
		}
	}
	return s.confirm(ctx, t, &m)
}

func (e *entry) expired(now time.Time) bool { return !e.expires.IsZero() && !now.Before(e.expires) }

// confirm asks the store, once for all who ask at the same time.
func (s *Service) confirm(ctx context.Context, t token, m *mac) (*Principal, error) {
	for {
		f, mine := s.cache.join(m)
		if mine {
			s.fly(ctx, t, m, f)
		} else {
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", ctx.Err())
			}
			// The one who asked may have run out of time, or a key have been revoked since: ask again.
			if (fault.Has(f.err, fault.Timeout) && ctx.Err() == nil) || s.cache.generation.Load() != f.generation ||
				(f.entry != nil && s.now().Sub(f.entry.confirmed) > Recheck) {
				continue
			}
		}
		if f.err != nil {
			return nil, f.err
		}
		if f.entry.expired(s.now()) {
			return nil, errUnauthenticated
		}
		return f.entry.principal, nil
	}
}

// fly asks the store and lands, whatever happens: those who wait must not wait for ever.
func (s *Service) fly(ctx context.Context, t token, m *mac, f *flight) {
	var e *entry
	err := error(fault.New(fault.Internal, "the check of a credential did not end"))
	defer func() { s.cache.land(m, f, e, err) }()
	e, err = s.look(ctx, t, m)
}

// look reads the record and compares. A prefix that nobody has costs a comparison too.
func (s *Service) look(ctx context.Context, t token, m *mac) (*entry, error) {
	now := s.now()
	k, err := s.store.APIKeyByPrefix(ctx, t.brand, t.prefix)
	known := err == nil
	switch {
	case fault.Has(err, fault.APIKeyNotFound):
		k = new(APIKey)
	case err != nil && ctx.Err() != nil:
		return nil, fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", err)
	case err != nil:
		return nil, fmt.Errorf("reading an API key: %w", err)
	}
	same, expires := k.opens(t.prefix, m)
	if !known || !same || !k.RevokedAt.IsZero() || (!expires.IsZero() && !now.Before(expires)) {
		return nil, errUnauthenticated
	}
	p, err := s.principal(ctx, k)
	if err != nil {
		return nil, err
	}
	return &entry{principal: p, id: k.ID, expires: expires, confirmed: now}, nil
}

// opens compares a presented key with the secret that its prefix names, and says until when that one is good (zero: for ever).
func (k *APIKey) opens(prefix string, m *mac) (same bool, expires time.Time) {
	want, expires := &k.MAC, k.ExpiresAt
	if k.Previous.Prefix == prefix && k.Prefix != prefix {
		want = &k.Previous.MAC
		if expires.IsZero() || k.Previous.Until.Before(expires) {
			expires = k.Previous.Until
		}
	}
	return subtle.ConstantTimeCompare(want[:], m[:]) == 1, expires
}

// principal is who a key speaks for, with all that decisions need.
func (s *Service) principal(ctx context.Context, k *APIKey) (*Principal, error) {
	t, err := s.store.Tenant(ctx, k.Tenant)
	switch {
	case fault.Has(err, fault.TenantNotFound):
		return nil, errUnauthenticated
	case err != nil && ctx.Err() != nil:
		return nil, fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", err)
	case err != nil:
		return nil, fmt.Errorf("reading a tenant: %w", err)
	}
	scopes := k.Effective()
	p := &Principal{ID: k.PrincipalID(), Kind: KindAPIKey, Tenant: k.Tenant, Name: k.Name, Role: k.Role, Scopes: scopes, TenantName: t.Name, Plan: t.Plan,
		Suspended: t.Status != TenantActive, ExpiresAt: k.ExpiresAt, Maker: k.maker(), Security: t.Security.shared(), rights: rights(scopes)}
	if !k.Restrictions.none() {
		p.Restrictions = &k.Restrictions
	}
	return p, s.granted(ctx, p)
}

// granted reads what is granted to a principal.
func (s *Service) granted(ctx context.Context, p *Principal) error {
	found, err := s.store.GrantsOf(ctx, p.Tenant, p.ID)
	switch {
	case err != nil && ctx.Err() != nil:
		return fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", err)
	case err != nil:
		return fmt.Errorf("reading grants: %w", err)
	}
	if len(found) > 0 {
		p.Grants = make(map[uuid.UUID][]Grant, len(found))
		for _, g := range found {
			p.Grants[g.Key] = append(p.Grants[g.Key], *g)
		}
	}
	return nil
}

// PrincipalID is the key's name in the audit log: "api-key:<id>".
func (k *APIKey) PrincipalID() string { return "api-key:" + k.ID.String() }

// maker is who made the present secret.
func (k *APIKey) maker() string {
	if k.RotatedBy != "" {
		return k.RotatedBy
	}
	return k.CreatedBy
}
