package postgres

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

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

func (s *Store) grants(ctx context.Context, query string, args ...any) ([]*auth.Grant, error) {
	return list(ctx, s, "listing grants", func(row pgx.CollectableRow) (*auth.Grant, error) { return scanGrant(row) }, query, args...)
}

// Grant finds a grant on a key; see keys.Store.
func (s *Store) Grant(ctx context.Context, tenant, key, id uuid.UUID) (g *auth.Grant, err error) {
	err = s.reading(ctx, "reading a grant", func(c conn) (err error) {
		g, err = scanGrant(c.QueryRow(ctx, sqlGrant, tenant[:], key[:], id[:]))
		return err
	})
	if none(err) {
		return nil, fault.New(fault.GrantNotFound, "the key has no such grant")
	}
	return g, err
}

func scanGrant(row pgx.Row) (*auth.Grant, error) {
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

func (c *putGrant) statements() ([]statement, error) {
	g := &c.g
	var all []statement
	if _, isAPIKey := auth.GrantHolder(g.Tenant, g.Principal); isAPIKey {
		all = append(all, statement{query: sqlHolderThere, args: []any{c.about[:], g.Tenant[:]},
			nothing: fails(fault.APIKeyNotFound, "no such API key")})
	}
	return append(all, statement{
		query:   sqlGrantsLeft,
		args:    []any{g.Tenant[:], g.Key[:], g.Principal, g.ID[:], auth.MaxGrants},
		nothing: fails(fault.QuotaExceeded, "the key or the principal has as many grants as it can have"),
	}, statement{
		query: sqlPutGrant,
		args: []any{c.row[:], g.ID[:], g.Tenant[:], g.Key[:], g.Principal, strings.Join(g.Operations, " "), c.pairs, micros(g.ExpiresAt),
			g.CreatedAt.UnixMicro(), g.CreatedBy, g.Named},
		nothing: fails(fault.Conflict, "another key or principal has the grant of this id"),
	}), c.err
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

func (c *deleteGrant) statements() ([]statement, error) {
	return []statement{{
		query:   sqlDeleteGrant,
		args:    []any{c.g.Tenant[:], c.g.Key[:], c.g.ID[:]},
		nothing: fails(fault.GrantNotFound, "the key has no such grant"),
	}}, nil
}

const (
	// A grant is known by the id that was given for it in its tenant; see migration 00019.
	grantID        = "COALESCE(given, id)"
	grantFacts     = "tenant, key_id, principal, operations, context, expires_at, created_at, created_by, named"
	grantColumns   = grantID + ", " + grantFacts
	sqlGrants      = "SELECT " + grantColumns + " FROM grants WHERE tenant = $1 AND key_id = $2 AND " + grantID + " > $3 ORDER BY " + grantID + " LIMIT $4"
	sqlGrantsOf    = "SELECT " + grantColumns + " FROM grants WHERE tenant = $1 AND principal = $2 ORDER BY " + grantID + " LIMIT $3"
	sqlGrant       = "SELECT " + grantColumns + " FROM grants WHERE tenant = $1 AND key_id = $2 AND " + grantID + " = $3"
	sqlHolderThere = "SELECT 1 FROM api_keys WHERE id = $1 AND tenant = $2"
	sqlGrantsLeft  = `SELECT 1 WHERE (SELECT COUNT(*) FROM grants WHERE tenant = $1 AND key_id = $2 AND ` + grantID + ` <> $4) < $5
		AND (SELECT COUNT(*) FROM grants WHERE tenant = $1 AND principal = $3 AND ` + grantID + ` <> $4) < $5`
	// A replaced grant must not go to another principal: that one's caches would not be told.
	sqlPutGrant = "INSERT INTO grants (id, given, " + grantFacts + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant, (" + grantID + `)) DO UPDATE SET
		operations = excluded.operations, context = excluded.context, expires_at = excluded.expires_at, created_at = excluded.created_at,
		created_by = excluded.created_by, named = excluded.named WHERE grants.key_id = excluded.key_id AND grants.principal = excluded.principal`
	sqlDeleteGrant = "DELETE FROM grants WHERE tenant = $1 AND key_id = $2 AND " + grantID + " = $3"
)
