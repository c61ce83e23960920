package auth

import (
	"time"

	"github.com/google/uuid"
)

// Grant is the right of one principal to named operations on one key. Grants add: none takes away what another gives.
type Grant struct {
	ID         uuid.UUID
	Tenant     uuid.UUID
	Key        uuid.UUID
	Principal  string            // as PrincipalID gives it
	Named      string            // how the principal was written, when that is not its name; for people
	Operations []string          // as the audit log names them
	Context    map[string]string // pairs that the caller's context must hold; empty: none
	ExpiresAt  time.Time         // zero: never
	CreatedAt  time.Time
	CreatedBy  string
}

// Bounds of grants.
const (
	MaxGrants        = 1000 // of a principal, over all keys; and of a key
	MaxGrantContext  = 16
	MaxPrincipalName = 256 // bytes
)

// gives reports whether the grant is for the operation, at this time.
func (g *Grant) gives(operation string, now time.Time) bool {
	if !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt) {
		return false
	}
	for _, o := range g.Operations {
		if o == operation {
			return true
		}
	}
	return false
}
