package wire

import "time"

// Event is one change of the tenant, as GET /events and webhooks tell it.
type Event struct {
	ID        uint64    `json:"id"` // of the audit entry that tells of it
	Time      time.Time `json:"time"`
	Type      string    `json:"type"`
	Key       *EventKey `json:"key,omitempty"`
	Job       string    `json:"job,omitempty"`
	Resource  string    `json:"resource,omitempty"`
	Principal string    `json:"principal"`
	Outcome   string    `json:"outcome,omitempty"` // an error code, when it is not ok
	Detail    string    `json:"detail,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
}

// EventKey is the key that an event is about. The name is that at the time of reading.
type EventKey struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Version uint32 `json:"version,omitempty"`
}

// CreateWebhook is POST /webhooks.
type CreateWebhook struct {
	Name  string   `json:"name"`
	URL   string   `json:"url"`
	Types []string `json:"types,omitempty"`
	Keys  []string `json:"keys,omitempty"`
	Label string   `json:"label,omitempty"`
}

// Webhook is a receiver of events. Secret is shown once: when it is made, and when it is rotated.
type Webhook struct {
	ID             string          `json:"id"`
	Name           string          `json:"name"`
	URL            string          `json:"url"`
	Types          []string        `json:"types"`
	Keys           []string        `json:"keys"`
	Label          string          `json:"label,omitempty"`
	State          string          `json:"state"`            // active or disabled
	Reason         string          `json:"reason,omitempty"` // of being disabled: by hand, or gone
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	CreatedBy      string          `json:"created_by"`
	OldSecretUntil *time.Time      `json:"old_secret_until,omitempty"`
	Delivery       WebhookDelivery `json:"delivery"`
	Secret         string          `json:"secret,omitempty"`
}

// WebhookDelivery is how the deliveries to a webhook go.
type WebhookDelivery struct {
	Next        uint64     `json:"next"` // the event id from which on nothing was delivered yet
	Delivered   uint64     `json:"delivered"`
	GivenUp     uint64     `json:"given_up"`
	Attempts    int        `json:"attempts"` // that have failed since the last success
	LastSuccess *time.Time `json:"last_success,omitempty"`
	LastFailure *time.Time `json:"last_failure,omitempty"`
	LastStatus  int        `json:"last_status,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
	NextTry     *time.Time `json:"next_try,omitempty"`
}

// RotateWebhookSecret is POST /webhooks/{id}/rotate-secret.
type RotateWebhookSecret struct {
	OverlapHours *int `json:"overlap_hours,omitempty"` // 0 to 168; 24 when absent
}

// WebhookTest is what became of a ping.
type WebhookTest struct {
	Delivered bool   `json:"delivered"`
	Status    int    `json:"status,omitempty"`
	Error     string `json:"error,omitempty"`
	LatencyMS int64  `json:"latency_ms"`
}
