// Package auth says who is calling and what scopes they have. It knows API keys (later: client certificates, tokens).
//
// It trusts the root for the pepper and the store for the records. It never keeps or logs a presented secret: only its
// HMAC under the pepper.
package auth

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
)

// Scope is a right of a credential. Write does not imply read.
type Scope string

const (
	ScopeKeysRead        Scope = "keys:read"
	ScopeKeysWrite       Scope = "keys:write"
	ScopeEncryptionWrite Scope = "encryption:write"
	ScopeAuditRead       Scope = "audit:read"
	ScopeSettingsWrite   Scope = "settings:write"
	ScopeBackupWrite     Scope = "backup:write"
)

// Scopes lists all scopes in the order of the documentation.
func Scopes() []Scope {
	return []Scope{ScopeKeysRead, ScopeKeysWrite, ScopeEncryptionWrite, ScopeAuditRead, ScopeSettingsWrite, ScopeBackupWrite}
}

// Principal is an authenticated caller. Values are shared between calls: nobody changes them.
type Principal struct {
	ID     string // "api-key:<uuid>", as it stands in the audit log
	Tenant uuid.UUID
	Name   string
	Scopes []Scope
}

// Has reports whether the principal has the scope.
func (p *Principal) Has(s Scope) bool {
	for _, q := range p.Scopes {
		if q == s {
			return true
		}
	}
	return false
}

// APIKey is the record of an API key. MAC is HMAC-SHA-256 of the whole presented key under the pepper.
type APIKey struct {
	ID        uuid.UUID
	Tenant    uuid.UUID
	Name      string
	Brand     string
	Prefix    string
	MAC       [32]byte
	Scopes    []Scope
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	RevokedAt time.Time // zero: not revoked
	CreatedBy string
}

// Store keeps API key records. The methods that change something prepare a Change for the audit log to carry out.
type Store interface {
	// APIKeyByPrefix finds a record by brand and prefix, over all tenants, or fault.APIKeyNotFound.
	APIKeyByPrefix(ctx context.Context, brand, prefix string) (*APIKey, error)
	// APIKey finds a record of the tenant, or fault.APIKeyNotFound.
	APIKey(ctx context.Context, tenant, id uuid.UUID) (*APIKey, error)
	// APIKeys lists the tenant's records by id, after the cursor (zero: from the start).
	APIKeys(ctx context.Context, tenant uuid.UUID, after uuid.UUID, limit int) ([]*APIKey, error)
	InsertAPIKey(k *APIKey) audit.Change
	// RevokeAPIKey sets RevokedAt once; a second revocation changes nothing and is no error.
	RevokeAPIKey(tenant, id uuid.UUID, at time.Time) audit.Change
}
