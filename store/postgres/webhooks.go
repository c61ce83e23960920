package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
)

var _ events.Store = (*Store)(nil)

var errNoWebhook = fault.New(fault.WebhookNotFound, "no such webhook in this tenant")

// Webhook finds one of the tenant; see events.Store.
func (s *Store) Webhook(ctx context.Context, tenant, id uuid.UUID) (h *events.Hook, err error) {
	err = s.reading(ctx, "reading a webhook", func(c conn) (err error) {
		h, err = scanWebhook(c.QueryRow(ctx, sqlWebhook, id[:], tenant[:]))
		return err
	})
	if none(err) {
		return nil, errNoWebhook
	}
	return h, err
}

// Webhooks lists the tenant's; see events.Store.
func (s *Store) Webhooks(ctx context.Context, tenant, after uuid.UUID, limit int) ([]*events.Hook, error) {
	return s.webhooks(ctx, limit, sqlWebhooks, tenant[:], after[:], limit)
}

// ActiveWebhooks lists those of all tenants; see events.Store.
func (s *Store) ActiveWebhooks(ctx context.Context, after uuid.UUID, limit int) ([]*events.Hook, error) {
	return s.webhooks(ctx, limit, sqlActiveWebhooks, after[:], limit)
}

func (s *Store) webhooks(ctx context.Context, limit int, query string, args ...any) ([]*events.Hook, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing webhooks", func(row pgx.CollectableRow) (*events.Hook, error) { return scanWebhook(row) }, query, args...)
}

func scanWebhook(row pgx.Row) (*events.Hook, error) {
	var h events.Hook
	var filter []byte
	p := &h.Progress
	err := row.Scan((*idColumn)(&h.ID), (*idColumn)(&h.Tenant), &h.Name, &h.URL, &filter, &h.State, &h.Reason, &h.Secret, &h.Prior,
		(*timeColumn)(&h.PriorUntil), (*timeColumn)(&h.CreatedAt), (*timeColumn)(&h.UpdatedAt), &h.CreatedBy, &h.Revision,
		&p.Next, &p.Attempts, (*timeColumn)(&p.TryAt), (*timeColumn)(&p.LastSuccess), (*timeColumn)(&p.LastFailure), &p.LastStatus, &p.LastError,
		&p.Delivered, &p.GivenUp)
	if err != nil {
		return nil, err
	}
	p.Webhook = h.ID
	if err := json.Unmarshal(filter, &h.Filter); err != nil {
		return nil, corrupted("the filter of a webhook is damaged", err)
	}
	return &h, nil
}

// insertWebhook is a Change.
type insertWebhook struct {
	prepared
	w    events.Webhook
	next uint64
}

// InsertWebhook adds one; see events.Store.
func (s *Store) InsertWebhook(w *events.Webhook, next uint64) audit.Change {
	return &insertWebhook{prepared: tells(cluster.KindWebhook, w.ID), w: *w, next: next}
}

func (c *insertWebhook) statements() ([]statement, error) {
	h := &c.w
	filter, err := json.Marshal(h.Filter)
	if err != nil {
		return nil, fmt.Errorf("encoding the filter of a webhook: %w", err)
	}
	return []statement{
		{query: sqlInsertWebhook, args: []any{h.ID[:], h.Tenant[:], h.Name, h.URL, string(filter), string(h.State), h.Reason, h.Secret, h.Prior,
			micros(h.PriorUntil), h.CreatedAt.UnixMicro(), h.UpdatedAt.UnixMicro(), h.CreatedBy, h.Revision},
			refused: conflictIfTaken("a webhook with this id exists already")},
		{query: sqlInsertWebhookProgress, args: []any{h.ID[:], int64(c.next)}},
	}, nil
}

// updateWebhook is a Change.
type updateWebhook struct {
	prepared
	w events.Webhook
}

// UpdateWebhook replaces one; see events.Store.
func (s *Store) UpdateWebhook(w *events.Webhook) audit.Change {
	return &updateWebhook{prepared: tells(cluster.KindWebhook, w.ID), w: *w}
}

func (c *updateWebhook) statements() ([]statement, error) {
	h := &c.w
	filter, err := json.Marshal(h.Filter)
	if err != nil {
		return nil, fmt.Errorf("encoding the filter of a webhook: %w", err)
	}
	return []statement{{query: sqlUpdateWebhook, args: []any{h.Name, h.URL, string(filter), string(h.State), h.Reason, h.Secret, h.Prior,
		micros(h.PriorUntil), h.UpdatedAt.UnixMicro(), h.Revision, h.ID[:], h.Tenant[:], h.Revision - 1},
		nothing: unless(sqlWebhookThere, h.ID[:], errNoWebhook, fault.New(fault.Conflict, "the webhook was changed meanwhile")),
	}}, nil
}

// deleteWebhook is a Change.
type deleteWebhook struct {
	prepared
	tenant, id uuid.UUID
}

// DeleteWebhook removes one; see events.Store.
func (s *Store) DeleteWebhook(tenant, id uuid.UUID) audit.Change {
	return &deleteWebhook{prepared: tells(cluster.KindWebhook, id), tenant: tenant, id: id}
}

func (c *deleteWebhook) statements() ([]statement, error) {
	return []statement{
		{query: sqlDeleteWebhook, args: []any{c.id[:], c.tenant[:]}, nothing: fails(fault.WebhookNotFound, "no such webhook in this tenant")},
		{query: sqlDeleteWebhookProgress, args: []any{c.id[:]}},
	}, nil
}

// SaveWebhookProgress keeps how deliveries go; see events.Store. It may as well be carried out twice.
func (s *Store) SaveWebhookProgress(ctx context.Context, p *events.Progress) error {
	return s.write(ctx, "keeping how deliveries go", sqlSaveWebhookProgress, int64(p.Next), int64(p.Attempts), micros(p.TryAt),
		micros(p.LastSuccess), micros(p.LastFailure), int64(p.LastStatus), p.LastError, int64(p.Delivered), int64(p.GivenUp), p.Webhook[:])
}

const (
	webhookColumns = `w.id, w.tenant, w.name, w.url, w.filter, w.state, w.reason, w.secret, w.prior, w.prior_until, w.created_at, w.updated_at,
		w.created_by, w.revision, p.next, p.attempts, p.try_at, p.last_success, p.last_failure, p.last_status, p.last_error, p.delivered, p.given_up
		FROM webhooks w JOIN webhook_progress p ON p.webhook = w.id `
	sqlWebhook        = "SELECT " + webhookColumns + "WHERE w.id = $1 AND w.tenant = $2"
	sqlWebhooks       = "SELECT " + webhookColumns + "WHERE w.tenant = $1 AND w.id > $2 ORDER BY w.id LIMIT $3"
	sqlActiveWebhooks = "SELECT " + webhookColumns + "WHERE w.state = 'active' AND w.id > $1 ORDER BY w.id LIMIT $2"
	sqlInsertWebhook  = `INSERT INTO webhooks (id, tenant, name, url, filter, state, reason, secret, prior, prior_until, created_at, updated_at,
		created_by, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`
	sqlInsertWebhookProgress = `INSERT INTO webhook_progress (webhook, next, attempts, last_status, last_error, delivered, given_up)
		VALUES ($1, $2, 0, 0, '', 0, 0)`
	sqlUpdateWebhook = `UPDATE webhooks SET name = $1, url = $2, filter = $3, state = $4, reason = $5, secret = $6, prior = $7, prior_until = $8,
		updated_at = $9, revision = $10 WHERE id = $11 AND tenant = $12 AND revision = $13`
	sqlWebhookThere          = "SELECT COUNT(*) FROM webhooks WHERE id = $1"
	sqlDeleteWebhook         = "DELETE FROM webhooks WHERE id = $1 AND tenant = $2"
	sqlDeleteWebhookProgress = "DELETE FROM webhook_progress WHERE webhook = $1"
	sqlSaveWebhookProgress   = `UPDATE webhook_progress SET next = $1, attempts = $2, try_at = $3, last_success = $4, last_failure = $5, last_status = $6,
		last_error = $7, delivered = $8, given_up = $9 WHERE webhook = $10 AND next <= $1`
)
