package ratelimit_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/ratelimit"
)

// timed is a store in memory by a clock that a test moves.
type timed struct {
	c     *clock
	mu    sync.Mutex // guards ahead
	ahead map[ratelimit.Bucket]time.Time
}

func newTimed(c *clock) *timed { return &timed{c: c, ahead: map[ratelimit.Bucket]time.Time{}} }

func (s *timed) TakeCells(_ context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (int, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.c.now()
	at := s.ahead[b]
	if at.Before(now) {
		at = now
	}
	if most := now.Add(tolerance); at.After(most) {
		at = most
	}
	got := min(want, int((tolerance-at.Sub(now))/interval))
	at = at.Add(time.Duration(got) * interval)
	s.ahead[b] = at
	return got, at.Sub(now), nil
}

func (s *timed) PruneCells(context.Context) error { return nil }

// TestRateChanged: what was used up of one plan's long burst is not held against the next plan for longer than that one lasts.
func TestRateChanged(t *testing.T) {
	c := newClock()
	for name, store := range map[string]ratelimit.Store{"alone": nil, "shared": newTimed(c)} {
		l := limiter(t, ratelimit.Options{Now: c.now, Store: store})
		d := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: ratelimit.Rate{PerMinute: 1, Burst: 1000}}
		for range 1000 {
			if got := take(t, l, d); !got.Allowed {
				t.Fatalf("%s: refused in the burst: %+v", name, got)
			}
		}
		if got := take(t, l, d); got.Allowed {
			t.Fatalf("%s: beyond the burst: %+v", name, got)
		}
		d.Rate = ratelimit.Rate{PerMinute: 600}
		got := take(t, l, d)
		if got.Allowed || got.RetryAfter > 200*time.Millisecond {
			t.Errorf("%s: at once with the other rate: %+v", name, got)
		}
		c.pass(got.RetryAfter)
		if got := take(t, l, d); !got.Allowed || got.Reset > time.Minute {
			t.Errorf("%s: refused though the rate is another: %+v", name, got)
		}
	}
}

// TestPulses: three nodes to which requests come in groups with rests let through nearly what one node would: what is taken in advance and lost in a rest is little.
func TestPulses(t *testing.T) {
	for _, v := range []struct{ perMinute, burst, pulse int }{{60, 60, 10}, {60, 60, 40}, {60, 15, 10}, {600, 600, 40}, {600, 150, 10}, {6000, 1500, 40}} {
		for _, load := range []float64{0.95, 1.5} {
			random, c := rand.New(rand.NewPCG(1, 2)), newClock()
			s, one := newTimed(c), limiter(t, ratelimit.Options{Now: c.now})
			var nodes [3]*ratelimit.Limiter
			for i := range nodes {
				nodes[i] = limiter(t, ratelimit.Options{Now: c.now, Store: s})
			}
			d := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: ratelimit.Rate{PerMinute: v.perMinute, Burst: v.burst}}
			gap := float64(time.Minute) / float64(v.perMinute) * float64(v.pulse) / load
			together, may := 0, 0
			for range 10_000 / v.pulse {
				node := nodes[random.IntN(len(nodes))]
				for range v.pulse {
					if take(t, node, d).Allowed {
						together++
					}
					if take(t, one, d).Allowed {
						may++
					}
					c.pass(100 * time.Microsecond)
				}
				c.pass(time.Duration(random.ExpFloat64() * gap))
			}
			if together < may*95/100 || together > may*101/100 {
				t.Errorf("%+v at a load of %v: %d passed, of one node %d", v, load, together, may)
			}
		}
	}
}
