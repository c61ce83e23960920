package events

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/secret"
)

const (
	// saveEvery is how often progress is kept while all goes well: so much may be repeated after a crash.
	saveEvery = 200 * time.Millisecond
	// idleSave is how often a position is kept that moves although nothing is selected, so that it does not fall behind what is kept of the news.
	idleSave = 10 * time.Minute
	// longestWait bounds what a receiver may ask for by Retry-After.
	longestWait = time.Hour
)

// courier delivers to one webhook, in one goroutine.
type courier struct {
	s       *Webhooks
	hook    *Hook
	p       Progress
	saved   time.Time
	dirty   bool
	failing atomic.Bool
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has ended
}

// run delivers until ctx ends or the receiver is gone.
func (k *courier) run(ctx context.Context) {
	k.saved = time.Now()
	defer k.save(ctx, true)
	if k.p.LastFailure.Before(k.hook.UpdatedAt) {
		k.p.TryAt = time.Time{} // it was enabled, or has a new secret: try at once
	}
	for k.failing.Store(k.p.Attempts > 0); ctx.Err() == nil; {
		patience := lookEvery
		if k.dirty {
			patience = max(saveEvery-time.Since(k.saved), 0) // what is done is kept soon, also when nothing comes any more
		}
		events, next, err := k.s.o.Feed.Next(ctx, k.p.Next, patience)
		switch {
		case errors.Is(err, errGone):
			k.p.LastError, k.p.LastFailure = whyLost, k.now()
			k.s.o.Logger.Warn("events of a webhook were pruned before they were delivered", "webhook", k.hook.ID, "from", k.p.Next, "to", next)
			k.p.Next, k.dirty = next, true
			k.save(ctx, true)
			continue
		case err != nil:
			pause(ctx, time.Second)
			continue
		}
		for _, e := range events {
			if e.Tenant == k.hook.Tenant && k.hook.Filter.Match(e) && !k.deliver(ctx, e) {
				return
			}
			k.p.Next = e.Index + 1
			k.save(ctx, false)
		}
		k.p.Next = next
		k.save(ctx, k.dirty && len(events) == 0 || time.Since(k.saved) > idleSave)
	}
}

func (k *courier) now() time.Time { return k.s.o.Now().UTC().Truncate(time.Microsecond) }

// pause waits, and reports whether it was to the end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// deliver tries until the event is taken, or old. It reports whether to go on with the next.
func (k *courier) deliver(ctx context.Context, e *Event) bool {
	for {
		old := k.now().Sub(e.Time) >= GiveUp
		if old && k.p.Attempts > 0 { // the receiver does not answer: it was tried with others
			k.giveUp(e.Index)
			return true
		}
		if !pause(ctx, k.p.TryAt.Sub(k.now())) {
			return false
		}
		a, ok := k.attempt(ctx, e)
		if !ok {
			return false
		}
		k.p.LastStatus, k.dirty = a.status, true
		if a.ok() {
			k.p.Attempts, k.p.TryAt, k.p.LastError, k.p.LastSuccess = 0, time.Time{}, "", k.now()
			k.p.Delivered++
			k.failing.Store(false)
			return true
		}
		k.p.Attempts++
		k.p.LastFailure, k.p.LastError = k.now(), a.why
		k.p.TryAt = k.p.LastFailure.Add(max(k.backoff(), min(a.after, longestWait)))
		k.failing.Store(true)
		k.save(ctx, true)
		if a.why != whyGone {
			continue
		}
		if err := k.s.gone(ctx, k.hook); err == nil {
			return false
		} else if ctx.Err() == nil {
			k.s.o.Logger.Warn("a webhook whose receiver is gone could not be disabled", "webhook", k.hook.ID, "error", err)
		}
	}
}

// attempt makes one call in its turn. It reports false when there was none because ctx ended.
func (k *courier) attempt(ctx context.Context, e *Event) (answer, bool) {
	select {
	case k.s.calls <- struct{}{}:
	case <-ctx.Done():
		return answer{}, false
	}
	defer func() { <-k.s.calls }()
	var secrets []secret.Bytes
	secrets, err := open(k.s.o.Derive, &k.hook.Webhook, k.s.o.Now())
	if err != nil {
		return answer{why: whySecret}, ctx.Err() == nil
	}
	defer wipe(secrets)
	a := k.s.call(ctx, k.hook.URL, secrets, messageID(k.hook.ID, e.Index), e.JSON)
	return a, a.ok() || ctx.Err() == nil // a call that this node broke off is no failure of the receiver
}

func (k *courier) giveUp(index uint64) {
	k.p.GivenUp++
	k.dirty = true
	k.s.metrics.givenUp.Inc()
	k.s.o.Logger.Warn("an event was not delivered to a webhook within 24 hours", "webhook", k.hook.ID, "event", index, "reason", k.p.LastError)
}

// backoff doubles with each failure and is spread over its upper half, so that what failed together does not come back together.
func (k *courier) backoff() time.Duration {
	d := k.s.o.MaxWait
	if n := k.p.Attempts - 1; n < 30 {
		d = min(d, k.s.o.FirstWait<<n)
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads calls, hides nothing
}

// save keeps the progress: now, or when it has not been kept for a while.
func (k *courier) save(ctx context.Context, now bool) {
	if !now && (!k.dirty || time.Since(k.saved) < saveEvery) {
		return
	}
	// Also when ctx has ended: what was done is not to be done again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := k.s.o.Store.SaveWebhookProgress(ctx, &k.p); err != nil {
		k.s.o.Logger.Debug("the progress of a webhook could not be kept", "webhook", k.hook.ID, "error", err)
		return
	}
	k.saved, k.dirty = time.Now(), false
}
