package api

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

// Keys is the key service: every rule about keys lives behind it. *keys.Service is the implementation.
type Keys interface {
	keys.API
	// IsDefault reports whether a key, as Get gave it, is its tenant's default for its purpose.
	IsDefault(ctx context.Context, k *keys.Key) (bool, error)
}

// Auth says who calls, and keeps the tenants and their API keys. *auth.Service is the implementation.
type Auth interface {
	// Authenticate gives the principal of a credential presented from an address, or fault.Unauthenticated. With a refusal that comes back
	// with a principal it is known whose credential it is.
	Authenticate(ctx context.Context, presented string, from netip.Addr) (*auth.Principal, auth.Decision, error)
	// AuthenticateConnection is the same of a caller who presents nothing, for what the transport has proven of it.
	AuthenticateConnection(ctx context.Context, c *auth.Connection) (*auth.Principal, auth.Decision, error)
	// PrincipalNamed gives a principal of the tenant, for dry runs, and whether that is all that it may do.
	PrincipalNamed(ctx context.Context, tenant uuid.UUID, text string) (p *auth.Principal, known bool, err error)
	// CreateAPIKey gives the record and, this once, the key itself, as RotateAPIKey does.
	CreateAPIKey(ctx context.Context, creator *auth.Principal, r auth.CreateRequest, requestID string, t idempotency.Token) (*auth.APIKey, string, error)
	RotateAPIKey(ctx context.Context, caller *auth.Principal, r auth.RotateRequest, requestID string, t idempotency.Token) (*auth.APIKey, string, error)
	RevokeAPIKey(ctx context.Context, caller *auth.Principal, id uuid.UUID, requestID string) error
	APIKey(ctx context.Context, caller *auth.Principal, id uuid.UUID) (*auth.APIKey, error)
	APIKeys(ctx context.Context, caller *auth.Principal, cursor string, limit int) (page []*auth.APIKey, next string, err error)
	// AboutAPIKey gives a key as what the principal does the act to, for dry runs.
	AboutAPIKey(ctx context.Context, k *auth.APIKey, action string, p *auth.Principal) (*auth.Resource, error)

	// CreateTenant also gives the tenant's first API key, this once.
	CreateTenant(ctx context.Context, caller *auth.Principal, r auth.CreateTenantRequest, requestID string, t idempotency.Token) (*auth.Tenant, *auth.APIKey, string, error)
	// RecoverTenant gives a tenant another owner's API key, this once.
	RecoverTenant(ctx context.Context, caller *auth.Principal, id uuid.UUID, name, requestID string, t idempotency.Token) (*auth.APIKey, string, error)
	UpdateTenant(ctx context.Context, caller *auth.Principal, id uuid.UUID, u auth.TenantUpdate, requestID string) (*auth.Tenant, error)
	SuspendTenant(ctx context.Context, caller *auth.Principal, id uuid.UUID, requestID string) (*auth.Tenant, error)
	ResumeTenant(ctx context.Context, caller *auth.Principal, id uuid.UUID, requestID string) (*auth.Tenant, error)
	Tenant(ctx context.Context, caller *auth.Principal, id uuid.UUID) (*auth.Tenant, error)
	Usage(ctx context.Context, caller *auth.Principal, id uuid.UUID) (*auth.Tenant, auth.Usage, error)
	Tenants(ctx context.Context, caller *auth.Principal, cursor string, limit int) (page []*auth.Tenant, next string, err error)

	Sessions
}

// Root is the keeper of the root secret. *root.Keeper is the implementation.
type Root interface {
	// Locked reports whether the root is not open. It is asked on every request.
	Locked() bool
	// Slots lists the slots, oldest first.
	Slots(ctx context.Context) ([]*root.Slot, error)
	AddSlot(ctx context.Context, who root.Caller, n root.NewSlot) (*root.Added, error)
	RemoveSlot(ctx context.Context, who root.Caller, id uuid.UUID) error
	UnlockPassphrase(ctx context.Context, who root.Caller, passphrase secret.Bytes) error
	UnlockKeyFile(ctx context.Context, who root.Caller, key secret.Bytes) error
	// UnlockShares also says how many shares are still missing.
	UnlockShares(ctx context.Context, who root.Caller, shares []string) (missing int, err error)
}

// Audit is the log: for reading, and to record who was denied by scope. It gives entries of every tenant: handlers hold each read to the principal's.
// *audit.Log is the implementation.
type Audit interface {
	audit.Recorder
	ListTold(ctx context.Context, f audit.Filter, told func(*audit.Entry) (bool, error), cursor string, limit int) (found []audit.Found, next string, err error)
	Get(ctx context.Context, index uint64) (audit.Found, error)
	Prove(ctx context.Context, index uint64) (*audit.Proof, error)
	ProveIn(ctx context.Context, index, size uint64) (*audit.Proof, error)
	ConsistencyProof(ctx context.Context, from, to uint64) ([][32]byte, error)
	Checkpoint(ctx context.Context) ([]byte, error)
	VerifierKey(ctx context.Context) (string, error)
	PostQuantumVerifierKey(ctx context.Context) (string, error)
	// Cosigned gives the newest checkpoint that a witness has cosigned, nil when there is none.
	Cosigned(ctx context.Context) ([]byte, error)
	// Export writes the whole log with its checkpoint, in the form that audit.VerifyExport checks.
	Export(ctx context.Context, w io.Writer, progress func(n uint64)) (audit.Checkpoint, error)
}

// Events are the streams of changes. *events.Streams is the implementation.
type Events interface {
	// Open begins a stream of the tenant's events behind the one with the id after; nil: from now on.
	Open(ctx context.Context, tenant uuid.UUID, after *uint64, filter events.Filter) (*events.Stream, error)
	// Over is closed when the streams are to end.
	Over() <-chan struct{}
}

// Webhooks are the receivers of a tenant. *events.Webhooks is the implementation.
type Webhooks interface {
	// Add gives the webhook and, this once, its secret; so does RotateSecret.
	Add(ctx context.Context, c events.Caller, n events.NewWebhook) (*events.Hook, string, error)
	RotateSecret(ctx context.Context, c events.Caller, id uuid.UUID, overlap time.Duration) (*events.Hook, string, error)
	Get(ctx context.Context, c events.Caller, id uuid.UUID) (*events.Hook, error)
	List(ctx context.Context, c events.Caller, cursor string, limit int) (page []*events.Hook, next string, err error)
	Remove(ctx context.Context, c events.Caller, id uuid.UUID) error
	Enable(ctx context.Context, c events.Caller, id uuid.UUID) (*events.Hook, error)
	Disable(ctx context.Context, c events.Caller, id uuid.UUID) (*events.Hook, error)
	Test(ctx context.Context, c events.Caller, id uuid.UUID) (*wire.WebhookTest, error)
}

// Jobs is the work that outlives requests. *jobs.Service is the implementation.
type Jobs interface {
	List(ctx context.Context, c jobs.Caller, r jobs.ListRequest) (page []*jobs.Job, next string, err error)
	Get(ctx context.Context, c jobs.Caller, id uuid.UUID) (*jobs.Job, error)
	Cancel(ctx context.Context, c jobs.Caller, id uuid.UUID) (*jobs.Job, error)
}

// Limiter decides whether a caller has asked too often. *ratelimit.Limiter is the implementation.
type Limiter interface {
	Take(ctx context.Context, demands ...ratelimit.Demand) (ratelimit.Decision, error)
}

// Denials counts requests without a valid credential. *audit.Denials is the implementation.
type Denials interface {
	// Add counts one. It does not wait.
	Add(reason string)
}
