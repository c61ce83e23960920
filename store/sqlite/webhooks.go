package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
)

var _ events.Store = (*Store)(nil)

var errNoWebhook = fault.New(fault.WebhookNotFound, "no such webhook in this tenant")

// Webhook finds one of the tenant; see events.Store.
func (s *Store) Webhook(ctx context.Context, tenant, id uuid.UUID) (*events.Hook, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	h, err := scanWebhook(s.read.QueryRowContext(ctx, sqlWebhook, id[:], tenant[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoWebhook
	}
	return h, translate("reading a webhook", err)
}

// Webhooks lists the tenant's; see events.Store.
func (s *Store) Webhooks(ctx context.Context, tenant, after uuid.UUID, limit int) ([]*events.Hook, error) {
	return s.webhooks(ctx, limit, sqlWebhooks, tenant[:], after[:], limit)
}

// ActiveWebhooks lists those of all tenants; see events.Store.
func (s *Store) ActiveWebhooks(ctx context.Context, after uuid.UUID, limit int) ([]*events.Hook, error) {
	return s.webhooks(ctx, limit, sqlActiveWebhooks, after[:], limit)
}

func (s *Store) webhooks(ctx context.Context, limit int, query string, args ...any) (found []*events.Hook, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, translate("listing webhooks", err)
	}
	defer func() { err = translate("listing webhooks", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		h, err := scanWebhook(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, h)
	}
	return found, rows.Err()
}

func scanWebhook(row scanner) (*events.Hook, error) {
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

func (c *insertWebhook) apply(w *writer) error {
	h := &c.w
	filter, err := json.Marshal(h.Filter)
	if err != nil {
		return fmt.Errorf("encoding the filter of a webhook: %w", err)
	}
	_, err = w.exec(sqlInsertWebhook, h.ID[:], h.Tenant[:], h.Name, h.URL, string(filter), string(h.State), h.Reason, h.Secret, bytesOrNull(h.Prior),
		micros(h.PriorUntil), h.CreatedAt.UnixMicro(), h.UpdatedAt.UnixMicro(), h.CreatedBy, h.Revision)
	if err == nil {
		_, err = w.exec(sqlInsertWebhookProgress, h.ID[:], int64(c.next))
	}
	return conflictIfTaken(err, "a webhook with this id exists already")
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

func (c *updateWebhook) apply(w *writer) error {
	h := &c.w
	filter, err := json.Marshal(h.Filter)
	if err != nil {
		return fmt.Errorf("encoding the filter of a webhook: %w", err)
	}
	n, err := w.exec(sqlUpdateWebhook, h.Name, h.URL, string(filter), string(h.State), h.Reason, h.Secret, bytesOrNull(h.Prior),
		micros(h.PriorUntil), h.UpdatedAt.UnixMicro(), h.Revision, h.ID[:], h.Tenant[:], h.Revision-1)
	if err != nil || n > 0 {
		return err
	}
	there, err := w.row(sqlWebhookThere, make([]driver.Value, 1), h.ID[:])
	if err == nil && !there {
		return errNoWebhook
	}
	if err == nil {
		err = fault.New(fault.Conflict, "the webhook was changed meanwhile")
	}
	return err
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

func (c *deleteWebhook) apply(w *writer) error {
	n, err := w.exec(sqlDeleteWebhook, c.id[:], c.tenant[:])
	if err == nil && n == 0 {
		return errNoWebhook
	}
	if err == nil {
		_, err = w.exec(sqlDeleteWebhookProgress, c.id[:])
	}
	return err
}

// SaveWebhookProgress keeps how deliveries go; see events.Store.
func (s *Store) SaveWebhookProgress(ctx context.Context, p *events.Progress) error {
	return s.alter(ctx, func(w *writer) error {
		_, err := w.exec(sqlSaveWebhookProgress, int64(p.Next), int64(p.Attempts), micros(p.TryAt), micros(p.LastSuccess), micros(p.LastFailure),
			int64(p.LastStatus), p.LastError, int64(p.Delivered), int64(p.GivenUp), p.Webhook[:], int64(p.Next))
		return err
	})
}

const (
	webhookColumns = `w.id, w.tenant, w.name, w.url, w.filter, w.state, w.reason, w.secret, w.prior, w.prior_until, w.created_at, w.updated_at,
		w.created_by, w.revision, p.next, p.attempts, p.try_at, p.last_success, p.last_failure, p.last_status, p.last_error, p.delivered, p.given_up
		FROM webhooks w JOIN webhook_progress p ON p.webhook = w.id `
	sqlWebhook        = "SELECT " + webhookColumns + "WHERE w.id = ? AND w.tenant = ?"
	sqlWebhooks       = "SELECT " + webhookColumns + "WHERE w.tenant = ? AND w.id > ? ORDER BY w.id LIMIT ?"
	sqlActiveWebhooks = "SELECT " + webhookColumns + "WHERE w.state = 'active' AND w.id > ? ORDER BY w.id LIMIT ?"
	sqlInsertWebhook  = `INSERT INTO webhooks (id, tenant, name, url, filter, state, reason, secret, prior, prior_until, created_at, updated_at,
		created_by, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlInsertWebhookProgress = `INSERT INTO webhook_progress (webhook, next, attempts, last_status, last_error, delivered, given_up)
		VALUES (?, ?, 0, 0, '', 0, 0)`
	sqlUpdateWebhook = `UPDATE webhooks SET name = ?, url = ?, filter = ?, state = ?, reason = ?, secret = ?, prior = ?, prior_until = ?,
		updated_at = ?, revision = ? WHERE id = ? AND tenant = ? AND revision = ?`
	sqlWebhookThere          = "SELECT revision FROM webhooks WHERE id = ?"
	sqlDeleteWebhook         = "DELETE FROM webhooks WHERE id = ? AND tenant = ?"
	sqlDeleteWebhookProgress = "DELETE FROM webhook_progress WHERE webhook = ?"
	sqlSaveWebhookProgress   = `UPDATE webhook_progress SET next = ?, attempts = ?, try_at = ?, last_success = ?, last_failure = ?, last_status = ?,
		last_error = ?, delivered = ?, given_up = ? WHERE webhook = ? AND next <= ?`
)
