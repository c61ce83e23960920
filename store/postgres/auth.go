package postgres

import (
	"context"
	"encoding/json"
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
	var mac, previous []byte
	var scopes, restrictions, makers string
	var before *string
	err := row.Scan((*idColumn)(&k.ID), (*idColumn)(&k.Tenant), &k.Name, &k.Brand, &k.Prefix, &mac, &scopes,
		(*timeColumn)(&k.CreatedAt), (*timeColumn)(&k.ExpiresAt), (*timeColumn)(&k.RevokedAt), &k.CreatedBy, &k.Role, &restrictions,
		(*timeColumn)(&k.RotatedAt), &k.RotatedBy, &before, &previous, (*timeColumn)(&k.Previous.Until), &makers,
		(*timeColumn)(&k.ShownAt))
	if err != nil {
		return nil, err
	}
	if len(mac) != len(k.MAC) || before != nil && len(previous) != len(k.Previous.MAC) {
		return nil, corrupted("the record of an API key is damaged", nil)
	}
	copy(k.MAC[:], mac)
	copy(k.Previous.MAC[:], previous)
	if before != nil {
		k.Previous.Prefix = *before
	}
	if makers != "" {
		k.Makers = strings.Fields(makers)
	}
	for scope := range strings.FieldsSeq(scopes) {
		k.Scopes = append(k.Scopes, auth.Scope(scope))
	}
	if restrictions != "" {
		if err := json.Unmarshal([]byte(restrictions), &k.Restrictions); err != nil {
			return nil, corrupted("the restrictions of an API key are damaged", err)
		}
	}
	return &k, nil
}

// insertAPIKey is a Change.
type insertAPIKey struct {
	prepared
	k            auth.APIKey
	scopes       string
	restrictions string
	err          error // of the encoding
}

// InsertAPIKey adds a record; see auth.Store.
func (s *Store) InsertAPIKey(k *auth.APIKey) audit.Change {
	scopes := make([]string, len(k.Scopes))
	for i, scope := range k.Scopes {
		scopes[i] = string(scope)
	}
	c := &insertAPIKey{prepared: tells(cluster.KindAPIKey, k.ID), k: *k, scopes: strings.Join(scopes, " ")}
	c.restrictions, c.err = encode(&k.Restrictions)
	return c
}

func (c *insertAPIKey) statements() ([]statement, error) {
	k := &c.k
	return []statement{{
		query:   sqlAPIKeysLeft,
		args:    []any{k.Tenant[:], k.CreatedAt.UnixMicro()},
		nothing: fails(fault.QuotaExceeded, "the tenant has as many API keys as its quota allows"),
	}, {
		query: sqlInsertRecord,
		args: []any{k.ID[:], k.Tenant[:], k.Name, k.Brand, k.Prefix, k.MAC[:], c.scopes,
			k.CreatedAt.UnixMicro(), micros(k.ExpiresAt), micros(k.RevokedAt), k.CreatedBy, string(k.Role), c.restrictions,
			strings.Join(k.Makers, " "), micros(k.ShownAt)},
		refused: conflictIfTaken("an API key with this id or prefix exists already"),
	}}, c.err
}

// rotateAPIKey is a Change.
type rotateAPIKey struct {
	prepared
	k   auth.APIKey
	old [32]byte
}

// RotateAPIKey replaces the secret of a record; see auth.Store.
func (s *Store) RotateAPIKey(k *auth.APIKey, old [32]byte) audit.Change {
	return &rotateAPIKey{prepared: tells(cluster.KindAPIKey, k.ID), k: *k, old: old}
}

func (c *rotateAPIKey) statements() ([]statement, error) {
	k := &c.k
	var prefix, mac any
	if k.Previous.Prefix != "" {
		prefix, mac = k.Previous.Prefix, k.Previous.MAC[:]
	}
	missing, there := fault.New(fault.APIKeyNotFound, "no such API key"), fault.New(fault.Conflict, "the API key was revoked or rotated by somebody else")
	return []statement{{
		query: sqlRotateRecord,
		args: []any{k.Prefix, k.MAC[:], k.RotatedAt.UnixMicro(), k.RotatedBy, prefix, mac, micros(k.Previous.Until),
			k.ID[:], k.Tenant[:], c.old[:], strings.Join(k.Makers, " "), micros(k.ShownAt)},
		refused: conflictIfTaken("an API key with this prefix exists already"),
		nothing: func(ctx context.Context, conn *pgx.Conn) error {
			var n int64
			switch err := conn.QueryRow(ctx, sqlRecordExists, k.ID[:], k.Tenant[:]).Scan(&n); {
			case err != nil:
				return err
			case n == 0:
				return missing
			}
			return there
		},
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
	recordColumns = `id, tenant, name, brand, prefix, mac, scopes, created_at, expires_at, revoked_at, created_by, role, restrictions,
		rotated_at, rotated_by, previous_prefix, previous_mac, previous_until, makers, shown_at`
	sqlAPIKeyByPrefix = "SELECT " + recordColumns + " FROM api_keys WHERE brand = $1 AND prefix = $2 UNION ALL SELECT " + recordColumns +
		" FROM api_keys WHERE brand = $1 AND previous_prefix = $2 LIMIT 1"
	sqlAPIKey       = "SELECT " + recordColumns + " FROM api_keys WHERE id = $1 AND tenant = $2"
	sqlAPIKeys      = "SELECT " + recordColumns + " FROM api_keys WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3"
	sqlInsertRecord = `INSERT INTO api_keys (id, tenant, name, brand, prefix, mac, scopes, created_at, expires_at, revoked_at, created_by, role,
		restrictions, makers, shown_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`
	sqlCountAPIKeys = `(SELECT COUNT(*) FROM api_keys k
		WHERE k.tenant = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2))`
	sqlAPIKeysLeft  = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM tenants t WHERE t.id = $1 AND t.max_api_keys > 0 AND t.max_api_keys <= " + sqlCountAPIKeys + ")"
	sqlRotateRecord = `UPDATE api_keys SET prefix = $1, mac = $2, rotated_at = $3, rotated_by = $4, previous_prefix = $5, previous_mac = $6,
		previous_until = $7, makers = $11, shown_at = $12 WHERE id = $8 AND tenant = $9 AND mac = $10 AND revoked_at IS NULL`
	sqlRecordExists = "SELECT COUNT(*) FROM api_keys WHERE id = $1 AND tenant = $2"
	sqlRevokeRecord = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2 AND tenant = $3"
)
