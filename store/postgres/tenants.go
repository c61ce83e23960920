package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// Tenant finds a tenant; see auth.Store.
func (s *Store) Tenant(ctx context.Context, id uuid.UUID) (t *auth.Tenant, err error) {
	err = s.reading(ctx, "reading a tenant", func(c conn) (err error) {
		t, err = scanTenant(c.QueryRow(ctx, sqlTenant, id[:]))
		return err
	})
	if none(err) {
		return nil, fault.New(fault.TenantNotFound, "no such tenant")
	}
	return t, err
}

// Usage counts what a tenant has; see auth.Store.
func (s *Store) Usage(ctx context.Context, tenant uuid.UUID, now time.Time) (u auth.Usage, err error) {
	err = s.row(ctx, "counting what a tenant has", sqlUsage, []any{&u.Keys, &u.APIKeys, &u.Operations}, tenant[:], now.UnixMicro(), auth.DayOf(now))
	return u, err
}

// Tenants lists the tenants by id, after the cursor.
func (s *Store) Tenants(ctx context.Context, after uuid.UUID, limit int) ([]*auth.Tenant, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing tenants", func(row pgx.CollectableRow) (*auth.Tenant, error) { return scanTenant(row) },
		sqlTenants, after[:], limit)
}

func scanTenant(row pgx.Row) (*auth.Tenant, error) {
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

// encodeSecurity gives what a tenant has settled as it is stored; "": nothing.
func encodeSecurity(c *auth.Security) (string, error) {
	if c.None() {
		return "", nil
	}
	return encode(c)
}

// insertTenant is a Change.
type insertTenant struct {
	prepared
	t auth.Tenant
}

// InsertTenant adds a tenant; see auth.Store.
func (s *Store) InsertTenant(t *auth.Tenant) audit.Change {
	return &insertTenant{prepared: tells(cluster.KindTenant, t.ID), t: *t}
}

func (c *insertTenant) statements() ([]statement, error) {
	t := &c.t
	security, err := encodeSecurity(&t.Security)
	return []statement{{
		query: sqlInsertTenant,
		args: []any{t.ID[:], t.Name, string(t.Status), t.Quotas.Keys, t.Quotas.APIKeys, t.CreatedAt.UnixMicro(),
			t.UpdatedAt.UnixMicro(), t.Revision, t.Plan, security},
		refused: tenantTaken,
	}}, err
}

func tenantTaken(e *pgconn.PgError) error {
	switch {
	case e.Code != stateUnique:
		return nil
	case e.ConstraintName == "tenants_name":
		return fault.Wrap(fault.NameTaken, "another tenant has this name", serverError{e})
	}
	return fault.Wrap(fault.Conflict, "a tenant with this id exists already", serverError{e})
}

// updateTenant is a Change.
type updateTenant struct {
	prepared
	t auth.Tenant
}

// UpdateTenant replaces the mutable fields of a tenant; see auth.Store.
func (s *Store) UpdateTenant(t *auth.Tenant) audit.Change {
	return &updateTenant{prepared: tells(cluster.KindTenant, t.ID), t: *t}
}

func (c *updateTenant) statements() ([]statement, error) {
	t := &c.t
	security, err := encodeSecurity(&t.Security)
	return []statement{{
		query:   sqlUpdateTenant,
		args:    []any{t.Name, string(t.Status), t.Quotas.Keys, t.Quotas.APIKeys, t.UpdatedAt.UnixMicro(), t.ID[:], t.Revision, t.Plan, security},
		refused: tenantTaken,
		nothing: fails(fault.Conflict, "the tenant was changed by somebody else"),
	}}, err
}

const (
	tenantColumns   = "id, name, status, max_keys, max_api_keys, created_at, updated_at, revision, plan, security"
	sqlTenant       = "SELECT " + tenantColumns + " FROM tenants WHERE id = $1"
	sqlTenants      = "SELECT " + tenantColumns + " FROM tenants WHERE id > $1 ORDER BY id LIMIT $2"
	sqlInsertTenant = "INSERT INTO tenants (" + tenantColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
	sqlUpdateTenant = `UPDATE tenants SET name = $1, status = $2, max_keys = $3, max_api_keys = $4, updated_at = $5, plan = $8, security = $9, revision = revision + 1
		WHERE id = $6 AND revision = $7`
	// Keys of the service itself are not the tenant's doing and are not counted.
	sqlCountKeys = "(SELECT COUNT(*) FROM keys k WHERE k.tenant = $1 AND k.state <> 'destroyed' AND k.internal = 0)"
	sqlKeysLeft  = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM tenants t WHERE t.id = $1 AND t.max_keys > 0 AND t.max_keys <= " + sqlCountKeys + ")"
	sqlUsage     = "SELECT " + sqlCountKeys + ", " + sqlCountAPIKeys + ", COALESCE((SELECT taken FROM tenant_operations WHERE tenant = $1 AND day = $3), 0)"
)
