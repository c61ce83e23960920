package auth

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
)

// Session is the record of a session: who has shown another credential than an API key, and until when that is believed. MAC is HMAC-SHA-256 of
// the presented token under a pepper of its own. Rights are those of the credential at the time: nothing adds to them later.
type Session struct {
	ID        uuid.UUID
	Tenant    uuid.UUID
	MAC       [32]byte
	Login     [32]byte // of the sign-in by a browser that it was made by, which serves once; zero: none
	Principal string   // whose credential it was, as it stands in the audit log
	Kind      Kind     // of that credential
	Name      string
	Role      Role
	Scopes    []Scope // all of them, those of the role included
	CreatedAt time.Time
	SeenAt    time.Time // when it was last used, to within a minute; never later than it was
	ExpiresAt time.Time
	EndedAt   time.Time // zero: not ended
}

// Resource is the session's name in the audit log: "session:<id>".
func (x *Session) Resource() string { return "session:" + x.ID.String() }

// SessionRules bound sessions. The zero value of each field means its default.
type SessionRules struct {
	Idle         time.Duration // without a request, after which a session ends. Default 15 minutes.
	Lifetime     time.Duration // from its beginning, after which it ends in any case. Default 8 hours.
	PerPrincipal int           // how many one principal can have at once. Default 16.
	PerTenant    int           // how many one tenant can have at once. Default 1024.
}

// Bounds of SessionRules.
const (
	DefaultSessionIdle     = 15 * time.Minute
	DefaultSessionLifetime = 8 * time.Hour
	MaxSessionLifetime     = 30 * 24 * time.Hour
	DefaultPerPrincipal    = 16
	DefaultPerTenant       = 1024
)

// SessionKeep is how long a session is kept beyond its end. It is longer than a sign-in takes, so that none serves twice.
const SessionKeep = time.Hour

func (r SessionRules) withDefaults() SessionRules {
	if r.Idle <= 0 {
		r.Idle = DefaultSessionIdle
	}
	if r.Lifetime <= 0 {
		r.Lifetime = DefaultSessionLifetime
	}
	if r.PerPrincipal <= 0 {
		r.PerPrincipal = DefaultPerPrincipal
	}
	if r.PerTenant <= 0 {
		r.PerTenant = DefaultPerTenant
	}
	return r
}

// of gives the time-outs of a tenant: its own where they are shorter.
func (r *SessionRules) of(c *Security) (idle, lifetime time.Duration) {
	idle, lifetime = r.Idle, r.Lifetime
	if c != nil && c.SessionIdle > 0 {
		idle = min(idle, c.SessionIdle)
	}
	if c != nil && c.SessionLifetime > 0 {
		lifetime = min(lifetime, c.SessionLifetime)
	}
	return idle, lifetime
}

// Alive says which sessions are alive: those that have not ended, expire after At, were made after Since and last used after Used.
type Alive struct{ At, Since, Used time.Time }

// alive says which sessions of a tenant are.
func (s *Service) alive(c *Security, now time.Time) Alive {
	idle, lifetime := s.sessions.of(c)
	return Alive{At: now, Since: now.Add(-lifetime), Used: now.Add(-idle)}
}

// SessionBounds are how many living sessions there can be; 0: as many as one likes.
type SessionBounds struct {
	PerPrincipal, PerTenant int
	Alive                   Alive
}

// SessionStore keeps sessions. Its methods are part of Store.
type SessionStore interface {
	// SessionByMAC finds a session, ended ones too, over all tenants, or fault.SessionNotFound.
	SessionByMAC(ctx context.Context, mac [32]byte) (*Session, error)
	// Session finds a session of the tenant, ended ones too, or fault.SessionNotFound.
	Session(ctx context.Context, tenant, id uuid.UUID) (*Session, error)
	// Sessions lists the tenant's living sessions by id, after the cursor (zero: from the start).
	Sessions(ctx context.Context, tenant, after uuid.UUID, alive Alive, limit int) ([]*Session, error)
	// InsertSession adds a session, and forgets a few that have expired more than SessionKeep before x was made. fault.QuotaExceeded beyond the
	// bounds; fault.TenantSuspended; fault.Conflict when id or MAC exist, or a session with the same Login that is not zero.
	InsertSession(x *Session, b SessionBounds) audit.Change
	// EndSession sets EndedAt once; a second end changes nothing and is no error. fault.SessionNotFound.
	EndSession(tenant, id uuid.UUID, at time.Time) audit.Change
	// EndSessions is EndSession of all sessions of a tenant.
	EndSessions(tenant uuid.UUID, at time.Time) audit.Change
	// TouchSession writes when a session that has not ended was used, if that is later than what is known. It is bookkeeping: no entry tells of it.
	TouchSession(ctx context.Context, id uuid.UUID, at time.Time) error
	// PruneSessions forgets the sessions that expired before the time.
	PruneSessions(ctx context.Context, before time.Time) error
}
