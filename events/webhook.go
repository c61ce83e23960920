package events

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
)

// State of a webhook.
type State string

const (
	StateActive   State = "active"
	StateDisabled State = "disabled" // nothing is delivered; what comes meanwhile is, once it is enabled again
)

// Why a webhook is disabled.
const (
	ReasonByHand = "by hand"
	ReasonGone   = "gone" // the receiver answered 410
)

// Webhook is a receiver of events that a tenant has named.
type Webhook struct {
	ID, Tenant uuid.UUID
	Name       string
	URL        string
	Filter     Filter
	State      State
	Reason     string    // of StateDisabled
	Secret     []byte    // sealed; see docs/formats/webhook.md
	Prior      []byte    // sealed: the secret before, with which is signed as well
	PriorUntil time.Time // until when
	CreatedAt  time.Time
	UpdatedAt  time.Time
	CreatedBy  string
	Revision   int64 // 1 at first; grows by one with each change
}

// Progress is how the deliveries to a webhook go. It is bookkeeping: no entry of the audit log tells of it.
type Progress struct {
	Webhook     uuid.UUID
	Next        uint64 // all events below this index were delivered, given up, or not selected
	Attempts    int    // that have failed since the last success
	TryAt       time.Time
	LastSuccess time.Time
	LastFailure time.Time
	LastStatus  int    // of HTTP; 0: there was no answer
	LastError   string // from a fixed vocabulary
	Delivered   uint64
	GivenUp     uint64
}

// Hook is a webhook with its progress.
type Hook struct {
	Webhook
	Progress Progress
}

// Store keeps webhooks. Implementations: store/sqlite, store/postgres; suite: store/storetest. The methods that change something and take no
// context prepare a Change for the audit log to carry out.
type Store interface {
	// Webhook finds one of the tenant, or fault.WebhookNotFound.
	Webhook(ctx context.Context, tenant, id uuid.UUID) (*Hook, error)
	// Webhooks lists the tenant's by id, after the cursor (zero: from the start).
	Webhooks(ctx context.Context, tenant, after uuid.UUID, limit int) ([]*Hook, error)
	// ActiveWebhooks lists those of all tenants that are active, by id, after the cursor.
	ActiveWebhooks(ctx context.Context, after uuid.UUID, limit int) ([]*Hook, error)
	// InsertWebhook adds one, with deliveries from index next on. fault.Conflict when the id exists.
	InsertWebhook(w *Webhook, next uint64) audit.Change
	// UpdateWebhook replaces one whose stored revision is one less. fault.Conflict when it is another, fault.WebhookNotFound when there is none.
	UpdateWebhook(w *Webhook) audit.Change
	// DeleteWebhook removes one with its progress. fault.WebhookNotFound.
	DeleteWebhook(tenant, id uuid.UUID) audit.Change
	// SaveWebhookProgress keeps p, durable when it returns, unless what is kept is further on; that, and a webhook that is not there, is no error.
	SaveWebhookProgress(ctx context.Context, p *Progress) error
}
