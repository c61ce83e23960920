package auth

import (
	"time"

	"github.com/google/uuid"
)

// Status is whether a tenant is served.
type Status string

const (
	TenantActive    Status = "active"
	TenantSuspended Status = "suspended" // every credential is refused; nothing is lost
)

// Tenant is the owner of keys, API keys and audit entries. Nothing crosses tenants.
type Tenant struct {
	ID        uuid.UUID
	Name      string
	Status    Status
	Quotas    Quotas
	Plan      string // of rate limits, as the configuration names it; "": the default one
	Security  Security
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64 // for compare-and-swap
}

// Quotas bound what a tenant can have. They are looked at in the transaction that makes one more.
type Quotas struct {
	Keys    int64 // that are not destroyed; 0: as many as it likes
	APIKeys int64 // that are neither revoked nor expired; 0: as many as it likes
}

// DefaultTenantName is that of the first tenant of a deployment.
const DefaultTenantName = "default"
