// Package auth says who is calling, and who may do what: tenants, roles and scopes, API keys, and the one decision function over them. It
// knows API keys, and by the configuration client certificates, processes on a Unix socket and tokens of other issuers.
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

// Kind is how a principal has shown who it is.
type Kind string

const (
	KindAPIKey  Kind = "api-key"
	KindSession Kind = "session" // who has shown a credential of another kind, and goes by a session since
	KindSystem  Kind = "system"
)

// Principal is an authenticated caller, with all that a decision needs to know of it. Values are shared between calls: nobody
// changes them.
type Principal struct {
	ID     string // "api-key:<uuid>", as it stands in the audit log
	Kind   Kind
	Tenant uuid.UUID
	Name   string
	Role   Role
	Scopes []Scope // all of them, those of the role included

	TenantName   string
	Plan         string        // of the tenant's rates
	Suspended    bool          // the tenant is
	ExpiresAt    time.Time     // zero: never
	Restrictions *Restrictions // nil: none
	Grants       map[uuid.UUID][]Grant
	Maker        string    // who made the credential, or its present secret; "" when nobody knows
	Session      uuid.UUID // with KindSession: which
	Security     *Security // what the tenant has settled; nil: nothing

	rights ScopeSet // of Scopes, with what coarse ones cover; 0: not worked out
}

// Has reports whether the principal has the scope, by itself or by a coarse one that covers it.
func (p *Principal) Has(s Scope) bool { return p.rightSet().Has(s) }

// Limited reports whether the credential is limited to some keys or operations of its tenant: then it is told of those alone, and does nothing that is about
// all.
func (p *Principal) Limited() bool { return p.Restrictions.narrows() }

// rightSet gives all scopes, coarse ones with what they cover.
func (p *Principal) rightSet() ScopeSet {
	if p.rights != 0 || len(p.Scopes) == 0 {
		return p.rights
	}
	return rights(p.Scopes)
}

// LatestDate is the last moment that can be kept and shown: years have four digits (RFC 3339 section 5.6), in UTC.
func LatestDate() time.Time {
	return time.Date(9999, time.December, 31, 23, 59, 59, 999_999_000, time.UTC)
}

// APIKey is the record of an API key. MAC is HMAC-SHA-256 of the whole presented key under the pepper. While a rotation overlaps,
// the secret before is good as well: then Previous says until when.
type APIKey struct {
	ID           uuid.UUID
	Tenant       uuid.UUID
	Name         string
	Brand        string
	Prefix       string
	MAC          [32]byte
	Role         Role
	Scopes       []Scope // beside those of the role
	Restrictions Restrictions
	CreatedAt    time.Time
	ExpiresAt    time.Time // zero: never
	RevokedAt    time.Time // zero: not revoked
	CreatedBy    string
	RotatedAt    time.Time // zero: never
	RotatedBy    string
	Previous     PreviousSecret
	Makers       []string  // all others who were ever shown a secret of it; see makers
	ShownAt      time.Time // when another than itself was last; zero: when it was made
}

// PreviousSecret is that of an API key before its last rotation.
type PreviousSecret struct {
	Prefix string
	MAC    [32]byte
	Until  time.Time // zero: there is none
}

// Effective gives all scopes of the key: those of its role and its own.
func (k *APIKey) Effective() []Scope {
	return (SetOf(k.Role.Scopes()...) | SetOf(k.Scopes...)).List()
}

// Store keeps tenants, API keys and grants. The methods that change something prepare a Change for the audit log to carry out.
type Store interface {
	// APIKeyByPrefix finds a record by brand and prefix, or the prefix before its rotation, over all tenants, or fault.APIKeyNotFound.
	APIKeyByPrefix(ctx context.Context, brand, prefix string) (*APIKey, error)
	// APIKey finds a record of the tenant, or fault.APIKeyNotFound.
	APIKey(ctx context.Context, tenant, id uuid.UUID) (*APIKey, error)
	// APIKeys lists the tenant's records by id, after the cursor (zero: from the start).
	APIKeys(ctx context.Context, tenant uuid.UUID, after uuid.UUID, limit int) ([]*APIKey, error)
	// InsertAPIKey adds a record. fault.Conflict when the id, or the prefix under the brand, exists; fault.QuotaExceeded when the tenant
	// has as many as it may: keys that are revoked, or expired when k was made, are not counted.
	InsertAPIKey(k *APIKey) audit.Change
	// RotateAPIKey replaces secret, previous secret, RotatedAt and RotatedBy of a key that is not revoked and whose MAC is still old:
	// else fault.Conflict, as when the prefix under the brand exists. fault.APIKeyNotFound.
	RotateAPIKey(k *APIKey, old [32]byte) audit.Change
	// RevokeAPIKey sets RevokedAt once; a second revocation changes nothing and is no error.
	RevokeAPIKey(tenant, id uuid.UUID, at time.Time) audit.Change

	// GrantsOf lists what is granted to a principal of the tenant, by id, up to MaxGrants.
	GrantsOf(ctx context.Context, tenant uuid.UUID, principal string) ([]*Grant, error)

	// Tenant finds a tenant, or fault.TenantNotFound.
	Tenant(ctx context.Context, id uuid.UUID) (*Tenant, error)
	// Tenants lists the tenants by id, after the cursor (zero: from the start).
	Tenants(ctx context.Context, after uuid.UUID, limit int) ([]*Tenant, error)
	// Usage counts what the tenant has at a time, which it need not say; nothing when there is no such tenant.
	Usage(ctx context.Context, tenant uuid.UUID, now time.Time) (Usage, error)
	// InsertTenant adds a tenant. fault.Conflict when the id exists, fault.NameTaken.
	InsertTenant(t *Tenant) audit.Change
	// UpdateTenant replaces name, status, quotas, plan and security if the stored revision is t.Revision, and adds one to it; else fault.Conflict. Also
	// fault.NameTaken.
	UpdateTenant(t *Tenant) audit.Change

	SessionStore
}
