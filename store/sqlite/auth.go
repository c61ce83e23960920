package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
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
	var mac, previous []byte
	var scopes, restrictions, makers string
	var before sql.NullString
	err := row.Scan((*idColumn)(&k.ID), (*idColumn)(&k.Tenant), &k.Name, &k.Brand, &k.Prefix, &mac, &scopes,
		(*timeColumn)(&k.CreatedAt), (*timeColumn)(&k.ExpiresAt), (*timeColumn)(&k.RevokedAt), &k.CreatedBy, &k.Role, &restrictions,
		(*timeColumn)(&k.RotatedAt), &k.RotatedBy, &before, &previous, (*timeColumn)(&k.Previous.Until), &makers,
		(*timeColumn)(&k.ShownAt))
	if err != nil {
		return nil, err
	}
	if len(mac) != len(k.MAC) || before.Valid && len(previous) != len(k.Previous.MAC) {
		return nil, corrupted("the record of an API key is damaged", nil)
	}
	copy(k.MAC[:], mac)
	copy(k.Previous.MAC[:], previous)
	k.Previous.Prefix = before.String
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

func (c *insertAPIKey) apply(w *writer) error {
	if c.err != nil {
		return c.err
	}
	k := &c.k
	full, err := w.row(sqlAPIKeysFull, make([]driver.Value, 1), k.Tenant[:], k.CreatedAt.UnixMicro())
	if err != nil {
		return err
	}
	if full {
		return fault.New(fault.QuotaExceeded, "the tenant has as many API keys as its quota allows")
	}
	_, err = w.exec(sqlInsertAPIKey, k.ID[:], k.Tenant[:], k.Name, k.Brand, k.Prefix, k.MAC[:], c.scopes,
		k.CreatedAt.UnixMicro(), micros(k.ExpiresAt), micros(k.RevokedAt), k.CreatedBy, string(k.Role), c.restrictions,
		strings.Join(k.Makers, " "), micros(k.ShownAt))
	return conflictIfTaken(err, "an API key with this id or prefix exists already")
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

func (c *rotateAPIKey) apply(w *writer) error {
	k := &c.k
	var prefix, mac any
	if k.Previous.Prefix != "" {
		prefix, mac = k.Previous.Prefix, k.Previous.MAC[:]
	}
	n, err := w.exec(sqlRotateRecord, k.Prefix, k.MAC[:], k.RotatedAt.UnixMicro(), k.RotatedBy, prefix, mac, micros(k.Previous.Until),
		strings.Join(k.Makers, " "), micros(k.ShownAt), k.ID[:], k.Tenant[:], c.old[:])
	if err != nil {
		return conflictIfTaken(err, "an API key with this prefix exists already")
	}
	if n > 0 {
		return nil
	}
	there, err := w.row(sqlAPIKeyExists, make([]driver.Value, 1), k.ID[:], k.Tenant[:])
	switch {
	case err != nil:
		return err
	case !there:
		return fault.New(fault.APIKeyNotFound, "no such API key")
	}
	return fault.New(fault.Conflict, "the API key was revoked or rotated by somebody else")
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
	recordColumns = `id, tenant, name, brand, prefix, mac, scopes, created_at, expires_at, revoked_at, created_by, role, restrictions,
		rotated_at, rotated_by, previous_prefix, previous_mac, previous_until, makers, shown_at`
	sqlAPIKeyByPrefix = "SELECT " + recordColumns + " FROM api_keys WHERE brand = ?1 AND prefix = ?2 UNION ALL SELECT " + recordColumns +
		" FROM api_keys WHERE brand = ?1 AND previous_prefix = ?2 LIMIT 1"
	sqlAPIKey       = "SELECT " + recordColumns + " FROM api_keys WHERE id = ? AND tenant = ?"
	sqlAPIKeys      = "SELECT " + recordColumns + " FROM api_keys WHERE tenant = ? AND id > ? ORDER BY id LIMIT ?"
	sqlInsertAPIKey = `INSERT INTO api_keys (id, tenant, name, brand, prefix, mac, scopes, created_at, expires_at, revoked_at, created_by, role,
		restrictions, makers, shown_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlCountAPIKeys = `(SELECT COUNT(*) FROM api_keys k
		WHERE k.tenant = ?1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?2))`
	sqlAPIKeysFull  = "SELECT 1 FROM tenants t WHERE t.id = ?1 AND t.max_api_keys > 0 AND t.max_api_keys <= " + sqlCountAPIKeys
	sqlRotateRecord = `UPDATE api_keys SET prefix = ?, mac = ?, rotated_at = ?, rotated_by = ?, previous_prefix = ?, previous_mac = ?,
		previous_until = ?, makers = ?, shown_at = ? WHERE id = ? AND tenant = ? AND mac = ? AND revoked_at IS NULL`
	sqlAPIKeyExists = "SELECT 1 FROM api_keys WHERE id = ? AND tenant = ?"
	sqlRevokeRecord = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? AND tenant = ?"
)
