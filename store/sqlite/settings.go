package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/keys"
)

// TenantSettings gives what the tenant has settled for its keys; see keys.Store.
func (s *Store) TenantSettings(ctx context.Context, tenant uuid.UUID) (keys.Settings, error) {
	var out keys.Settings
	if err := s.enter(ctx); err != nil {
		return out, err
	}
	defer s.leave()
	var text []byte
	err := s.read.QueryRowContext(ctx, sqlTenantSettings, tenant[:]).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return out, nil
	}
	if err != nil {
		return out, translate("reading the settings of a tenant", err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return keys.Settings{}, corrupted("the settings of a tenant are damaged", err)
	}
	return out, nil
}

// setSettings is a Change.
type setSettings struct {
	prepared
	tenant   uuid.UUID
	settings keys.Settings
}

// SetTenantSettings replaces what the tenant has settled; see keys.Store.
func (s *Store) SetTenantSettings(tenant uuid.UUID, settings keys.Settings) audit.Change {
	return &setSettings{prepared: tells(cluster.KindSettings, tenant), tenant: tenant, settings: settings}
}

func (c *setSettings) apply(w *writer) error {
	text, err := json.Marshal(c.settings)
	if err != nil {
		return fmt.Errorf("encoding the settings of a tenant: %w", err)
	}
	_, err = w.exec(sqlSetTenantSettings, c.tenant[:], string(text))
	return err
}

const (
	sqlTenantSettings    = "SELECT settings FROM tenant_settings WHERE tenant = ?"
	sqlSetTenantSettings = `INSERT INTO tenant_settings (tenant, settings) VALUES (?, ?)
		ON CONFLICT (tenant) DO UPDATE SET settings = excluded.settings`
)
