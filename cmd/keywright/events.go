package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

type eventsCmd struct {
	Since *uint64  `placeholder:"ID" help:"Begin behind the event with this id, instead of with what comes from now on. Events are kept for 3 days."`
	Types []string `name:"type" short:"t" placeholder:"TYPE" help:"Only events of this type; key.* for all that begin so. Repeatable."`
	Key   string   `short:"k" help:"Only about this key (name or id)."`
	Label string   `placeholder:"NAME[=VALUE]" help:"Only about keys with this label."`
	Count int      `placeholder:"N" help:"End after so many events; else it goes on until it is interrupted."`
}

func (eventsCmd) Help() string {
	return "Shows the tenant's changes as they come, a line each; with --output json a JSON object on each line. A connection that is lost is taken up again behind the last event that was shown."
}

func (k eventsCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	n := 0
	for e, err := range c.Events(ctx, client.EventFilter{Since: k.Since, Types: k.Types, Key: k.Key, Label: k.Label}) {
		if err != nil {
			return err
		}
		if err := a.showEvent(&e); err != nil {
			return err
		}
		if n++; n == k.Count {
			return nil
		}
	}
	return nil
}

func (a *app) showEvent(e *wire.Event) error {
	if a.json() {
		b, err := json.Marshal(e, jsonv1.OmitEmptyWithLegacySemantics(true), json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("encoding the output: %w", err)
		}
		return a.printf("%s\n", b)
	}
	about := e.Resource
	switch {
	case e.Key != nil:
		about = e.Key.Name
		if about == "" {
			about = e.Key.ID
		}
		if e.Key.Version > 0 {
			about += " version " + strconv.FormatUint(uint64(e.Key.Version), 10)
		}
	case e.Job != "":
		about = "job " + e.Job
	}
	line := []string{strconv.FormatUint(e.ID, 10), when(e.Time), e.Type, printable(about)}
	for _, s := range []string{e.Outcome, e.Detail} {
		if s != "" {
			line = append(line, printable(s))
		}
	}
	return a.printf("%s\n", strings.Join(append(line, "by "+printable(e.Principal)), "  "))
}

type webhooksCmd struct {
	Add          webhooksAddCmd     `cmd:"" help:"Name a receiver of events. Its secret is shown once."`
	List         webhooksListCmd    `cmd:"" help:"List webhooks."`
	Show         webhooksShowCmd    `cmd:"" help:"Show a webhook, and how its deliveries go."`
	Remove       webhooksRemoveCmd  `cmd:"" help:"Remove a webhook."`
	Test         webhooksTestCmd    `cmd:"" help:"Send a ping now; exit code 1 when the receiver does not take it."`
	Enable       webhooksEnableCmd  `cmd:"" help:"Go on with deliveries where they stopped."`
	Disable      webhooksDisableCmd `cmd:"" help:"Stop deliveries."`
	RotateSecret webhooksRotateCmd  `cmd:"" help:"Make a new secret, shown once; the one before signs as well for some time."`
}

type webhooksAddCmd struct {
	Name  string   `arg:"" help:"What it is for."`
	URL   string   `arg:"" name:"url" placeholder:"URL" help:"Where to: https://HOST[:PORT]/PATH."`
	Types []string `name:"type" short:"t" placeholder:"TYPE" help:"Only events of this type; key.* for all that begin so. Repeatable."`
	Keys  []string `name:"key" short:"k" placeholder:"KEY" help:"Only about this key (name or id). Repeatable."`
	Label string   `placeholder:"NAME[=VALUE]" help:"Only about keys with this label."`
	sink
}

func (k webhooksAddCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	r := wire.CreateWebhook{Name: k.Name, URL: k.URL, Types: k.Types, Keys: k.Keys, Label: k.Label}
	return a.newSecret(k.sink, func() (*wire.Webhook, error) { return c.AddWebhook(ctx, r) })
}

// newSecret makes a webhook's secret, and shows the webhook with it, or writes it to the file.
func (a *app) newSecret(s sink, run func() (*wire.Webhook, error)) error {
	var w *wire.Webhook
	err := s.once(func() (secret string, err error) {
		if w, err = run(); err != nil {
			return "", err
		}
		return w.Secret, nil
	}, func() string { return "the secret of webhook " + w.ID + " was made but not saved; rotate it" })
	if err != nil {
		return err
	}
	if s.Out != "" {
		w.Secret = ""
	}
	return a.showWebhook(w, s.Out)
}

func (a *app) showWebhook(w *wire.Webhook, saved string) error {
	return a.show(w, func() error {
		state := w.State
		if w.Reason != "" {
			state += ", " + w.Reason
		}
		d := &w.Delivery
		return a.fields("id", w.ID, "name", printable(w.Name), "url", printable(w.URL), "types", strings.Join(w.Types, ", "), "keys", strings.Join(w.Keys, ", "),
			"label", printable(w.Label), "state", printable(state), "created", when(w.CreatedAt), "delivered", number(d.Delivered), "given up", number(d.GivenUp),
			"last success", whenSet(d.LastSuccess), "last failure", whenSet(d.LastFailure), "last status", number(d.LastStatus), "last error", printable(d.LastError),
			"failed attempts", number(d.Attempts), "next try", whenSet(d.NextTry), "old secret until", whenSet(w.OldSecretUntil), "secret", w.Secret, "saved to", saved)
	})
}

type webhooksListCmd struct{}

func (webhooksListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Webhooks(ctx), []string{"ID", "NAME", "URL", "STATE", "DELIVERED", "GIVEN UP", "LAST SUCCESS", "LAST ERROR"}, func(w wire.Webhook) []string {
		return []string{w.ID, printable(w.Name), printable(w.URL), w.State, number(w.Delivery.Delivered), number(w.Delivery.GivenUp),
			whenSet(w.Delivery.LastSuccess), printable(w.Delivery.LastError)}
	})
}

type webhookArg struct {
	ID string `arg:"" help:"Id of the webhook."`
}

type webhooksShowCmd struct{ webhookArg }

func (k webhooksShowCmd) Run(ctx context.Context, a *app) error {
	return onWebhook(a, func(c *client.Client) (*wire.Webhook, error) { return c.Webhook(ctx, k.ID) })
}

type webhooksEnableCmd struct{ webhookArg }

func (k webhooksEnableCmd) Run(ctx context.Context, a *app) error {
	return onWebhook(a, func(c *client.Client) (*wire.Webhook, error) { return c.EnableWebhook(ctx, k.ID) })
}

type webhooksDisableCmd struct{ webhookArg }

func (k webhooksDisableCmd) Run(ctx context.Context, a *app) error {
	return onWebhook(a, func(c *client.Client) (*wire.Webhook, error) { return c.DisableWebhook(ctx, k.ID) })
}

func onWebhook(a *app, f func(*client.Client) (*wire.Webhook, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	w, err := f(c)
	if err != nil {
		return err
	}
	return a.showWebhook(w, "")
}

type webhooksRemoveCmd struct{ webhookArg }

func (k webhooksRemoveCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if err := c.RemoveWebhook(ctx, k.ID); err != nil {
		return err
	}
	return a.show(wire.Empty{}, func() error { return a.printf("removed %s\n", k.ID) })
}

type webhooksTestCmd struct{ webhookArg }

func (k webhooksTestCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	t, err := c.TestWebhook(ctx, k.ID)
	if err != nil {
		return err
	}
	err = a.show(t, func() error {
		if t.Delivered {
			return a.printf("delivered: status %d after %v\n", t.Status, time.Duration(t.LatencyMS)*time.Millisecond)
		}
		return nil
	})
	if err == nil && !t.Delivered {
		message := "the receiver did not take it: " + printable(t.Error)
		if t.Status != 0 {
			message += fmt.Sprintf(" (status %d)", t.Status)
		}
		return &exitError{exitFailure, message}
	}
	return err
}

type webhooksRotateCmd struct {
	webhookArg
	Overlap time.Duration `default:"24h" help:"How long the secret before signs as well, in whole hours up to 168h; 0 for not at all."`
	sink
}

func (k webhooksRotateCmd) Run(ctx context.Context, a *app) error {
	if k.Overlap < 0 || k.Overlap%time.Hour != 0 {
		return usage("--overlap is in whole hours")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	hours := int(k.Overlap / time.Hour)
	return a.newSecret(k.sink, func() (*wire.Webhook, error) { return c.RotateWebhookSecret(ctx, k.ID, &hours) })
}
