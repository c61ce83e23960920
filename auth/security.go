package auth

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// Security is what a tenant has settled for its own protection. Each empty field settles nothing. Values are shared and immutable.
type Security struct {
	APIKeyMaxLifetime time.Duration  `json:"api_key_max_lifetime,omitempty"` // within which a new API key is to expire
	CIDRs             []netip.Prefix `json:"allowed_cidrs,omitempty"`        // where credentials of the tenant may be used; masked, and IPv4 as such
	SessionIdle       time.Duration  `json:"session_idle,omitempty"`         // shorter than the configured one
	SessionLifetime   time.Duration  `json:"session_lifetime,omitempty"`     // shorter than the configured one
}

// Bounds of security settings.
const (
	MinAPIKeyLifetime = time.Minute // the shortest that new API keys can be held to
	MaxAPIKeyLifetime = 100 * 365 * 24 * time.Hour
	MinSession        = time.Minute // the shortest time-out of sessions: below it nobody could set it back
)

// None reports whether nothing is settled.
func (c *Security) None() bool {
	return c == nil || c.APIKeyMaxLifetime == 0 && len(c.CIDRs) == 0 && c.SessionIdle == 0 && c.SessionLifetime == 0
}

// shared gives what principals carry: nil when nothing is settled.
func (c *Security) shared() *Security {
	if c.None() {
		return nil
	}
	return c
}

// reachesAddress reports whether a credential of the tenant may be used from this address. One that is not known is nobody's.
func (c *Security) reachesAddress(a netip.Addr) bool { return c == nil || within(c.CIDRs, a) }

// expiry holds the end of a new API key (zero: never) against what the tenant has settled.
func (c *Security) expiry(now, end time.Time) error {
	if c == nil || c.APIKeyMaxLifetime == 0 || !end.IsZero() && !end.After(now.Add(c.APIKeyMaxLifetime)) {
		return nil
	}
	return fault.New(fault.BadField, "an API key of this tenant expires within "+c.APIKeyMaxLifetime.String()+": say when, in expires_at")
}

// SecurityUpdate changes what is not nil. A zero, or an empty list, settles nothing any more.
type SecurityUpdate struct {
	APIKeyMaxLifetime, SessionIdle, SessionLifetime *time.Duration
	CIDRs                                           *[]netip.Prefix
}

// ActionSecurity is the change of security settings in the audit log.
const ActionSecurity = "settings.security.set"

// Security gives what the caller's tenant has settled. It needs scope settings:read.
func (s *Service) Security(ctx context.Context, caller *Principal) (*Security, error) {
	if err := s.decide(caller, "settings.security.get", nil); err != nil {
		return nil, unwrapped(err)
	}
	t, err := s.store.Tenant(ctx, caller.Tenant)
	if err != nil {
		return nil, err
	}
	return &t.Security, nil
}

// SetSecurity changes what the caller's tenant has settled: on this node at once, on others within Recheck, for every credential and session that
// there is. It is for an owner or admin in a session alone: fault.Forbidden for everybody else. A change after which the caller could not call from
// where it does (from; not valid: nobody knows) is fault.BadField. Also fault.BadSize, Conflict. Allowed or denied, it is recorded.
func (s *Service) SetSecurity(ctx context.Context, caller *Principal, u SecurityUpdate, from netip.Addr, requestID string) (*Security, error) {
	if caller == nil {
		return nil, errUnauthenticated
	}
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionSecurity, Resource: "tenant:" + caller.Tenant.String(), RequestID: requestID}
	t, err := s.secured(ctx, caller, u, from)
	if err == nil {
		ok := e
		ok.Detail = fmt.Sprintf("api_key_max_lifetime %s, %d allowed_cidrs, session_idle %s, session_lifetime %s", t.Security.APIKeyMaxLifetime,
			len(t.Security.CIDRs), t.Security.SessionIdle, t.Security.SessionLifetime)
		err = s.record(ctx, start, &ok, nil, s.store.UpdateTenant(t))
		s.ForgetTenant(t.ID) // also after an error: it may have become durable although nobody can say so
	}
	if err != nil {
		return nil, s.denied(ctx, start, &e, err)
	}
	return &t.Security, nil
}

// secured gives the caller's tenant with what it is to settle.
func (s *Service) secured(ctx context.Context, caller *Principal, u SecurityUpdate, from netip.Addr) (*Tenant, error) {
	if err := s.decide(caller, ActionSecurity, nil); err != nil {
		return nil, err
	}
	t, err := s.store.Tenant(ctx, caller.Tenant)
	if err != nil {
		return nil, err
	}
	c := &t.Security
	for _, f := range []struct {
		set, old    *time.Duration
		least, most time.Duration
		name        string
	}{
		{u.APIKeyMaxLifetime, &c.APIKeyMaxLifetime, MinAPIKeyLifetime, MaxAPIKeyLifetime, "api_key_max_lifetime"},
		{u.SessionIdle, &c.SessionIdle, MinSession, s.sessions.Idle, "session_idle"},
		{u.SessionLifetime, &c.SessionLifetime, MinSession, s.sessions.Lifetime, "session_lifetime"},
	} {
		if f.set == nil {
			continue
		}
		if *f.set != 0 && (*f.set < f.least || *f.set > f.most) {
			return nil, fault.New(fault.BadField, fmt.Sprintf("the field %s is a duration of %s to %s, or 0 for none", f.name, f.least, f.most))
		}
		*f.old = *f.set
	}
	if u.CIDRs != nil {
		r := Restrictions{CIDRs: slices.Clone(*u.CIDRs)}
		if err := r.check(); err != nil {
			return nil, err
		}
		if !r.reachesAddress(from) {
			return nil, fault.New(fault.BadField, "the field allowed_cidrs would lock out the address of this request")
		}
		c.CIDRs = r.CIDRs
	}
	t.UpdatedAt = s.now().UTC().Truncate(time.Microsecond)
	return t, nil
}

// endsSessions gives the change that ends all sessions of a tenant.
func (s *Service) endsSessions(tenant uuid.UUID) audit.Change {
	return s.store.EndSessions(tenant, s.now().UTC().Truncate(time.Microsecond))
}
