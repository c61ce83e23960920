package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cursor"
)

// Actions on sessions in the audit log.
const (
	ActionSessionCreate = "session.create"
	ActionSessionEnd    = "session.end"
	ActionSessionLeave  = "session.leave" // the own one
)

// OpenSession exchanges a credential that is no API key, of a caller whom Authenticate or AuthenticateConnection has let in, for a session, and gives
// what that is presented by, this once. It has the credential's rights, and no longer than that. fault.Forbidden for an API key, and for a session;
// fault.QuotaExceeded. Allowed or denied, it is recorded.
func (s *Service) OpenSession(ctx context.Context, caller *Principal, requestID string) (*Session, string, error) {
	if caller == nil {
		return nil, "", errUnauthenticated
	}
	return s.openSession(ctx, caller, &Session{ExpiresAt: caller.ExpiresAt}, nil, "by "+string(caller.Kind), requestID)
}

// openSession makes the session of a caller: x says what is known of it besides. before, when not nil, is one of the same tenant that it takes the place of.
func (s *Service) openSession(ctx context.Context, caller *Principal, x, before *Session, detail, requestID string) (*Session, string, error) {
	start := time.Now()
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: ActionSessionCreate, RequestID: requestID}
	presented, err := s.prepareSession(caller, x)
	if err == nil {
		ok := e
		ok.Resource, ok.Detail = x.Resource(), detail
		var changes []audit.Change
		if before != nil {
			changes = append(changes, s.store.EndSession(before.Tenant, before.ID, x.CreatedAt))
			ok.Detail += ", in the place of " + before.Resource()
		}
		err = s.record(ctx, start, &ok, nil, append(changes, s.store.InsertSession(x, SessionBounds{PerPrincipal: s.sessions.PerPrincipal,
			PerTenant: s.sessions.PerTenant, Alive: s.alive(caller.Security, x.CreatedAt)}))...)
		if before != nil {
			s.forgetSession(before.ID)
		}
	}
	if err != nil {
		return nil, "", s.denied(ctx, start, &e, err)
	}
	return x, presented, nil
}

// prepareSession gives x an identity, a secret, its rights and its times.
func (s *Service) prepareSession(caller *Principal, x *Session) (presented string, err error) {
	if err := s.decide(caller, ActionSessionCreate, nil); err != nil {
		return "", err
	}
	if x.ID, err = uuid.NewV7(); err != nil {
		return "", fmt.Errorf("making an id: %w", err)
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	_, lifetime := s.sessions.of(caller.Security)
	end := now.Add(lifetime)
	if x.ExpiresAt.IsZero() || x.ExpiresAt.After(end) {
		x.ExpiresAt = end
	}
	x.ExpiresAt = x.ExpiresAt.UTC().Truncate(time.Microsecond)
	x.Tenant, x.Principal, x.Kind, x.Name, x.Role, x.Scopes = caller.Tenant, caller.ID, caller.Kind, caller.Name, caller.Role, caller.Scopes
	x.CreatedAt, x.SeenAt = now, now
	presented = newSession()
	x.MAC, err = s.sessionPepper.mac(s.derive, presented)
	return presented, err
}

// EndSession ends a session of the caller's tenant: at once on this node, within Recheck on others. Everybody ends the own one; another's takes scope
// settings:write, and an owner's one who can make owners. A second end changes nothing and is no error. fault.SessionNotFound. Allowed or
// denied, it is recorded.
func (s *Service) EndSession(ctx context.Context, caller *Principal, id uuid.UUID, requestID string) (*Session, error) {
	if caller == nil {
		return nil, errUnauthenticated
	}
	start, action := time.Now(), ActionSessionEnd
	if caller.Kind == KindSession && caller.Session == id {
		action = ActionSessionLeave
	}
	e := audit.Entry{Tenant: caller.Tenant, Principal: caller.ID, Action: action, Resource: "session:" + id.String(), RequestID: requestID}
	x, err := s.mayEndSession(ctx, caller, action, id)
	if err == nil {
		ok := e
		at := s.now().UTC().Truncate(time.Microsecond)
		err = s.record(ctx, start, &ok, nil, s.store.EndSession(caller.Tenant, id, at))
		s.forgetSession(id) // also after an error: it may have become durable although nobody can say so
		if x.EndedAt.IsZero() {
			x.EndedAt = at
		}
	}
	if err != nil {
		return nil, s.denied(ctx, start, &e, err)
	}
	return x, nil
}

// mayEndSession looks whether the caller may end a session: one that can make owners, and is another's, is not for everybody to end.
func (s *Service) mayEndSession(ctx context.Context, caller *Principal, action string, id uuid.UUID) (*Session, error) {
	if err := s.decide(caller, action, nil); err != nil {
		return nil, err
	}
	x, err := s.store.Session(ctx, caller.Tenant, id)
	if err != nil || action == ActionSessionLeave {
		return x, err
	}
	return x, s.decide(caller, action, &Resource{Tenant: x.Tenant, Principal: x.Principal, Needs: SetOf(x.Scopes...) & SetOf(ScopeOwnersWrite)})
}

// OwnSession gives the record of the session that the caller has presented. fault.Forbidden when it has presented something else.
func (s *Service) OwnSession(ctx context.Context, caller *Principal) (*Session, error) {
	if err := s.decide(caller, "session.get", nil); err != nil {
		return nil, unwrapped(err)
	}
	return s.store.Session(ctx, caller.Tenant, caller.Session)
}

// Sessions lists the living sessions of the caller's tenant by id, which is the order in which they were made, 1 to 1000 a page (0: 100). It needs
// scope settings:write. fault.BadCursor, fault.BadQuery.
func (s *Service) Sessions(ctx context.Context, caller *Principal, from string, limit int) (page []*Session, next string, err error) {
	if err := s.decide(caller, "session.list", nil); err != nil {
		return nil, "", unwrapped(err)
	}
	after, limit, err := pageOf(from, limit)
	if err != nil {
		return nil, "", err
	}
	if page, err = s.store.Sessions(ctx, caller.Tenant, after, s.alive(caller.Security, s.now()), limit+1); err != nil {
		return nil, "", fmt.Errorf("listing sessions: %w", err)
	}
	if len(page) > limit {
		page = page[:limit]
		next = cursor.Behind(page[limit-1].ID)
	}
	return page, next, nil
}

// SessionEnds gives when a session ends by itself: unused, and in any case.
func (s *Service) SessionEnds(caller *Principal, x *Session) (idle, expires time.Time) {
	unused, lifetime := s.sessions.of(caller.Security)
	expires = x.ExpiresAt
	if end := x.CreatedAt.Add(lifetime); end.Before(expires) {
		expires = end
	}
	if idle = x.SeenAt.Add(unused); idle.After(expires) {
		idle = expires
	}
	return idle, expires
}

// PruneSessions forgets sessions that have expired long enough ago.
func (s *Service) PruneSessions(ctx context.Context) error {
	return s.store.PruneSessions(ctx, s.now().UTC().Add(-SessionKeep))
}
