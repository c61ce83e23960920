package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/mattn/go-sqlite3"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// Tenant finds a tenant; see auth.Store.
func (s *Store) Tenant(ctx context.Context, id uuid.UUID) (*auth.Tenant, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	t, err := scanTenant(s.read.QueryRowContext(ctx, sqlTenant, id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, tenantNotFound()
	}
	return t, translate("reading a tenant", err)
}

func tenantNotFound() error { return fault.New(fault.TenantNotFound, "no such tenant") }

// Usage counts what a tenant has; see auth.Store.
func (s *Store) Usage(ctx context.Context, tenant uuid.UUID, now time.Time) (u auth.Usage, err error) {
	if err := s.enter(ctx); err != nil {
		return u, err
	}
	defer s.leave()
	err = s.read.QueryRowContext(ctx, sqlUsage, tenant[:], now.UnixMicro(), auth.DayOf(now)).Scan(&u.Keys, &u.APIKeys, &u.Operations)
	return u, translate("counting what a tenant has", err)
}

// Tenants lists the tenants by id, after the cursor.
func (s *Store) Tenants(ctx context.Context, after uuid.UUID, limit int) (found []*auth.Tenant, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, sqlTenants, after[:], limit)
	if err != nil {
		return nil, translate("listing tenants", err)
	}
	defer func() { err = translate("listing tenants", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		t, err := scanTenant(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, t)
	}
	return found, rows.Err()
}

func scanTenant(row scanner) (*auth.Tenant, error) {
	var t auth.Tenant
	var security string
	err := row.Scan((*idColumn)(&t.ID), &t.Name, &t.Status, &t.Quotas.Keys, &t.Quotas.APIKeys, (*timeColumn)(&t.CreatedAt),
		(*timeColumn)(&t.UpdatedAt), &t.Revision, &t.Plan, &security)
	if err != nil {
		return nil, err
	}
	if security != "" {
		if err := json.Unmarshal([]byte(security), &t.Security); err != nil {
			return nil, corrupted("the security settings of a tenant are damaged", err)
		}
	}
	return &t, nil
}

// insertTenant is a Change.
type insertTenant struct {
	prepared
	t        auth.Tenant
	security string
	err      error // of the encoding
}

// encodeSecurity gives what a tenant has settled as it is stored; "": nothing.
func encodeSecurity(c *auth.Security) (string, error) {
	if c.None() {
		return "", nil
	}
	return encode(c)
}

// InsertTenant adds a tenant; see auth.Store.
func (s *Store) InsertTenant(t *auth.Tenant) audit.Change {
	c := &insertTenant{prepared: tells(cluster.KindTenant, t.ID), t: *t}
	c.security, c.err = encodeSecurity(&t.Security)
	return c
}

func (c *insertTenant) apply(w *writer) error {
	if c.err != nil {
		return c.err
	}
	t := &c.t
	_, err := w.exec(sqlInsertTenant, t.ID[:], t.Name, string(t.Status), t.Quotas.Keys, t.Quotas.APIKeys, t.CreatedAt.UnixMicro(),
		t.UpdatedAt.UnixMicro(), t.Revision, t.Plan, c.security)
	switch violated(err) {
	case sqlite3.ErrConstraintPrimaryKey:
		return fault.Wrap(fault.Conflict, "a tenant with this id exists already", err)
	case sqlite3.ErrConstraintUnique:
		there, failed := w.row(sqlTenantExists, make([]driver.Value, 1), t.ID[:]) // of two violated constraints SQLite names either
		switch {
		case failed != nil:
			return failed
		case there:
			return fault.Wrap(fault.Conflict, "a tenant with this id exists already", err)
		}
		return fault.Wrap(fault.NameTaken, "another tenant has this name", err)
	}
	return err
}

// updateTenant is a Change.
type updateTenant struct {
	prepared
	t        auth.Tenant
	security string
	err      error // of the encoding
}

// UpdateTenant replaces the mutable fields of a tenant; see auth.Store.
func (s *Store) UpdateTenant(t *auth.Tenant) audit.Change {
	c := &updateTenant{prepared: tells(cluster.KindTenant, t.ID), t: *t}
	c.security, c.err = encodeSecurity(&t.Security)
	return c
}

func (c *updateTenant) apply(w *writer) error {
	if c.err != nil {
		return c.err
	}
	t := &c.t
	n, err := w.exec(sqlUpdateTenant, t.Name, string(t.Status), t.Quotas.Keys, t.Quotas.APIKeys, t.UpdatedAt.UnixMicro(), t.Plan, c.security, t.ID[:], t.Revision)
	if violated(err) == sqlite3.ErrConstraintUnique {
		return fault.Wrap(fault.NameTaken, "another tenant has this name", err)
	}
	if err == nil && n == 0 {
		return fault.New(fault.Conflict, "the tenant was changed by somebody else")
	}
	return err
}

const (
	tenantColumns   = "id, name, status, max_keys, max_api_keys, created_at, updated_at, revision, plan, security"
	sqlTenant       = "SELECT " + tenantColumns + " FROM tenants WHERE id = ?"
	sqlTenants      = "SELECT " + tenantColumns + " FROM tenants WHERE id > ? ORDER BY id LIMIT ?"
	sqlTenantExists = "SELECT 1 FROM tenants WHERE id = ?"
	sqlInsertTenant = "INSERT INTO tenants (" + tenantColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	sqlUpdateTenant = `UPDATE tenants SET name = ?, status = ?, max_keys = ?, max_api_keys = ?, updated_at = ?, plan = ?, security = ?, revision = revision + 1
		WHERE id = ? AND revision = ?`
	// Keys of the service itself are not the tenant's doing and are not counted.
	sqlCountKeys = "(SELECT COUNT(*) FROM keys k WHERE k.tenant = ?1 AND k.state <> 'destroyed' AND k.internal = 0)"
	sqlKeysFull  = "SELECT 1 FROM tenants t WHERE t.id = ?1 AND t.max_keys > 0 AND t.max_keys <= " + sqlCountKeys
	sqlUsage     = "SELECT " + sqlCountKeys + ", " + sqlCountAPIKeys + ", COALESCE((SELECT taken FROM tenant_operations WHERE tenant = ?1 AND day = ?3), 0)"
)
