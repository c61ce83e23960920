package auth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/fault"
)

// SessionUse is a request that presents a session.
type SessionUse struct {
	Token   string
	Changes bool       // it may change something: CSRF is to be the session's
	CSRF    string     // as it was sent
	Watches bool       // it looks on, as a stream does that was begun before: that is no use of the session
	Address netip.Addr // not valid: nobody knows
}

// touchEvery is how often at most the use of a session is written, unless its idle time is short.
const touchEvery = time.Minute

// live is a confirmed session, in the cache with its principal.
type live struct {
	record  *Session
	idle    time.Duration
	expires time.Time     // the earliest of all that ends it but idleness
	seen    atomic.Int64  // when it was last used, as far as this node knows, in microseconds
	written atomic.Int64  // the same, as far as the store knows
	every   time.Duration // how far seen can be ahead of written
}

// over reports whether the session has ended by itself.
func (l *live) over(now time.Time) bool {
	return !now.Before(l.expires) || now.Sub(time.UnixMicro(l.seen.Load())) >= l.idle
}

// AuthenticateSession says whose session is presented. It promises what Authenticate does: malformed, unknown, expired and ended sessions are all
// the same fault.Unauthenticated, and one that is genuine and refused comes back with its principal and decision. A change without the session's own
// CSRF token is refused: fault.Forbidden.
//
// A session that was presented within the last Recheck costs one HMAC and one look into memory, a change one HMAC more. About once a minute its use is written to the store.
func (s *Service) AuthenticateSession(ctx context.Context, u *SessionUse) (*Principal, Decision, error) {
	key, ok := parseSession(u.Token)
	clear(key[:])
	if !ok {
		return nil, Decision{}, errUnauthenticated
	}
	m, err := s.sessionPepper.mac(s.derive, u.Token)
	if err != nil {
		return nil, Decision{}, err
	}
	e := s.trusted(&m)
	now := s.now()
	if e == nil || e.session.over(now) { // or another node knows of a later use
		if e, err = s.lookSession(ctx, &m); err != nil {
			return nil, Decision{}, err
		}
		if now = s.now(); e.session.over(now) {
			return nil, Decision{}, errUnauthenticated
		}
	}
	d := Decide(&Request{Principal: e.principal, Now: now, Door: true, Address: u.Address, Forged: u.Changes && !sameCSRF(u.Token, u.CSRF)})
	if d.Allowed && !u.Watches {
		if err := s.touch(ctx, e.session, now); err != nil {
			return nil, Decision{}, err
		}
	}
	return e.principal, d, d.Err()
}

// trusted gives the entry of a session that can be believed without a look into the store; else nil.
func (s *Service) trusted(m *mac) *entry {
	generation := s.cache.generation.Load()
	e := s.cache.get(m)
	if e == nil || e.session == nil {
		return nil
	}
	if s.fresh != nil {
		if s.fresh() && s.cache.generation.Load() == generation {
			return e
		}
		return nil
	}
	if age := s.now().Sub(e.confirmed); age >= 0 && age < Recheck {
		return e
	}
	return nil
}

// lookSession asks the store.
func (s *Service) lookSession(ctx context.Context, m *mac) (*entry, error) {
	for {
		generation, confirmed := s.cache.generation.Load(), s.now()
		e, err := s.readSession(ctx, m)
		if err != nil && ctx.Err() != nil {
			return nil, fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", err)
		}
		if err != nil {
			return nil, err
		}
		e.confirmed = confirmed
		if known := s.cache.get(m); known != nil && known.session != nil { // what is not written yet
			e.session.seen.Store(max(e.session.seen.Load(), known.session.seen.Load()))
		}
		if s.cache.keep(m, e, generation) {
			return e, nil
		}
		if ctx.Err() != nil {
			return nil, fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", ctx.Err())
		}
	}
}

// readSession makes the entry of a session that has not been ended.
func (s *Service) readSession(ctx context.Context, m *mac) (*entry, error) {
	x, err := s.store.SessionByMAC(ctx, *m)
	if fault.Has(err, fault.SessionNotFound) {
		return nil, errUnauthenticated
	}
	if err != nil {
		return nil, fmt.Errorf("reading a session: %w", err)
	}
	if subtle.ConstantTimeCompare(x.MAC[:], m[:]) != 1 || !x.EndedAt.IsZero() {
		return nil, errUnauthenticated
	}
	t, err := s.store.Tenant(ctx, x.Tenant)
	if fault.Has(err, fault.TenantNotFound) {
		return nil, errUnauthenticated
	}
	if err != nil {
		return nil, fmt.Errorf("reading a tenant: %w", err)
	}
	idle, lifetime := s.sessions.of(&t.Security)
	l := &live{record: x, idle: idle, expires: x.ExpiresAt, every: min(touchEvery, idle/8)}
	if end := x.CreatedAt.Add(lifetime); end.Before(l.expires) {
		l.expires = end
	}
	l.seen.Store(x.SeenAt.UnixMicro())
	l.written.Store(x.SeenAt.UnixMicro())
	p := &Principal{ID: x.Principal, Kind: KindSession, Session: x.ID, Tenant: x.Tenant, Name: x.Name, Role: x.Role, Scopes: x.Scopes, TenantName: t.Name, Plan: t.Plan,
		Suspended: t.Status != TenantActive, Security: t.Security.shared(), ExpiresAt: l.expires, rights: rights(x.Scopes)}
	if err := s.granted(ctx, p); err != nil {
		return nil, err
	}
	holder, _ := GrantHolder(p.Tenant, p.ID)
	return &entry{principal: p, id: holder, expires: l.expires, session: l}, nil
}

// touch notes the use of a session, and writes it now and then: one of those who use it at the same time does.
func (s *Service) touch(ctx context.Context, l *live, now time.Time) error {
	at := now.UnixMicro()
	for {
		seen := l.seen.Load()
		if at <= seen || l.seen.CompareAndSwap(seen, at) {
			break
		}
	}
	written := l.written.Load()
	if at-written < l.every.Microseconds() || !l.written.CompareAndSwap(written, at) {
		return nil
	}
	if err := s.store.TouchSession(ctx, l.record.ID, now.UTC().Truncate(time.Microsecond)); err != nil {
		l.written.CompareAndSwap(at, written)
		return fmt.Errorf("noting the use of a session: %w", err)
	}
	return nil
}
