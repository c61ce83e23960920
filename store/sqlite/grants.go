package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// Grants lists the grants on a key; see keys.Store.
func (s *Store) Grants(ctx context.Context, tenant, key, after uuid.UUID, limit int) ([]*auth.Grant, error) {
	return s.grants(ctx, sqlGrants, tenant[:], key[:], after[:], limit)
}

// GrantsOf lists what is granted to a principal; see auth.Store.
func (s *Store) GrantsOf(ctx context.Context, tenant uuid.UUID, principal string) ([]*auth.Grant, error) {
	return s.grants(ctx, sqlGrantsOf, tenant[:], principal, auth.MaxGrants)
}

func (s *Store) grants(ctx context.Context, query string, args ...any) (found []*auth.Grant, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, translate("listing grants", err)
	}
	defer func() { err = translate("listing grants", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		g, err := scanGrant(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, g)
	}
	return found, rows.Err()
}

// Grant finds a grant on a key; see keys.Store.
func (s *Store) Grant(ctx context.Context, tenant, key, id uuid.UUID) (*auth.Grant, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	g, err := scanGrant(s.read.QueryRowContext(ctx, sqlGrant, tenant[:], key[:], id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.GrantNotFound, "the key has no such grant")
	}
	return g, translate("reading a grant", err)
}

func scanGrant(row scanner) (*auth.Grant, error) {
	var g auth.Grant
	var operations, pairs string
	err := row.Scan((*idColumn)(&g.ID), (*idColumn)(&g.Tenant), (*idColumn)(&g.Key), &g.Principal, &operations, &pairs,
		(*timeColumn)(&g.ExpiresAt), (*timeColumn)(&g.CreatedAt), &g.CreatedBy, &g.Named)
	if err != nil {
		return nil, err
	}
	g.Operations = strings.Fields(operations)
	if pairs != "" {
		if err := json.Unmarshal([]byte(pairs), &g.Context); err != nil {
			return nil, corrupted("the context of a grant is damaged", err)
		}
	}
	return &g, nil
}

// aboutGrant is what others are told of a change of a grant: whose rights are others now.
func aboutGrant(g *auth.Grant) prepared {
	id, _ := auth.GrantHolder(g.Tenant, g.Principal)
	return tells(cluster.KindPolicy, id)
}

// putGrant is a Change.
type putGrant struct {
	prepared
	g     auth.Grant
	row   uuid.UUID // the row's own id if it is new: nobody's choice, so that no tenant meets another's
	pairs string
	err   error // of the encoding
}

// PutGrant adds or replaces a grant; see keys.Store.
func (s *Store) PutGrant(g *auth.Grant) audit.Change {
	c := &putGrant{prepared: aboutGrant(g), g: *g, row: uuid.New()}
	if len(g.Context) > 0 {
		c.pairs, c.err = encode(g.Context)
	}
	return c
}

func (c *putGrant) apply(w *writer) error {
	if c.err != nil {
		return c.err
	}
	g := &c.g
	one := make([]driver.Value, 1)
	if _, isAPIKey := auth.GrantHolder(g.Tenant, g.Principal); isAPIKey {
		there, err := w.row(sqlAPIKeyExists, one, c.about[:], g.Tenant[:])
		if err != nil {
			return err
		}
		if !there {
			return fault.New(fault.APIKeyNotFound, "no such API key")
		}
	}
	full, err := w.row(sqlGrantsFull, one, g.Tenant[:], g.Key[:], g.Principal, g.ID[:], int64(auth.MaxGrants))
	if err != nil {
		return err
	}
	if full {
		return fault.New(fault.QuotaExceeded, "the key or the principal has as many grants as it can have")
	}
	n, err := w.exec(sqlPutGrant, c.row[:], g.ID[:], g.Tenant[:], g.Key[:], g.Principal, strings.Join(g.Operations, " "), c.pairs, micros(g.ExpiresAt),
		g.CreatedAt.UnixMicro(), g.CreatedBy, g.Named)
	if err == nil && n == 0 {
		return fault.New(fault.Conflict, "another key or principal has the grant of this id")
	}
	return err
}

// deleteGrant is a Change.
type deleteGrant struct {
	prepared
	g auth.Grant
}

// DeleteGrant removes a grant; see keys.Store.
func (s *Store) DeleteGrant(g *auth.Grant) audit.Change {
	return &deleteGrant{prepared: aboutGrant(g), g: *g}
}

func (c *deleteGrant) apply(w *writer) error {
	n, err := w.exec(sqlDeleteGrant, c.g.Tenant[:], c.g.Key[:], c.g.ID[:])
	if err == nil && n == 0 {
		return fault.New(fault.GrantNotFound, "the key has no such grant")
	}
	return err
}

const (
	// A grant is known by the id that was given for it in its tenant; see migration 00019.
	grantID       = "COALESCE(given, id)"
	grantFacts    = "tenant, key_id, principal, operations, context, expires_at, created_at, created_by, named"
	grantColumns  = grantID + ", " + grantFacts
	sqlGrants     = "SELECT " + grantColumns + " FROM grants WHERE tenant = ? AND key_id = ? AND " + grantID + " > ? ORDER BY " + grantID + " LIMIT ?"
	sqlGrantsOf   = "SELECT " + grantColumns + " FROM grants WHERE tenant = ? AND principal = ? ORDER BY " + grantID + " LIMIT ?"
	sqlGrant      = "SELECT " + grantColumns + " FROM grants WHERE tenant = ? AND key_id = ? AND " + grantID + " = ?"
	sqlGrantsFull = `SELECT 1 WHERE (SELECT COUNT(*) FROM grants WHERE tenant = ?1 AND key_id = ?2 AND ` + grantID + ` <> ?4) >= ?5
		OR (SELECT COUNT(*) FROM grants WHERE tenant = ?1 AND principal = ?3 AND ` + grantID + ` <> ?4) >= ?5`
	// A replaced grant must not go to another principal: that one's caches would not be told.
	sqlPutGrant = "INSERT INTO grants (id, given, " + grantFacts + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, " + grantID + `) DO UPDATE SET
		operations = excluded.operations, context = excluded.context, expires_at = excluded.expires_at, created_at = excluded.created_at,
		created_by = excluded.created_by, named = excluded.named WHERE grants.key_id = excluded.key_id AND grants.principal = excluded.principal`
	sqlDeleteGrant = "DELETE FROM grants WHERE tenant = ? AND key_id = ? AND " + grantID + " = ?"
)
