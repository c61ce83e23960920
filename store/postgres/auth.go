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

// APIKeyByPrefix finds a record by brand and prefix, over all tenants.
func (s *Store) APIKeyByPrefix(ctx context.Context, brand, prefix string) (*auth.APIKey, error) {
	if !storable(brand) || !storable(prefix) {
		return nil, fault.New(fault.APIKeyNotFound, "no such API key")
	}
	return s.apiKey(ctx, sqlAPIKeyByPrefix, brand, prefix)
}

// APIKey finds a record of the tenant.
func (s *Store) APIKey(ctx context.Context, tenant, id uuid.UUID) (*auth.APIKey, error) {
	return s.apiKey(ctx, sqlAPIKey, id[:], tenant[:])
}

func (s *Store) apiKey(ctx context.Context, query string, args ...any) (k *auth.APIKey, err error) {
	err = s.reading(ctx, "reading an API key", func(c conn) (err error) {
		k, err = scanAPIKey(c.QueryRow(ctx, query, args...))
		return err
	})
	if none(err) {
		return nil, fault.New(fault.APIKeyNotFound, "no such API key")
	}
	return k, err
}

// APIKeys lists the tenant's records by id, after the cursor.
func (s *Store) APIKeys(ctx context.Context, tenant uuid.UUID, after uuid.UUID, limit int) ([]*auth.APIKey, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing API keys", func(row pgx.CollectableRow) (*auth.APIKey, error) { return scanAPIKey(row) },
		sqlAPIKeys, tenant[:], after[:], limit)
}

func scanAPIKey(row pgx.Row) (*auth.APIKey, error) {
	var k auth.APIKey
	var mac []byte
	var scopes string
	err := row.Scan((*idColumn)(&k.ID), (*idColumn)(&k.Tenant), &k.Name, &k.Brand, &k.Prefix, &mac, &scopes,
		(*timeColumn)(&k.CreatedAt), (*timeColumn)(&k.ExpiresAt), (*timeColumn)(&k.RevokedAt), &k.CreatedBy)
	if err != nil {
		return nil, err
	}
	if len(mac) != len(k.MAC) {
		return nil, corrupted("the record of an API key is damaged", nil)
	}
	copy(k.MAC[:], mac)
	for scope := range strings.FieldsSeq(scopes) {
		k.Scopes = append(k.Scopes, auth.Scope(scope))
	}
	return &k, nil
}

// insertAPIKey is a Change.
type insertAPIKey struct {
	prepared
	k      auth.APIKey
	scopes string
}

// InsertAPIKey adds a record. fault.Conflict when the id, or the prefix under the brand, exists.
func (s *Store) InsertAPIKey(k *auth.APIKey) audit.Change {
	scopes := make([]string, len(k.Scopes))
	for i, scope := range k.Scopes {
		scopes[i] = string(scope)
	}
	return &insertAPIKey{prepared: tells(cluster.KindAPIKey, k.ID), k: *k, scopes: strings.Join(scopes, " ")}
}

func (c *insertAPIKey) statements() ([]statement, error) {
	k := &c.k
	return []statement{{
		query: sqlInsertAPIKey,
		args: []any{k.ID[:], k.Tenant[:], k.Name, k.Brand, k.Prefix, k.MAC[:], c.scopes,
			k.CreatedAt.UnixMicro(), micros(k.ExpiresAt), micros(k.RevokedAt), k.CreatedBy},
		refused: conflictIfTaken("an API key with this id or prefix exists already"),
	}}, nil
}

// revokeAPIKey is a Change.
type revokeAPIKey struct {
	prepared
	tenant, id uuid.UUID
	at         time.Time
}

// RevokeAPIKey sets RevokedAt once; see auth.Store. fault.APIKeyNotFound when the tenant has no such record.
func (s *Store) RevokeAPIKey(tenant, id uuid.UUID, at time.Time) audit.Change {
	return &revokeAPIKey{prepared: tells(cluster.KindAPIKey, id), tenant: tenant, id: id, at: at}
}

func (c *revokeAPIKey) statements() ([]statement, error) {
	return []statement{{
		query:   sqlRevokeRecord,
		args:    []any{c.at.UnixMicro(), c.id[:], c.tenant[:]},
		nothing: fails(fault.APIKeyNotFound, "no such API key"),
	}}, nil
}

const (
	recordColumns     = "id, tenant, name, brand, prefix, mac, scopes, created_at, expires_at, revoked_at, created_by"
	sqlAPIKeyByPrefix = "SELECT " + recordColumns + " FROM api_keys WHERE brand = $1 AND prefix = $2"
	sqlAPIKey         = "SELECT " + recordColumns + " FROM api_keys WHERE id = $1 AND tenant = $2"
	sqlAPIKeys        = "SELECT " + recordColumns + " FROM api_keys WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3"
	sqlInsertAPIKey   = "INSERT INTO api_keys (" + recordColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
	sqlRevokeRecord   = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2 AND tenant = $3"
)
