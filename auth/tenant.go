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

// Usage is what a tenant has of its quotas, and has done today.
type Usage struct {
	At         time.Time // when it was counted
	Keys       int64     // as Quotas.Keys counts them
	APIKeys    int64     // as Quotas.APIKeys counts them
	Operations int64     // with keys that nodes have set aside for it today (keys.DailyReservation); none without a plan that bounds them
}

// DayOf gives the day of a time: days since 1970-01-01, UTC. Operations of a tenant are counted by it.
func DayOf(t time.Time) int64 { return t.Unix() / daySeconds }

// DayEnd gives when the day of a time ends: midnight, UTC.
func DayEnd(t time.Time) time.Time { return time.Unix((DayOf(t)+1)*daySeconds, 0) }

const daySeconds = 24 * 60 * 60

// DefaultTenantName is that of the first tenant of a deployment.
const DefaultTenantName = "default"
