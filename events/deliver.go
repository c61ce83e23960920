package events

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

const (
	// leaseName is under which one node at a time delivers.
	leaseName = "webhooks"
	leaseTime = 4 * time.Second
	renewal   = time.Second
	// lookEvery is how often the list of webhooks is read: so long a disabled one may still be called.
	lookEvery = time.Second
	// callsAtOnce bounds the calls of a node.
	callsAtOnce = 16
	// GiveUp is how old an event may become before it is given up.
	GiveUp = 24 * time.Hour
)

// Leases is the part of cluster.Store that a deliverer needs.
type Leases interface {
	Acquire(ctx context.Context, name string, holder uuid.UUID, ttl time.Duration) (l cluster.Lease, held bool, err error)
	Release(ctx context.Context, name string, holder uuid.UUID) error
}

// Deliver delivers to all webhooks as long as this node, named by its id, holds the lease, and waits for the lease otherwise, until ctx ends.
// Each webhook gets its events one after another, each until it was taken or is 24 hours old; a node that takes over may repeat the last ones.
func (s *Webhooks) Deliver(ctx context.Context, leases Leases, node uuid.UUID) {
	for ctx.Err() == nil {
		asked := time.Now()
		if held, err := s.mayLead(ctx, leases, node); err != nil && ctx.Err() == nil {
			s.o.Logger.Debug("the lease of webhooks cannot be asked for", "error", err)
		} else if held {
			s.lead(ctx, leases, node, asked)
		}
		select {
		case <-ctx.Done():
		case <-time.After(renewal):
		}
	}
}

// mayLead asks for the lease, unless this node could do nothing with it.
func (s *Webhooks) mayLead(ctx context.Context, leases Leases, node uuid.UUID) (bool, error) {
	key, err := s.o.Derive(LabelSecrets)
	if err != nil {
		return false, nil //nolint:nilerr // locked: another node may be open
	}
	key.Wipe()
	_, held, err := leases.Acquire(ctx, leaseName, node, leaseTime)
	return held, err
}

// lead delivers until the lease is lost, or could be: what counts is when it was asked for, on this node's own clock.
func (s *Webhooks) lead(ctx context.Context, leases Leases, node uuid.UUID, asked time.Time) {
	leave, err := s.o.Feed.join()
	if err != nil {
		return // the service stops
	}
	defer leave()
	s.metrics.leading.Set(1)
	defer s.metrics.leading.Set(0)
	ctx, cancel := context.WithCancel(ctx)
	work := couriers{s: s, all: map[uuid.UUID]*courier{}}
	var group sync.WaitGroup
	group.Go(func() { work.run(ctx) })
	until := asked.Add(leaseTime - renewal/2)
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	for held := true; held; {
		select {
		case <-ctx.Done():
			held = false
			continue
		case <-tick.C:
		}
		asked := time.Now()
		// An answer that comes too late is none.
		in, done := context.WithDeadline(ctx, until)
		mine, err := s.mayLead(in, leases, node)
		done()
		switch {
		case err == nil && !mine:
			held = false
		case err == nil:
			until = asked.Add(leaseTime - renewal/2)
		default:
			held = time.Now().Before(until)
		}
	}
	cancel()
	group.Wait()
	// What others wait for is given back at once, also when this node is stopping.
	out, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer done()
	if err := leases.Release(out, leaseName, node); err != nil {
		s.o.Logger.Debug("the lease of webhooks could not be given back", "error", err)
	}
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
	defer drain(resp.Body)
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
