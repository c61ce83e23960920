package events

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cursor"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Actions of this package in the audit log.
const (
	ActionCreate  = "webhook.create"
	ActionRemove  = "webhook.remove"
	ActionEnable  = "webhook.enable"
	ActionDisable = "webhook.disable"
	ActionRotate  = "webhook.rotate-secret"
	ActionTest    = "webhook.test"
)

// Bounds of a tenant's webhooks.
const (
	MostWebhooks = 32  // of a tenant
	MaxName      = 128 // bytes of printable UTF-8
	// DefaultOverlap and MaxOverlap are how long the secret before signs as well.
	DefaultOverlap = 24 * time.Hour
	MaxOverlap     = 7 * 24 * time.Hour
)

// Derive gives a key of the root by its label: root.Keeper.Derive.
type Derive func(label string) (secret.Bytes, error)

// Caller is who asks. What he may do, the front end has decided.
type Caller struct {
	Tenant    uuid.UUID
	Principal string
	RequestID string
	Judge     Judge // nil: the program itself
}

// Judge says whether who asks may do what the audit log calls so, and gives the refusal; nil for a permission. It asks auth.Decide.
type Judge interface{ May(action string) error }

// may asks the judge. Without one the program itself asks.
func (c Caller) may(action string) error {
	if c.Judge == nil {
		return nil
	}
	return c.Judge.May(action)
}

// Options of Webhooks. Store, Recorder, Feed and Derive are required.
type Options struct {
	Store    Store
	Recorder audit.Recorder
	Feed     *Feed
	Derive   Derive
	Reach    Reach
	// UserAgent is what receivers see. Default "Keywright-Webhooks".
	UserAgent string
	Now       func() time.Time // time.Now when nil
	Logger    *slog.Logger
	// Registerer takes the metrics. Default: there are none.
	Registerer prometheus.Registerer
	// FirstWait is the wait after a first failure; it doubles with each more, up to MaxWait. Defaults: 1 s and 15 min.
	FirstWait, MaxWait time.Duration
}

// Webhooks keeps the receivers of all tenants and calls them. It is safe for concurrent use. It delivers only while Deliver runs.
type Webhooks struct {
	o       Options
	reach   *reach
	http    *http.Client
	metrics *metrics
	calls   chan struct{} // holds a token for each call under way
}

// New makes Webhooks. The error is of a Reach that cannot be understood, or of a metric whose name is taken.
func New(o Options) (*Webhooks, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.UserAgent == "" {
		o.UserAgent = "Keywright-Webhooks"
	}
	if o.FirstWait <= 0 {
		o.FirstWait = time.Second
	}
	if o.MaxWait <= 0 {
		o.MaxWait = 15 * time.Minute
	}
	r, err := newReach(o.Reach)
	if err != nil {
		return nil, err
	}
	w := &Webhooks{o: o, reach: r, http: r.client(), calls: make(chan struct{}, callsAtOnce)}
	if w.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, err
	}
	return w, nil
}

// NewWebhook says what to make.
type NewWebhook struct {
	Name   string
	URL    string
	Filter Filter
}

// Add makes a webhook, from now on, and gives its secret this once: whsec_ and base64. fault.BadField, BadName; Forbidden beyond MostWebhooks.
func (s *Webhooks) Add(ctx context.Context, c Caller, n NewWebhook) (*Hook, string, error) {
	start := s.o.Now()
	e := audit.Entry{Tenant: c.Tenant, Principal: c.Principal, Action: ActionCreate, RequestID: c.RequestID}
	h, shown, err := s.add(ctx, c, n, start, &e)
	if err != nil {
		return nil, "", s.refused(ctx, start, &e, err)
	}
	return h, shown, nil
}

func (s *Webhooks) add(ctx context.Context, c Caller, n NewWebhook, start time.Time, e *audit.Entry) (*Hook, string, error) {
	if err := c.may(ActionCreate); err != nil {
		return nil, "", err
	}
	if err := checkName(n.Name); err != nil {
		return nil, "", err
	}
	if err := s.reach.checkURL(n.URL); err != nil {
		return nil, "", err
	}
	if err := n.Filter.check(); err != nil {
		return nil, "", err
	}
	there, err := s.o.Store.Webhooks(ctx, c.Tenant, uuid.Nil, MostWebhooks)
	if err != nil {
		return nil, "", fmt.Errorf("counting webhooks: %w", err)
	}
	if len(there) >= MostWebhooks {
		return nil, "", fault.New(fault.Forbidden, fmt.Sprintf("a tenant has at most %d webhooks", MostWebhooks))
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, "", fmt.Errorf("making an id: %w", err)
	}
	now := start.UTC().Truncate(time.Microsecond) // what every store keeps
	h := &Hook{Webhook: Webhook{ID: id, Tenant: c.Tenant, Name: n.Name, URL: n.URL, Filter: n.Filter, State: StateActive,
		CreatedAt: now, UpdatedAt: now, CreatedBy: c.Principal, Revision: 1}}
	raw, shown := newSecret()
	defer raw.Wipe()
	if h.Secret, err = seal(s.o.Derive, raw, &h.Webhook); err != nil {
		return nil, "", err
	}
	next, err := s.o.Feed.Head(ctx)
	if err != nil {
		return nil, "", err
	}
	h.Progress = Progress{Webhook: id, Next: next}
	e.Resource = resource(id)
	if err := s.record(ctx, start, e, s.o.Store.InsertWebhook(&h.Webhook, next)); err != nil {
		return nil, "", err
	}
	return h, shown, nil
}

func resource(id uuid.UUID) string { return "webhook:" + id.String() }

func checkName(name string) error {
	bad := fault.New(fault.BadName, fmt.Sprintf("the name of a webhook has 1 to %d bytes of printable text", MaxName))
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) || strings.TrimSpace(name) != name {
		return bad
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return bad
		}
	}
	return nil
}

// record makes an entry durable with its changes.
func (s *Webhooks) record(ctx context.Context, start time.Time, e *audit.Entry, changes ...audit.Change) error {
	e.Outcome, e.Latency = "ok", s.o.Now().Sub(start)
	_, err := s.o.Recorder.Record(ctx, e, changes...)
	return err
}

// refused records that an act failed with err and gives err, or that it could not be recorded.
func (s *Webhooks) refused(ctx context.Context, start time.Time, e *audit.Entry, err error) error {
	if fault.Has(err, fault.AuditUnavailable) || fault.Has(err, fault.Timeout) {
		return err // of the log itself, of which no entry can tell
	}
	e.Outcome, e.Latency = string(fault.CodeOf(err)), s.o.Now().Sub(start)
	// The entry must be made although the caller may have gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, failed := s.o.Recorder.Record(ctx, e); failed != nil {
		return failed
	}
	return err
}

// Get gives one of the caller's tenant, or fault.WebhookNotFound.
func (s *Webhooks) Get(ctx context.Context, c Caller, id uuid.UUID) (*Hook, error) {
	if err := c.may("webhook.get"); err != nil {
		return nil, err
	}
	return s.o.Store.Webhook(ctx, c.Tenant, id)
}

// List lists those of the caller's tenant by id, which is the order of their creation; 1 to 1000 a page. next is "" on the last page.
func (s *Webhooks) List(ctx context.Context, c Caller, from string, limit int) (page []*Hook, next string, err error) {
	if err := c.may("webhook.list"); err != nil {
		return nil, "", err
	}
	after, err := cursor.Parse(from)
	if err != nil {
		return nil, "", err
	}
	limit = min(max(limit, 1), 1000)
	if page, err = s.o.Store.Webhooks(ctx, c.Tenant, after, limit+1); err != nil {
		return nil, "", fmt.Errorf("listing webhooks: %w", err)
	}
	if len(page) > limit {
		page = page[:limit]
		next = cursor.Behind(page[limit-1].ID)
	}
	return page, next, nil
}

// Remove ends a webhook for good. fault.WebhookNotFound.
func (s *Webhooks) Remove(ctx context.Context, c Caller, id uuid.UUID) error {
	start := s.o.Now()
	e := audit.Entry{Tenant: c.Tenant, Principal: c.Principal, Action: ActionRemove, Resource: resource(id), RequestID: c.RequestID}
	err := c.may(ActionRemove)
	if err == nil {
		err = s.record(ctx, start, &e, s.o.Store.DeleteWebhook(c.Tenant, id))
	}
	if err != nil {
		return s.refused(ctx, start, &e, err)
	}
	return nil
}

// change reads a webhook, lets f change it and records that; once more when somebody else was faster.
func (s *Webhooks) change(ctx context.Context, c Caller, id uuid.UUID, action string, f func(*Webhook, *audit.Entry) error) (*Hook, error) {
	start := s.o.Now()
	e := audit.Entry{Tenant: c.Tenant, Principal: c.Principal, Action: action, Resource: resource(id), RequestID: c.RequestID}
	if err := c.may(action); err != nil {
		return nil, s.refused(ctx, start, &e, err)
	}
	for try := 0; ; try++ {
		h, err := s.o.Store.Webhook(ctx, c.Tenant, id)
		if err == nil {
			err = f(&h.Webhook, &e)
		}
		if err == nil {
			h.UpdatedAt = s.o.Now().UTC().Truncate(time.Microsecond)
			h.Revision++
			err = s.record(ctx, start, &e, s.o.Store.UpdateWebhook(&h.Webhook))
		}
		if fault.Has(err, fault.Conflict) && try < 3 {
			continue
		}
		if err != nil {
			return nil, s.refused(ctx, start, &e, err)
		}
		return h, nil
	}
}

// Enable makes deliveries go on where they stopped, at once. fault.WebhookNotFound.
func (s *Webhooks) Enable(ctx context.Context, c Caller, id uuid.UUID) (*Hook, error) {
	return s.change(ctx, c, id, ActionEnable, func(w *Webhook, _ *audit.Entry) error {
		w.State, w.Reason = StateActive, ""
		return s.reach.checkURL(w.URL) // what was allowed may not be any more
	})
}

// Disable stops deliveries, on every node within two seconds. fault.WebhookNotFound.
func (s *Webhooks) Disable(ctx context.Context, c Caller, id uuid.UUID) (*Hook, error) {
	return s.disable(ctx, c, id, ReasonByHand)
}

func (s *Webhooks) disable(ctx context.Context, c Caller, id uuid.UUID, reason string) (*Hook, error) {
	return s.change(ctx, c, id, ActionDisable, func(w *Webhook, e *audit.Entry) error {
		w.State, w.Reason, e.Detail = StateDisabled, reason, reason
		return nil
	})
}

// RotateSecret gives a webhook a new secret, shown this once. For the time of overlap (0 to MaxOverlap) calls are signed with both, so that
// the receiver can change in its own time. fault.WebhookNotFound, BadField.
func (s *Webhooks) RotateSecret(ctx context.Context, c Caller, id uuid.UUID, overlap time.Duration) (*Hook, string, error) {
	raw, shown := newSecret()
	defer raw.Wipe()
	h, err := s.change(ctx, c, id, ActionRotate, func(w *Webhook, _ *audit.Entry) error {
		if overlap < 0 || overlap > MaxOverlap {
			return fault.New(fault.BadField, fmt.Sprintf("the secret before is used for 0 to %d hours", int(MaxOverlap.Hours())))
		}
		sealed, err := seal(s.o.Derive, raw, w)
		if err != nil {
			return err
		}
		w.Prior, w.PriorUntil = nil, time.Time{}
		if overlap > 0 {
			w.Prior, w.PriorUntil = w.Secret, s.o.Now().Add(overlap).UTC().Truncate(time.Microsecond)
		}
		w.Secret = sealed
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return h, shown, nil
}

// Test sends a ping to a webhook, from this node, once, whether it is enabled or not, and says what became of it. fault.WebhookNotFound.
func (s *Webhooks) Test(ctx context.Context, c Caller, id uuid.UUID) (*wire.WebhookTest, error) {
	start := s.o.Now()
	e := audit.Entry{Tenant: c.Tenant, Principal: c.Principal, Action: ActionTest, Resource: resource(id), RequestID: c.RequestID}
	if err := c.may(ActionTest); err != nil {
		return nil, s.refused(ctx, start, &e, err)
	}
	h, err := s.o.Store.Webhook(ctx, c.Tenant, id)
	if err != nil {
		return nil, s.refused(ctx, start, &e, err)
	}
	secrets, err := open(s.o.Derive, &h.Webhook, start)
	if err != nil {
		return nil, s.refused(ctx, start, &e, err)
	}
	defer wipe(secrets)
	body, err := encode(&wire.Event{Time: start.UTC(), Type: TypePing, Resource: e.Resource, Principal: c.Principal, RequestID: c.RequestID})
	if err != nil {
		return nil, err
	}
	a := s.call(ctx, h.URL, secrets, "msg_ping_"+strings.ReplaceAll(uuid.NewString(), "-", ""), body)
	e.Detail = a.why
	if err := s.record(context.WithoutCancel(ctx), start, &e); err != nil {
		return nil, err
	}
	return &wire.WebhookTest{Delivered: a.ok(), Status: a.status, Error: a.why, LatencyMS: a.took.Milliseconds()}, nil
}
