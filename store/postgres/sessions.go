package postgres

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// SessionByMAC finds a session over all tenants; see auth.SessionStore.
func (s *Store) SessionByMAC(ctx context.Context, mac [32]byte) (*auth.Session, error) {
	return s.session(ctx, sqlSessionByMAC, mac[:])
}

// Session finds a session of the tenant; see auth.SessionStore.
func (s *Store) Session(ctx context.Context, tenant, id uuid.UUID) (*auth.Session, error) {
	return s.session(ctx, sqlSession, id[:], tenant[:])
}

func (s *Store) session(ctx context.Context, query string, args ...any) (x *auth.Session, err error) {
	err = s.reading(ctx, "reading a session", func(c conn) (err error) {
		x, err = scanSession(c.QueryRow(ctx, query, args...))
		return err
	})
	if none(err) {
		return nil, fault.New(fault.SessionNotFound, "no such session")
	}
	return x, err
}

// Sessions lists the tenant's living sessions; see auth.SessionStore.
func (s *Store) Sessions(ctx context.Context, tenant, after uuid.UUID, alive auth.Alive, limit int) ([]*auth.Session, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing sessions", func(row pgx.CollectableRow) (*auth.Session, error) { return scanSession(row) },
		sqlSessions, tenant[:], after[:], alive.At.UnixMicro(), alive.Since.UnixMicro(), alive.Used.UnixMicro(), limit)
}

func scanSession(row pgx.Row) (*auth.Session, error) {
	var x auth.Session
	var mac, login []byte
	var scopes string
	err := row.Scan((*idColumn)(&x.ID), (*idColumn)(&x.Tenant), &mac, &login, &x.Principal, &x.Kind, &x.Name, &x.Role, &scopes, (*timeColumn)(&x.CreatedAt),
		(*timeColumn)(&x.SeenAt), (*timeColumn)(&x.ExpiresAt), (*timeColumn)(&x.EndedAt))
	if err != nil {
		return nil, err
	}
	if len(mac) != len(x.MAC) || login != nil && len(login) != len(x.Login) {
		return nil, corrupted("the record of a session is damaged", nil)
	}
	copy(x.MAC[:], mac)
	copy(x.Login[:], login)
	for scope := range strings.FieldsSeq(scopes) {
		x.Scopes = append(x.Scopes, auth.Scope(scope))
	}
	return &x, nil
}

// insertSession is a Change.
type insertSession struct {
	prepared
	x      auth.Session
	bounds auth.SessionBounds
	scopes string
}

// InsertSession adds a session; see auth.SessionStore.
func (s *Store) InsertSession(x *auth.Session, b auth.SessionBounds) audit.Change {
	scopes := make([]string, len(x.Scopes))
	for i, scope := range x.Scopes {
		scopes[i] = string(scope)
	}
	return &insertSession{x: *x, bounds: b, scopes: strings.Join(scopes, " ")}
}

func (c *insertSession) statements() ([]statement, error) {
	x, alive := &c.x, &c.bounds.Alive
	var login any
	if x.Login != [32]byte{} {
		login = x.Login[:]
	}
	return []statement{{
		query: sqlForgetSessions,
		args:  []any{x.CreatedAt.Add(-auth.SessionKeep).UnixMicro()},
	}, {
		query:   sqlTenantActive,
		args:    []any{x.Tenant[:]},
		nothing: fails(fault.TenantSuspended, "the tenant is suspended"),
	}, {
		query: sqlSessionsLeft,
		args: []any{x.Tenant[:], x.Principal, alive.At.UnixMicro(), alive.Since.UnixMicro(), alive.Used.UnixMicro(), int64(c.bounds.PerPrincipal),
			int64(c.bounds.PerTenant)},
		nothing: fails(fault.QuotaExceeded, "the principal or its tenant has as many sessions as it may"),
	}, {
		query: sqlInsertSession,
		args: []any{x.ID[:], x.Tenant[:], x.MAC[:], login, x.Principal, string(x.Kind), x.Name, string(x.Role), c.scopes, x.CreatedAt.UnixMicro(),
			x.SeenAt.UnixMicro(), x.ExpiresAt.UnixMicro(), micros(x.EndedAt)},
		refused: conflictIfTaken("a session of this id, or of this sign-in, exists already"),
	}}, nil
}

// endSession is a Change.
type endSession struct {
	prepared
	tenant, id uuid.UUID // zero id: all of the tenant
	at         time.Time
}

// EndSession ends a session; see auth.SessionStore.
func (s *Store) EndSession(tenant, id uuid.UUID, at time.Time) audit.Change {
	return &endSession{prepared: tells(cluster.KindSession, id), tenant: tenant, id: id, at: at}
}

// EndSessions ends all sessions of a tenant; see auth.SessionStore.
func (s *Store) EndSessions(tenant uuid.UUID, at time.Time) audit.Change {
	return &endSession{prepared: tells(cluster.KindTenant, tenant), tenant: tenant, at: at}
}

func (c *endSession) statements() ([]statement, error) {
	if c.id == uuid.Nil {
		return []statement{{query: sqlEndSessions, args: []any{c.at.UnixMicro(), c.tenant[:]}}}, nil
	}
	return []statement{{
		query:   sqlEndSession,
		args:    []any{c.at.UnixMicro(), c.id[:], c.tenant[:]},
		nothing: fails(fault.SessionNotFound, "no such session"),
	}}, nil
}

// TouchSession writes when a session was used; see auth.SessionStore.
func (s *Store) TouchSession(ctx context.Context, id uuid.UUID, at time.Time) error {
	return s.change(ctx, "noting the use of a session", sqlTouchSession, at.UnixMicro(), id[:])
}

// PruneSessions forgets the sessions that expired before the time; see auth.SessionStore.
func (s *Store) PruneSessions(ctx context.Context, before time.Time) error {
	return s.change(ctx, "forgetting sessions", sqlPruneSessions, before.UnixMicro())
}

const (
	sessionColumns  = "id, tenant, mac, login, principal, kind, name, role, scopes, created_at, seen_at, expires_at, ended_at"
	sqlSessionByMAC = "SELECT " + sessionColumns + " FROM sessions WHERE mac = $1"
	sqlSession      = "SELECT " + sessionColumns + " FROM sessions WHERE id = $1 AND tenant = $2"
	sqlSessions     = "SELECT " + sessionColumns + ` FROM sessions WHERE tenant = $1 AND id > $2 AND ended_at IS NULL AND expires_at > $3 AND created_at > $4
		AND seen_at > $5 ORDER BY id LIMIT $6`
	sqlInsertSession = "INSERT INTO sessions (" + sessionColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
	sqlSessionsLeft  = `SELECT 1 FROM (SELECT COUNT(*) AS n, COALESCE(SUM(CASE WHEN principal = $2 THEN 1 ELSE 0 END), 0) AS own FROM sessions
		WHERE tenant = $1 AND ended_at IS NULL AND expires_at > $3 AND created_at > $4 AND seen_at > $5) AS there
		WHERE NOT ($6::bigint > 0 AND own >= $6::bigint OR $7::bigint > 0 AND n >= $7::bigint)`
	sqlTenantActive   = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM tenants WHERE id = $1 AND status <> 'active')"
	sqlForgetSessions = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT 4)"
	sqlEndSession     = "UPDATE sessions SET ended_at = COALESCE(ended_at, $1) WHERE id = $2 AND tenant = $3"
	sqlEndSessions    = "UPDATE sessions SET ended_at = $1 WHERE tenant = $2 AND ended_at IS NULL"
	sqlTouchSession   = "UPDATE sessions SET seen_at = $1 WHERE id = $2 AND seen_at < $1 AND ended_at IS NULL"
	sqlPruneSessions  = "DELETE FROM sessions WHERE expires_at < $1"
)
