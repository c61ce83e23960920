package wire

import "time"

// Policy is what the owner allows a key to do. Durations are Go duration strings ("720h").
type Policy struct {
	Operations         []string `json:"operations,omitempty"`
	Exportable         bool     `json:"exportable,omitempty"`
	RotationPeriod     string   `json:"rotation_period,omitempty"`
	DeletionProtection bool     `json:"deletion_protection,omitempty"`
	RequiredContext    []string `json:"required_context,omitempty"`
	UsageLimit         int64    `json:"usage_limit,omitempty"`
	RequireAttestation bool     `json:"require_attestation,omitempty"`
	GrantsOnly         bool     `json:"grants_only,omitempty"`
	Quorum             *Quorum  `json:"quorum,omitempty"`

	RotateAfterMessages int64      `json:"rotate_after_messages,omitempty"`
	RotateAfterBytes    int64      `json:"rotate_after_bytes,omitempty"`
	ActivatesAt         *time.Time `json:"activates_at,omitempty"`
	ExpiresAt           *time.Time `json:"expires_at,omitempty"`
}

// CreateKey is POST /keys. Origin "imported" makes a key that waits for its material.
type CreateKey struct {
	Name      string            `json:"name"`
	Algorithm string            `json:"algorithm"`
	Purpose   string            `json:"purpose,omitempty"`
	Backend   string            `json:"backend,omitempty"`
	Custody   string            `json:"custody,omitempty"`
	Origin    string            `json:"origin,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Policy    *Policy           `json:"policy,omitempty"`
	Default   bool              `json:"default,omitempty"`
}

// UpdateKey is PATCH /keys/{key}: what is absent stays. A label set to null is removed.
type UpdateKey struct {
	Name              *string            `json:"name,omitempty"`
	Labels            map[string]*string `json:"labels,omitempty"`
	Policy            *Policy            `json:"policy,omitempty"`
	MinDecryptVersion *uint32            `json:"min_decrypt_version,omitempty"`
	MinEncryptVersion *uint32            `json:"min_encrypt_version,omitempty"`
	Default           *bool              `json:"default,omitempty"`
}

// DeleteKey is the optional body of DELETE /keys/{key}.
type DeleteKey struct {
	WaitingPeriodDays int `json:"waiting_period_days,omitempty"` // 7 to 30; 0: 30
}

// Key is a key as every answer shows it.
type Key struct {
	ID                string            `json:"id"`
	Name              string            `json:"name"`
	Algorithm         string            `json:"algorithm"`
	Purpose           string            `json:"purpose"`
	Backend           string            `json:"backend"`
	Custody           string            `json:"custody"`
	CustodyCaveat     string            `json:"custody_caveat,omitempty"`
	Origin            string            `json:"origin"`
	State             string            `json:"state"`
	PrimaryVersion    uint32            `json:"primary_version"`
	LatestVersion     uint32            `json:"latest_version"`
	MinDecryptVersion uint32            `json:"min_decrypt_version"`
	MinEncryptVersion uint32            `json:"min_encrypt_version"`
	Labels            map[string]string `json:"labels"`
	Policy            Policy            `json:"policy"`
	CreatedAt         time.Time         `json:"created_at"`
	UpdatedAt         time.Time         `json:"updated_at"`
	RotatedAt         *time.Time        `json:"rotated_at,omitempty"`
	NextRotationAt    *time.Time        `json:"next_rotation_at,omitempty"`
	ActivatesAt       *time.Time        `json:"activates_at,omitempty"`
	ExpiresAt         *time.Time        `json:"expires_at,omitempty"`
	DeletionAt        *time.Time        `json:"scheduled_deletion_at,omitempty"`
}

// KeyVersion is one version as GET /keys/{key}/versions shows it.
type KeyVersion struct {
	Version        uint32    `json:"version"`
	State          string    `json:"state"`
	Origin         string    `json:"origin"`
	Backend        string    `json:"backend"`
	Custody        string    `json:"custody"`
	CustodyCaveat  string    `json:"custody_caveat,omitempty"`
	CreatedAt      time.Time `json:"created_at"`
	StateChangedAt time.Time `json:"state_changed_at"`
	Messages       int64     `json:"messages,omitempty"`
	Bytes          int64     `json:"bytes,omitempty"`
	MessageLimit   int64     `json:"message_limit,omitempty"`
	ByteLimit      int64     `json:"byte_limit,omitempty"`
}

// SetState is POST /keys/{key}/versions/{n}/state.
type SetState struct {
	State string `json:"state"`
}

// ImportParameters is GET /keys/import-parameters.
type ImportParameters struct {
	ImportToken       string    `json:"import_token"`
	PublicKey         string    `json:"public_key"` // PEM
	WrappingAlgorithm string    `json:"wrapping_algorithm"`
	ExpiresAt         time.Time `json:"expires_at"`
}

// ImportKey is POST /keys/import: key (an existing one), or the fields of CreateKey for a new one; import_token with
// wrapped_key, or public_key (PEM) for a key that verifies and encrypts only.
type ImportKey struct {
	Key         string            `json:"key,omitempty"`
	Name        string            `json:"name,omitempty"`
	Algorithm   string            `json:"algorithm,omitempty"`
	Purpose     string            `json:"purpose,omitempty"`
	Backend     string            `json:"backend,omitempty"`
	Custody     string            `json:"custody,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Policy      *Policy           `json:"policy,omitempty"`
	ImportToken string            `json:"import_token,omitempty"`
	WrappedKey  []byte            `json:"wrapped_key,omitempty"`
	PublicKey   string            `json:"public_key,omitempty"`
}

// ExportKey is POST /keys/{key}/export: to is a key of the tenant (RSA, for encryption), or public_key is PEM.
type ExportKey struct {
	To        string `json:"to,omitempty"`
	PublicKey string `json:"public_key,omitempty"`
	Hash      string `json:"hash,omitempty"`
	Version   uint32 `json:"key_version,omitempty"`
}

// ExportedKey is its answer.
type ExportedKey struct {
	WrappedKey        []byte `json:"wrapped_key"`
	WrappingAlgorithm string `json:"wrapping_algorithm"`
	KeyID             string `json:"key_id"`
	KeyVersion        uint32 `json:"key_version"`
}

// PublicKey is GET /keys/{key}/public with format pem or raw; with jwk the answer is the bare JWK (RFC 7517). Fields from
// Name on appear when include= asks for them.
type PublicKey struct {
	ID            string            `json:"id"`
	Algorithm     string            `json:"algorithm"`
	KeyVersion    uint32            `json:"key_version"`
	Format        string            `json:"format"`
	PublicKey     string            `json:"public_key"`
	Name          *string           `json:"name,omitempty"`
	Description   *string           `json:"description,omitempty"`
	KeyType       *string           `json:"key_type,omitempty"`
	IsPostQuantum *bool             `json:"is_post_quantum,omitempty"`
	IsActive      *bool             `json:"is_active,omitempty"`
	IsDefault     *bool             `json:"is_default,omitempty"`
	CreatedAt     *time.Time        `json:"created_at,omitempty"`
	ExpiresAt     *time.Time        `json:"expires_at,omitempty"`
	LastRotatedAt *time.Time        `json:"last_rotated_at,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	State         *string           `json:"state,omitempty"`
	ScheduledAt   *time.Time        `json:"scheduled_deletion_date,omitempty"`
}
