package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// APIKeyByPrefix finds a record by brand and prefix, over all tenants.
func (s *Store) APIKeyByPrefix(ctx context.Context, brand, prefix string) (*auth.APIKey, error) {
	return s.apiKey(ctx, sqlAPIKeyByPrefix, brand, prefix)
}

// APIKey finds a record of the tenant.
func (s *Store) APIKey(ctx context.Context, tenant, id uuid.UUID) (*auth.APIKey, error) {
	return s.apiKey(ctx, sqlAPIKey, id[:], tenant[:])
}

func (s *Store) apiKey(ctx context.Context, query string, args ...any) (*auth.APIKey, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	k, err := scanAPIKey(s.read.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.APIKeyNotFound, "no such API key")
	}
	return k, translate("reading an API key", err)
}

// APIKeys lists the tenant's records by id, after the cursor.
func (s *Store) APIKeys(ctx context.Context, tenant uuid.UUID, after uuid.UUID, limit int) (found []*auth.APIKey, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, sqlAPIKeys, tenant[:], after[:], limit)
	if err != nil {
		return nil, translate("listing API keys", err)
	}
	defer func() { err = translate("listing API keys", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		k, err := scanAPIKey(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, k)
	}
	return found, rows.Err()
}

func scanAPIKey(row scanner) (*auth.APIKey, error) {
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

func (c *insertAPIKey) apply(w *writer) error {
	k := &c.k
	_, err := w.exec(sqlInsertAPIKey, k.ID[:], k.Tenant[:], k.Name, k.Brand, k.Prefix, k.MAC[:], c.scopes,
		k.CreatedAt.UnixMicro(), micros(k.ExpiresAt), micros(k.RevokedAt), k.CreatedBy)
	return conflictIfTaken(err, "an API key with this id or prefix exists already")
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

func (c *revokeAPIKey) apply(w *writer) error {
	n, err := w.exec(sqlRevokeRecord, c.at.UnixMicro(), c.id[:], c.tenant[:])
	if err == nil && n == 0 {
		return fault.New(fault.APIKeyNotFound, "no such API key")
	}
	return err
}

const (
	recordColumns     = "id, tenant, name, brand, prefix, mac, scopes, created_at, expires_at, revoked_at, created_by"
	sqlAPIKeyByPrefix = "SELECT " + recordColumns + " FROM api_keys WHERE brand = ? AND prefix = ?"
	sqlAPIKey         = "SELECT " + recordColumns + " FROM api_keys WHERE id = ? AND tenant = ?"
	sqlAPIKeys        = "SELECT " + recordColumns + " FROM api_keys WHERE tenant = ? AND id > ? ORDER BY id LIMIT ?"
	sqlInsertAPIKey   = "INSERT INTO api_keys (" + recordColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	sqlRevokeRecord   = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? AND tenant = ?"
)
