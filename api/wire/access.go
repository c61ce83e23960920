package wire

import "time"

// Quotas bound what a tenant can have; 0: as many as it likes.
type Quotas struct {
	Keys    int64 `json:"keys,omitempty"`
	APIKeys int64 `json:"api_keys,omitempty"`
}

// Tenant is the owner of keys, API keys and audit entries.
type Tenant struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Status    string    `json:"status"` // active or suspended
	Quotas    Quotas    `json:"quotas"`
	Plan      string    `json:"plan,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Usage is what a tenant has of its quotas, and has done today of what its plan allows.
type Usage struct {
	Tenant          string    `json:"tenant"`
	Plan            string    `json:"plan,omitempty"`
	Keys            Amount    `json:"keys"`             // that are not destroyed
	APIKeys         Amount    `json:"api_keys"`         // that are neither revoked nor expired
	OperationsToday Amount    `json:"operations_today"` // with keys; counted under a plan that limits them alone, in blocks that nodes set aside
	DayEndsAt       time.Time `json:"day_ends_at"`      // midnight, UTC
}

// Amount is how much there is of what is limited.
type Amount struct {
	Used  int64 `json:"used"`
	Limit int64 `json:"limit,omitempty"` // absent: none
}

// CreateTenant is POST /tenants.
type CreateTenant struct {
	Name   string  `json:"name"`
	Quotas *Quotas `json:"quotas,omitempty"`
	Plan   string  `json:"plan,omitempty"`
}

// RecoverTenant is POST /tenants/{id}/recover.
type RecoverTenant struct {
	Name string `json:"name,omitempty"`
}

// CreatedTenant is its answer: OwnerKey is the tenant's first API key, shown this once.
type CreatedTenant struct {
	Tenant
	OwnerKey APIKey `json:"owner_key"`
}

// UpdateTenant is PATCH /tenants/{id}: what is absent stays.
type UpdateTenant struct {
	Name   *string       `json:"name,omitempty"`
	Quotas *UpdateQuotas `json:"quotas,omitempty"`
	Plan   *string       `json:"plan,omitempty"`
}

// UpdateQuotas changes the quotas that it names; 0 takes one away.
type UpdateQuotas struct {
	Keys    *int64 `json:"keys,omitempty"`
	APIKeys *int64 `json:"api_keys,omitempty"`
}

// CreateAPIKey is POST /api-keys. Role and scopes must be within the caller's own, and the caller's restrictions are laid over those asked
// for. A restriction that is absent restricts nothing.
type CreateAPIKey struct {
	Name         string            `json:"name"`
	Role         string            `json:"role,omitempty"`
	Scopes       []string          `json:"scopes,omitempty"`
	ExpiresAt    *time.Time        `json:"expires_at,omitempty"`
	Brand        string            `json:"brand,omitempty"`
	Keys         []string          `json:"keys,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Operations   []string          `json:"operations,omitempty"`
	AllowedCIDRs []string          `json:"allowed_cidrs,omitempty"`
	RateLimit    int               `json:"rate_limit,omitempty"` // requests a minute
}

// APIKey is a record; Key is shown once, in the answer to its creation or rotation.
type APIKey struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Brand         string            `json:"brand"`
	Prefix        string            `json:"prefix"`
	Role          string            `json:"role,omitempty"`
	Scopes        []string          `json:"scopes"` // those of the role included
	Keys          []string          `json:"keys,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Operations    []string          `json:"operations,omitempty"`
	AllowedCIDRs  []string          `json:"allowed_cidrs,omitempty"`
	RateLimit     int               `json:"rate_limit,omitempty"`
	CreatedAt     time.Time         `json:"created_at"`
	CreatedBy     string            `json:"created_by"`
	ExpiresAt     *time.Time        `json:"expires_at,omitempty"`
	RotatedAt     *time.Time        `json:"rotated_at,omitempty"`
	PreviousUntil *time.Time        `json:"previous_until,omitempty"` // the secret before the rotation is good until then
	RevokedAt     *time.Time        `json:"revoked_at,omitempty"`
	Key           string            `json:"key,omitempty"`
}

// RotateAPIKey is POST /api-keys/{id}/rotate. Overlap is a Go duration string ("24h"), for which the old secret stays good; absent: it ends
// at once.
type RotateAPIKey struct {
	Overlap string `json:"overlap,omitempty"`
}

// Me is GET /me: who is calling, and what the credential is good for.
type Me struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Tenant       string            `json:"tenant"`
	TenantName   string            `json:"tenant_name"`
	Role         string            `json:"role,omitempty"`
	Scopes       []string          `json:"scopes"`
	ExpiresAt    *time.Time        `json:"expires_at,omitempty"`
	Keys         []string          `json:"keys,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Operations   []string          `json:"operations,omitempty"`
	AllowedCIDRs []string          `json:"allowed_cidrs,omitempty"`
	RateLimit    int               `json:"rate_limit,omitempty"`
}

// Quorum marks operations on a key that take the approval of several: of those named, or of all of a role.
type Quorum struct {
	Operations []string `json:"operations"`
	Approvals  int      `json:"approvals"`
	Approvers  []string `json:"approvers,omitempty"`
	Role       string   `json:"role,omitempty"`
}

// Grant is the right of one principal to named operations on one key.
type Grant struct {
	ID         string            `json:"id"`
	KeyID      string            `json:"key_id"`
	Principal  string            `json:"principal"`
	Named      string            `json:"named,omitempty"`
	Operations []string          `json:"operations"`
	Context    map[string]string `json:"context,omitempty"`
	ExpiresAt  *time.Time        `json:"expires_at,omitempty"`
	CreatedAt  time.Time         `json:"created_at"`
	CreatedBy  string            `json:"created_by"`
}

// PutGrant is PUT /keys/{key}/grants/{id}.
type PutGrant struct {
	Principal  string            `json:"principal"`
	Operations []string          `json:"operations"`
	Context    map[string]string `json:"context,omitempty"`
	ExpiresAt  *time.Time        `json:"expires_at,omitempty"`
}

// RequestApproval is POST /approvals. Body is the JSON of the request that is to be approved, as a string; absent: it has none. Target is
// what its path names beside the key: the number of a version, or the id of a grant.
type RequestApproval struct {
	Key       string `json:"key"`
	Operation string `json:"operation"`
	Target    string `json:"target,omitempty"`
	Body      string `json:"body,omitempty"`
	Reason    string `json:"reason,omitempty"`
	ExpiresIn string `json:"expires_in,omitempty"` // Go duration string; absent: 24h
}

// Approval is a request that takes the consent of others. Digest binds it to one request.
type Approval struct {
	ID          string     `json:"id"`
	State       string     `json:"state"` // pending, approved, rejected, expired or used
	KeyID       string     `json:"key_id"`
	Operation   string     `json:"operation"`
	Target      string     `json:"target,omitempty"`
	Digest      []byte     `json:"digest"`
	Reason      string     `json:"reason,omitempty"`
	RequestedBy string     `json:"requested_by"`
	Needed      int        `json:"needed"`
	Votes       []Vote     `json:"votes"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at"`
	UsedAt      *time.Time `json:"used_at,omitempty"`
}

// Vote is what one principal said to a request for approval.
type Vote struct {
	Principal string    `json:"principal"`
	Approves  bool      `json:"approves"`
	Counts    bool      `json:"counts"`
	At        time.Time `json:"at"`
}

// Authorize is POST /authorize: what would be decided. Principal is another API key of the tenant, by "api-key:" and its id; absent: the caller.
type Authorize struct {
	Operation string            `json:"operation"`
	Key       string            `json:"key,omitempty"`
	Context   map[string]string `json:"context,omitempty"`
	Principal string            `json:"principal,omitempty"`
	Resource  string            `json:"resource,omitempty"` // job:, api-key: or tenant: and an id
}

// Authorized is its answer.
type Authorized struct {
	Allowed     bool   `json:"allowed"`
	Rule        string `json:"rule"`
	Explanation string `json:"explanation"`
	ErrorCode   string `json:"error_code,omitempty"`
	GrantID     string `json:"grant_id,omitempty"`
	Note        string `json:"note,omitempty"`
}
