package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/keys"
)

// TenantSettings gives what the tenant has settled for its keys; see keys.Store.
func (s *Store) TenantSettings(ctx context.Context, tenant uuid.UUID) (keys.Settings, error) {
	var out keys.Settings
	var text []byte
	err := s.row(ctx, "reading the settings of a tenant", sqlTenantSettings, []any{&text}, tenant[:])
	switch {
	case none(err):
		return out, nil
	case err != nil:
		return out, err
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

func (c *setSettings) statements() ([]statement, error) {
	text, err := json.Marshal(c.settings)
	if err != nil {
		return nil, fmt.Errorf("encoding the settings of a tenant: %w", err)
	}
	return []statement{{query: sqlSetTenantSettings, args: []any{c.tenant[:], string(text)}}}, nil
}

const (
	sqlTenantSettings    = "SELECT settings FROM tenant_settings WHERE tenant = $1"
	sqlSetTenantSettings = `INSERT INTO tenant_settings (tenant, settings) VALUES ($1, $2)
		ON CONFLICT (tenant) DO UPDATE SET settings = excluded.settings`
)
