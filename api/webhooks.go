package api

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
)

func wireWebhook(h *events.Hook, secret string) wire.Webhook {
	p := &h.Progress
	w := wire.Webhook{ID: h.ID.String(), Name: h.Name, URL: h.URL, Types: h.Filter.Types, Keys: make([]string, len(h.Filter.Keys)), Label: h.Filter.Label,
		State: string(h.State), Reason: h.Reason, CreatedAt: h.CreatedAt.UTC(), UpdatedAt: h.UpdatedAt.UTC(), CreatedBy: h.CreatedBy,
		OldSecretUntil: optional(h.PriorUntil), Secret: secret,
		Delivery: wire.WebhookDelivery{Next: p.Next, Delivered: p.Delivered, GivenUp: p.GivenUp, Attempts: p.Attempts, LastSuccess: optional(p.LastSuccess),
			LastFailure: optional(p.LastFailure), LastStatus: p.LastStatus, LastError: p.LastError, NextTry: optional(p.TryAt)}}
	if w.Types == nil {
		w.Types = []string{}
	}
	for i, id := range h.Filter.Keys {
		w.Keys[i] = id.String()
	}
	return w
}

// manager is who administers webhooks.
func (c *call) manager() events.Caller {
	return events.Caller{Tenant: c.principal.Tenant, Principal: c.principal.ID, RequestID: c.id, Judge: c.judge()}
}

// onWebhook calls f with the webhook of the path, where there are any.
func onWebhook[R any](s *Server, c *call, f func(id uuid.UUID) (R, error)) (R, error) {
	var none R
	if s.webhooks == nil {
		return none, errNoEvents
	}
	id, err := c.pathID("id", fault.New(fault.WebhookNotFound, "no such webhook in this tenant"))
	if err != nil {
		return none, err
	}
	return f(id)
}

func (s *Server) addWebhook(ctx context.Context, c *call, r *wire.CreateWebhook) (wire.Webhook, error) {
	if s.webhooks == nil {
		return wire.Webhook{}, errNoEvents
	}
	if err := required("name", r.Name); err != nil {
		return wire.Webhook{}, err
	}
	if err := required("url", r.URL); err != nil {
		return wire.Webhook{}, err
	}
	n := events.NewWebhook{Name: r.Name, URL: r.URL, Filter: events.Filter{Types: r.Types, Label: r.Label}}
	for _, key := range r.Keys {
		id, err := s.keyID(ctx, c, key)
		if err != nil {
			return wire.Webhook{}, err
		}
		if id == nil {
			return wire.Webhook{}, badField("the field keys names keys by id or name")
		}
		n.Filter.Keys = append(n.Filter.Keys, *id)
	}
	h, secret, err := s.webhooks.Add(ctx, c.manager(), n)
	if err != nil {
		return wire.Webhook{}, err
	}
	return wireWebhook(h, secret), nil
}

func (s *Server) listWebhooks(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Webhook], error) {
	var none wire.List[wire.Webhook]
	if s.webhooks == nil {
		return none, errNoEvents
	}
	limit, cursor, err := c.page()
	if err != nil {
		return none, err
	}
	list, next, err := s.webhooks.List(ctx, c.manager(), cursor, limit)
	if err != nil {
		return none, err
	}
	out := wire.List[wire.Webhook]{Items: make([]wire.Webhook, len(list)), NextCursor: next}
	for i, h := range list {
		out.Items[i] = wireWebhook(h, "")
	}
	return out, nil
}

func (s *Server) showWebhook(ctx context.Context, c *call, _ *wire.Empty) (wire.Webhook, error) {
	return onWebhook(s, c, func(id uuid.UUID) (wire.Webhook, error) { return shownWebhook(s.webhooks.Get(ctx, c.manager(), id)) })
}

func shownWebhook(h *events.Hook, err error) (wire.Webhook, error) {
	if err != nil {
		return wire.Webhook{}, err
	}
	return wireWebhook(h, ""), nil
}

func (s *Server) removeWebhook(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	return onWebhook(s, c, func(id uuid.UUID) (wire.Empty, error) { return wire.Empty{}, s.webhooks.Remove(ctx, c.manager(), id) })
}

func (s *Server) testWebhook(ctx context.Context, c *call, _ *wire.Empty) (wire.WebhookTest, error) {
	return onWebhook(s, c, func(id uuid.UUID) (wire.WebhookTest, error) {
		t, err := s.webhooks.Test(ctx, c.manager(), id)
		if err != nil {
			return wire.WebhookTest{}, err
		}
		return *t, nil
	})
}

func (s *Server) enableWebhook(ctx context.Context, c *call, _ *wire.Empty) (wire.Webhook, error) {
	return onWebhook(s, c, func(id uuid.UUID) (wire.Webhook, error) { return shownWebhook(s.webhooks.Enable(ctx, c.manager(), id)) })
}

func (s *Server) disableWebhook(ctx context.Context, c *call, _ *wire.Empty) (wire.Webhook, error) {
	return onWebhook(s, c, func(id uuid.UUID) (wire.Webhook, error) {
		return shownWebhook(s.webhooks.Disable(ctx, c.manager(), id))
	})
}

func (s *Server) rotateWebhookSecret(ctx context.Context, c *call, r *wire.RotateWebhookSecret) (wire.Webhook, error) {
	return onWebhook(s, c, func(id uuid.UUID) (wire.Webhook, error) {
		overlap := events.DefaultOverlap
		if r.OverlapHours != nil {
			overlap = time.Duration(min(max(*r.OverlapHours, -1), 1<<16)) * time.Hour
		}
		h, secret, err := s.webhooks.RotateSecret(ctx, c.manager(), id, overlap)
		if err != nil {
			return wire.Webhook{}, err
		}
		return wireWebhook(h, secret), nil
	})
}
