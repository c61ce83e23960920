package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

func sessionNotFound() error { return fault.New(fault.SessionNotFound, "no such session") }

// SessionByMAC finds a session over all tenants; see auth.SessionStore.
func (s *Store) SessionByMAC(ctx context.Context, mac [32]byte) (*auth.Session, error) {
	return s.session(ctx, sqlSessionByMAC, mac[:])
}

// Session finds a session of the tenant; see auth.SessionStore.
func (s *Store) Session(ctx context.Context, tenant, id uuid.UUID) (*auth.Session, error) {
	return s.session(ctx, sqlSession, id[:], tenant[:])
}

func (s *Store) session(ctx context.Context, query string, args ...any) (*auth.Session, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	x, err := scanSession(s.read.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, sessionNotFound()
	}
	return x, translate("reading a session", err)
}

// Sessions lists the tenant's living sessions; see auth.SessionStore.
func (s *Store) Sessions(ctx context.Context, tenant, after uuid.UUID, alive auth.Alive, limit int) (found []*auth.Session, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, sqlSessions, tenant[:], after[:], alive.At.UnixMicro(), alive.Since.UnixMicro(), alive.Used.UnixMicro(), limit)
	if err != nil {
		return nil, translate("listing sessions", err)
	}
	defer func() { err = translate("listing sessions", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		x, err := scanSession(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, x)
	}
	return found, rows.Err()
}

func scanSession(row scanner) (*auth.Session, error) {
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

func (c *insertSession) apply(w *writer) error {
	x, alive := &c.x, &c.bounds.Alive
	if _, err := w.exec(sqlForgetSessions, x.CreatedAt.Add(-auth.SessionKeep).UnixMicro()); err != nil {
		return err
	}
	suspended, err := w.row(sqlTenantSuspended, make([]driver.Value, 1), x.Tenant[:])
	switch {
	case err != nil:
		return err
	case suspended:
		return fault.New(fault.TenantSuspended, "the tenant is suspended")
	}
	full, err := w.row(sqlSessionsFull, make([]driver.Value, 1), x.Tenant[:], x.Principal, alive.At.UnixMicro(), alive.Since.UnixMicro(), alive.Used.UnixMicro(),
		int64(c.bounds.PerPrincipal), int64(c.bounds.PerTenant))
	switch {
	case err != nil:
		return err
	case full:
		return fault.New(fault.QuotaExceeded, "the principal or its tenant has as many sessions as it may")
	}
	var login any
	if x.Login != [32]byte{} {
		login = x.Login[:]
	}
	_, err = w.exec(sqlInsertSession, x.ID[:], x.Tenant[:], x.MAC[:], login, x.Principal, string(x.Kind), x.Name, string(x.Role), c.scopes, x.CreatedAt.UnixMicro(),
		x.SeenAt.UnixMicro(), x.ExpiresAt.UnixMicro(), micros(x.EndedAt))
	return conflictIfTaken(err, "a session of this id, or of this sign-in, exists already")
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

func (c *endSession) apply(w *writer) error {
	if c.id == uuid.Nil {
		_, err := w.exec(sqlEndSessions, c.at.UnixMicro(), c.tenant[:])
		return err
	}
	n, err := w.exec(sqlEndSession, c.at.UnixMicro(), c.id[:], c.tenant[:])
	if err == nil && n == 0 {
		return sessionNotFound()
	}
	return err
}

// TouchSession writes when a session was used; see auth.SessionStore.
func (s *Store) TouchSession(ctx context.Context, id uuid.UUID, at time.Time) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec(sqlTouchSession, at.UnixMicro(), id[:])
		return err
	})
}

// PruneSessions forgets the sessions that expired before the time; see auth.SessionStore.
func (s *Store) PruneSessions(ctx context.Context, before time.Time) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec(sqlPruneSessions, before.UnixMicro())
		return err
	})
}

const (
	sessionColumns   = "id, tenant, mac, login, principal, kind, name, role, scopes, created_at, seen_at, expires_at, ended_at"
	sqlSessionByMAC  = "SELECT " + sessionColumns + " FROM sessions WHERE mac = ?"
	sqlSession       = "SELECT " + sessionColumns + " FROM sessions WHERE id = ? AND tenant = ?"
	sqlSessions      = "SELECT " + sessionColumns + " FROM sessions WHERE tenant = ? AND id > ? AND ended_at IS NULL AND expires_at > ? AND created_at > ? AND seen_at > ? ORDER BY id LIMIT ?"
	sqlInsertSession = "INSERT INTO sessions (" + sessionColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	sqlSessionsFull  = `SELECT 1 FROM (SELECT COUNT(*) AS n, COALESCE(SUM(principal = ?2), 0) AS own FROM sessions
		WHERE tenant = ?1 AND ended_at IS NULL AND expires_at > ?3 AND created_at > ?4 AND seen_at > ?5) WHERE ?6 > 0 AND own >= ?6 OR ?7 > 0 AND n >= ?7`
	sqlTenantSuspended = "SELECT 1 FROM tenants WHERE id = ? AND status <> 'active'"
	sqlForgetSessions  = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < ? ORDER BY expires_at LIMIT 4)"
	sqlEndSession      = "UPDATE sessions SET ended_at = COALESCE(ended_at, ?) WHERE id = ? AND tenant = ?"
	sqlEndSessions     = "UPDATE sessions SET ended_at = ? WHERE tenant = ? AND ended_at IS NULL"
	sqlTouchSession    = "UPDATE sessions SET seen_at = ?1 WHERE id = ?2 AND seen_at < ?1 AND ended_at IS NULL"
	sqlPruneSessions   = "DELETE FROM sessions WHERE expires_at < ?"
)
