package wire

import "time"

// Session is who has signed in, and until when.
type Session struct {
	ID            string     `json:"id"`
	Principal     string     `json:"principal"`
	Name          string     `json:"name"`
	Kind          string     `json:"kind"` // of the credential that it was made of: token, certificate or peer
	Role          string     `json:"role,omitempty"`
	Scopes        []string   `json:"scopes"`
	Tenant        string     `json:"tenant"`
	TenantName    string     `json:"tenant_name"`
	CreatedAt     time.Time  `json:"created_at"`
	SeenAt        time.Time  `json:"seen_at"`
	IdleExpiresAt time.Time  `json:"idle_expires_at"`
	ExpiresAt     time.Time  `json:"expires_at"`
	EndedAt       *time.Time `json:"ended_at,omitempty"`
	CSRFToken     string     `json:"csrf_token,omitempty"` // of the own session alone
}

// SecuritySettings is GET /settings/security, and the answer to PATCH. What is absent is not settled.
type SecuritySettings struct {
	APIKeyMaxLifetime string   `json:"api_key_max_lifetime,omitempty"`
	AllowedCIDRs      []string `json:"allowed_cidrs,omitempty"`
	SessionIdle       string   `json:"session_idle,omitempty"`
	SessionLifetime   string   `json:"session_lifetime,omitempty"`
}

// UpdateSecurity is PATCH /settings/security: what is absent stays; 0s, and an empty list, take away what is settled.
type UpdateSecurity struct {
	APIKeyMaxLifetime *string   `json:"api_key_max_lifetime,omitempty"`
	AllowedCIDRs      *[]string `json:"allowed_cidrs,omitempty"`
	SessionIdle       *string   `json:"session_idle,omitempty"`
	SessionLifetime   *string   `json:"session_lifetime,omitempty"`
}
