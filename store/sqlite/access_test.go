package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/store/migrations"
	"github.com/keywright/keywright/store/sqlite"
)

// TestKeysOfBefore: API keys of a store that knew no tenants and roles can do what they could, and belong to the tenant "default".
func TestKeysOfBefore(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	run := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	run("PRAGMA application_id = 1802990452") // "kwst"
	p, err := goose.NewProvider(goose.DialectSQLite3, db, migrations.SQLite(), goose.WithDisableGlobalRegistry(true), goose.WithTableName("schema_version"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	tenant := uuid.New()
	ids := map[string]uuid.UUID{"owner": uuid.New(), "manager": uuid.New(), "auditor": uuid.New(), "app": uuid.New()}
	for name, scopes := range map[string]string{"owner": "keys:read keys:write encryption:write audit:read settings:write", "manager": "settings:write",
		"auditor": "audit:read settings:write", "app": "keys:read encryption:write"} {
		id, by := ids[name], "api-key:x"
		if name == "owner" {
			by = "system"
		}
		run("INSERT INTO api_keys (id, tenant, name, brand, prefix, mac, scopes, created_at, created_by) VALUES (?, ?, ?, 'kw', ?, ?, ?, 5, ?)",
			id[:], tenant[:], name, name, make([]byte, 32), scopes, by)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if got, err := s.Tenant(t.Context(), tenant); err != nil || got.Name != auth.DefaultTenantName || got.Status != auth.TenantActive {
		t.Errorf("%+v, %v", got, err)
	}
	for name, want := range map[string]auth.ScopeSet{
		"manager": auth.SetOf(auth.ScopeSettingsWrite, auth.ScopeRootRead, auth.ScopeRootWrite),
		"auditor": auth.SetOf(auth.ScopeAuditRead, auth.ScopeSettingsWrite, auth.ScopeRootRead, auth.ScopeRootWrite, auth.ScopeAuditExport),
		"app":     auth.SetOf(auth.ScopeKeysRead, auth.ScopeEncryptionWrite),
		"owner":   auth.SetOf(auth.Scopes()...) &^ auth.SetOf(auth.ScopeRead, auth.ScopeWrite),
	} {
		k, err := s.APIKey(t.Context(), tenant, ids[name])
		if err != nil {
			t.Fatal(err)
		}
		if got := auth.SetOf(k.Effective()...); got != want {
			t.Errorf("%s has %v, want %v", name, got.List(), want.List())
		}
	}
}
