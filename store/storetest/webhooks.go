package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
)

func newHook(tenant uuid.UUID, next uint64) *events.Hook {
	h := &events.Hook{Webhook: events.Webhook{
		ID: uuid.New(), Tenant: tenant, Name: "audit trail", URL: "https://hooks.example.org/keys?a=b", State: events.StateActive,
		Filter: events.Filter{Types: []string{"key.*"}, Keys: []uuid.UUID{uuid.New()}, Label: "team=pay"},
		Secret: []byte(rand.Text()), CreatedAt: now(), UpdatedAt: now(), CreatedBy: "api-key:1", Revision: 1,
	}}
	h.Progress = events.Progress{Webhook: h.ID, Next: next}
	return h
}

func testWebhooks(t *testing.T, e *env) {
	tenant := uuid.New()
	var all []*events.Hook
	for i := range 7 {
		h := newHook(tenant, uint64(i))
		all = append(all, h)
		e.must(t, e.InsertWebhook(&h.Webhook, h.Progress.Next))
	}
	bare := newHook(uuid.New(), 0)
	bare.Filter = events.Filter{}
	e.must(t, e.InsertWebhook(&bare.Webhook, 0))
	for _, want := range append(slices.Clone(all), bare) {
		got, err := e.Webhook(t.Context(), want.Tenant, want.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "by id", got, want)
	}
	wantFault(t, "the same again", e.do(t, e.InsertWebhook(&bare.Webhook, 0)), fault.Conflict)
	_, err := e.Webhook(t.Context(), tenant, bare.ID)
	wantFault(t, "another tenant's", err, fault.WebhookNotFound)

	slices.SortFunc(all, func(a, b *events.Hook) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	var listed []*events.Hook
	for after := uuid.Nil; ; {
		page, err := e.Webhooks(t.Context(), tenant, after, 3)
		if err != nil || len(page) > 3 {
			t.Fatal(len(page), err)
		}
		if len(page) == 0 {
			break
		}
		listed = append(listed, page...)
		after = page[len(page)-1].ID
	}
	wantSame(t, "listed", listed, all)

	w := all[3].Webhook
	w.State, w.Reason, w.Prior, w.PriorUntil, w.Secret = events.StateDisabled, events.ReasonGone, w.Secret, now().Add(time.Hour), []byte("new")
	w.UpdatedAt = now().Add(time.Second)
	wantFault(t, "of the same revision", e.do(t, e.UpdateWebhook(&w)), fault.Conflict)
	w.Revision = 2
	e.must(t, e.UpdateWebhook(&w))
	wantFault(t, "of an old revision", e.do(t, e.UpdateWebhook(&w)), fault.Conflict)
	lost := w
	lost.ID = uuid.New()
	wantFault(t, "of one that is not there", e.do(t, e.UpdateWebhook(&lost)), fault.WebhookNotFound)
	all[3].Webhook = w
	e.reopen(t)
	got, err := e.Webhook(t.Context(), tenant, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "updated", got, all[3])

	active, err := e.ActiveWebhooks(t.Context(), uuid.Nil, 100)
	if err != nil || len(active) != 7 || slices.ContainsFunc(active, func(h *events.Hook) bool { return h.ID == w.ID }) {
		t.Fatalf("%d are active, %v", len(active), err)
	}
	active, err = e.ActiveWebhooks(t.Context(), active[4].ID, 1)
	if err != nil || len(active) != 1 {
		t.Fatalf("%d are active, %v", len(active), err)
	}

	wantFault(t, "removing another tenant's", e.do(t, e.DeleteWebhook(tenant, bare.ID)), fault.WebhookNotFound)
	e.must(t, e.DeleteWebhook(bare.Tenant, bare.ID))
	wantFault(t, "removing it again", e.do(t, e.DeleteWebhook(bare.Tenant, bare.ID)), fault.WebhookNotFound)
	_, err = e.Webhook(t.Context(), bare.Tenant, bare.ID)
	wantFault(t, "the removed one", err, fault.WebhookNotFound)
	if err := e.SaveWebhookProgress(t.Context(), &bare.Progress); err != nil {
		t.Errorf("keeping progress of the removed one: %v", err)
	}
}

func testWebhookProgress(t *testing.T, e *env) {
	h := newHook(uuid.New(), 5)
	e.must(t, e.InsertWebhook(&h.Webhook, 5))
	size := e.size(t)
	h.Progress = events.Progress{Webhook: h.ID, Next: 9, Attempts: 3, TryAt: now().Add(time.Minute), LastSuccess: now(), LastFailure: now().Add(time.Second),
		LastStatus: 503, LastError: "refused", Delivered: 4, GivenUp: 1}
	if err := e.SaveWebhookProgress(t.Context(), &h.Progress); err != nil {
		t.Fatal(err)
	}
	e.reopen(t)
	check := func(what string) {
		t.Helper()
		got, err := e.Webhook(t.Context(), h.Tenant, h.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, what, got, h)
	}
	check("kept")
	behind := h.Progress
	behind.Next, behind.Delivered = 8, 0
	if err := e.SaveWebhookProgress(t.Context(), &behind); err != nil {
		t.Fatal(err)
	}
	check("after one who was behind")
	h.Progress.Attempts, h.Progress.TryAt, h.Progress.LastError = 0, time.Time{}, ""
	if err := e.SaveWebhookProgress(t.Context(), &h.Progress); err != nil {
		t.Fatal(err)
	}
	check("at the same place")
	wantSame(t, "entries", e.size(t), size)
}

// webhookCalls is what calls gives of webhooks.
func webhookCalls(e *env) map[string]func(ctx context.Context) error {
	id := uuid.New()
	return map[string]func(ctx context.Context) error{
		"Webhook":             func(ctx context.Context) error { _, err := e.Webhook(ctx, id, id); return err },
		"Webhooks":            func(ctx context.Context) error { _, err := e.Webhooks(ctx, id, id, 1); return err },
		"ActiveWebhooks":      func(ctx context.Context) error { _, err := e.ActiveWebhooks(ctx, id, 1); return err },
		"SaveWebhookProgress": func(ctx context.Context) error { return e.SaveWebhookProgress(ctx, &events.Progress{Webhook: id}) },
	}
}
