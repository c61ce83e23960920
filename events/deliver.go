package events

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

const (
	// leaseName is under which one node at a time delivers.
	leaseName = "webhooks"
	// lookEvery is how often the list of webhooks is read: so long a disabled one may still be called.
	lookEvery = time.Second
	// callsAtOnce bounds the calls of a node.
	callsAtOnce = 16
	// GiveUp is how old an event may become before it is given up.
	GiveUp = 24 * time.Hour
)

// Leases do what one node at a time may do. *cluster.Leases is the implementation.
type Leases interface {
	// Hold runs work whenever this node has the lease, until ctx ends. The context of work ends before another node can have it.
	Hold(ctx context.Context, name string, work func(ctx context.Context))
}

// Deliver delivers to all webhooks as long as this node holds the lease, and waits for the lease otherwise, until ctx ends. A node whose root
// is locked leaves it to others. Each webhook gets its events one after another, each until it was taken or is 24 hours old; a node that takes
// over may repeat the last ones.
func (s *Webhooks) Deliver(ctx context.Context, leases Leases) {
	for {
		key, err := s.o.Derive(LabelSecrets)
		if err == nil {
			key.Wipe()
			break
		}
		if !pause(ctx, lookEvery) {
			return
		}
	}
	leases.Hold(ctx, leaseName, s.lead)
}

// lead delivers until ctx ends.
func (s *Webhooks) lead(ctx context.Context) {
	leave, err := s.o.Feed.join()
	if err != nil {
		return // the service stops
	}
	defer leave()
	work := couriers{s: s, all: map[uuid.UUID]*courier{}}
	work.run(ctx)
}

// couriers are the deliveries of the node that leads.
type couriers struct {
	s     *Webhooks
	all   map[uuid.UUID]*courier
	group sync.WaitGroup
}

// run keeps one courier for each active webhook until ctx ends.
func (c *couriers) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.s.o.Logger.Debug("webhooks cannot be listed", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	for _, k := range c.all {
		k.cancel()
	}
	c.group.Wait()
	c.s.metrics.active.Set(0)
	c.s.metrics.failing.Set(0)
}

// look compares the couriers with the list: those of webhooks that have changed begin anew.
func (c *couriers) look(ctx context.Context) error {
	const page = 500
	seen := make(map[uuid.UUID]bool, len(c.all))
	for after := uuid.Nil; ; {
		hooks, err := c.s.o.Store.ActiveWebhooks(ctx, after, page)
		if err != nil {
			return err
		}
		for _, h := range hooks {
			seen[h.ID] = true
			k := c.all[h.ID]
			if k != nil && k.hook.Revision == h.Revision {
				continue
			}
			if k != nil {
				c.end(k)
				if h, err = c.s.o.Store.Webhook(ctx, h.Tenant, h.ID); err != nil { // with what the old one has done to the last
					return err
				}
			}
			if h.State == StateActive {
				c.begin(ctx, h)
			}
		}
		if len(hooks) < page {
			break
		}
		after = hooks[page-1].ID
	}
	failing := 0
	for id, k := range c.all {
		if !seen[id] {
			c.end(k)
		} else if k.failing.Load() {
			failing++
		}
	}
	c.s.metrics.active.Set(float64(len(c.all)))
	c.s.metrics.failing.Set(float64(failing))
	return nil
}

func (c *couriers) begin(ctx context.Context, h *Hook) {
	ctx, cancel := context.WithCancel(ctx)
	k := &courier{s: c.s, hook: h, p: h.Progress, cancel: cancel, done: make(chan struct{})}
	c.all[h.ID] = k
	c.group.Go(func() {
		defer close(k.done)
		k.run(ctx)
	})
}

// end waits as well: two couriers of one webhook would deliver out of order.
func (c *couriers) end(k *courier) {
	k.cancel()
	<-k.done
	delete(c.all, k.hook.ID)
}

// answer is what became of a call.
type answer struct {
	status int
	why    string // "": delivered
	after  time.Duration
	took   time.Duration
}

func (a *answer) ok() bool { return a.why == "" }

// call makes one attempt.
func (s *Webhooks) call(ctx context.Context, url string, secrets []secret.Bytes, id string, body []byte) (a answer) {
	start := time.Now()
	defer func() {
		a.took = time.Since(start)
		result := "delivered"
		if !a.ok() {
			result = "failed"
		}
		s.metrics.calls.WithLabelValues(result).Inc()
		s.metrics.seconds.Observe(a.took.Seconds())
	}()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := s.reach.checkURL(url); err != nil {
		return answer{why: whyInside} // it was allowed when it was added
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer{why: whyConnection}
	}
	at := s.o.Now()
	req.Header["Content-Type"] = []string{"application/json"}
	req.Header["User-Agent"] = []string{s.o.UserAgent}
	req.Header.Set(headerID, id)
	req.Header.Set(headerTime, strconv.FormatInt(at.Unix(), 10))
	req.Header.Set(headerSigned, Sign(secrets, id, at, body))
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{why: why(err)}
	}
	defer func() {
		// A little is read, so that the connection can be used again. A body that breaks off or does not close changes nothing: the status is there.
		_, _ = io.CopyN(io.Discard, resp.Body, answerSize)
		_ = resp.Body.Close()
	}()
	a.status = resp.StatusCode
	switch {
	case a.status >= 200 && a.status <= 299:
	case a.status == http.StatusGone:
		a.why = whyGone
	case a.status >= 300 && a.status <= 399:
		a.why = whyRedirect
	default:
		a.why = whyStatus
		if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
			a.after = time.Duration(n) * time.Second
		}
	}
	return a
}

// gone disables a webhook whose receiver said that it is gone.
func (s *Webhooks) gone(ctx context.Context, h *Hook) error {
	_, err := s.disable(ctx, Caller{Tenant: h.Tenant, Principal: "system"}, h.ID, ReasonGone)
	if err != nil && !fault.Has(err, fault.WebhookNotFound) {
		return fmt.Errorf("disabling a webhook: %w", err)
	}
	return nil
}
