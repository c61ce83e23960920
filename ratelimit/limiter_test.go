package ratelimit_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/ratelimit"
)

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex // guards at
	at time.Time
}

func newClock() *clock { return &clock{at: time.Unix(1_800_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func limiter(t testing.TB, o ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bucket(k ratelimit.Kind) ratelimit.Bucket { return ratelimit.Bucket{Kind: k, ID: uuid.New()} }

func take(t testing.TB, l *ratelimit.Limiter, d ...ratelimit.Demand) ratelimit.Decision {
	t.Helper()
	got, err := l.Take(t.Context(), d...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestAlone is the algorithm by hand: a burst of three, one every second.
func TestAlone(t *testing.T) {
	c := newClock()
	l := limiter(t, ratelimit.Options{Now: c.now})
	d := ratelimit.Demand{Bucket: bucket(ratelimit.KindCredential), Rate: ratelimit.Rate{PerMinute: 60, Burst: 3}}
	for i, want := range []ratelimit.Decision{
		{Limited: true, Allowed: true, Limit: 60, Remaining: 2, Reset: time.Second, Kind: ratelimit.KindCredential},
		{Limited: true, Allowed: true, Limit: 60, Remaining: 1, Reset: 2 * time.Second, Kind: ratelimit.KindCredential},
		{Limited: true, Allowed: true, Limit: 60, Remaining: 0, Reset: 3 * time.Second, Kind: ratelimit.KindCredential},
		{Limited: true, Limit: 60, Reset: 3 * time.Second, RetryAfter: time.Second, Kind: ratelimit.KindCredential},
	} {
		if got := take(t, l, d); got != want {
			t.Errorf("request %d: %+v, want %+v", i, got, want)
		}
	}
	c.pass(999 * time.Millisecond)
	if got := take(t, l, d); got.Allowed || got.RetryAfter != time.Millisecond {
		t.Errorf("a moment too early: %+v", got)
	}
	c.pass(time.Millisecond)
	if got := take(t, l, d); !got.Allowed {
		t.Errorf("in time: %+v", got)
	}
	if got := take(t, l, ratelimit.Demand{Bucket: d.Bucket}); !got.Allowed || got.Limited {
		t.Errorf("without a rate: %+v", got)
	}
}

// TestConformance holds the limiter of one node against the definition: over any stretch of time no more than the burst and what the
// rate gives, and a request that waits as long as it was told passes.
func TestConformance(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock()
		l := limiter(t, ratelimit.Options{Now: c.now})
		r := ratelimit.Rate{PerMinute: rapid.IntRange(1, 10_000).Draw(rt, "rate"), Burst: rapid.IntRange(1, 50).Draw(rt, "burst")}
		d := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: r}
		interval := time.Minute / time.Duration(r.PerMinute)
		var passed []time.Time
		for range rapid.IntRange(1, 200).Draw(rt, "requests") {
			c.pass(time.Duration(rapid.Int64Range(0, int64(2*interval)).Draw(rt, "gap")))
			got := take(t, l, d)
			if !got.Allowed {
				if rapid.Bool().Draw(rt, "patient") {
					c.pass(got.RetryAfter)
					if got = take(t, l, d); !got.Allowed {
						rt.Fatalf("refused after waiting as long as was said: %+v", got)
					}
				} else {
					continue
				}
			}
			passed = append(passed, c.now())
		}
		for i := range passed {
			for j := i; j < len(passed); j++ {
				if allowed := r.Burst + int(passed[j].Sub(passed[i])/interval); j-i+1 > allowed {
					rt.Fatalf("%d passed in %v, %d may", j-i+1, passed[j].Sub(passed[i]), allowed)
				}
			}
		}
	})
}

// TestTogether: a request that one bucket refuses costs the others nothing.
func TestTogether(t *testing.T) {
	for _, store := range []ratelimit.Store{nil, newShared()} {
		l := limiter(t, ratelimit.Options{Store: store})
		wide := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: ratelimit.Rate{PerMinute: 3, Burst: 3}}
		narrow := ratelimit.Demand{Bucket: bucket(ratelimit.KindCredential), Rate: ratelimit.Rate{PerMinute: 1, Burst: 1}}
		if got := take(t, l, wide, narrow); !got.Allowed || got.Limit != 1 || got.Remaining != 0 {
			t.Errorf("the first: %+v", got)
		}
		for range 10 {
			if got := take(t, l, wide, narrow); got.Allowed || got.Kind != ratelimit.KindCredential {
				t.Errorf("beyond the narrow bucket: %+v", got)
			}
		}
		for range 2 {
			if got := take(t, l, wide); !got.Allowed {
				t.Errorf("the wide bucket was charged for what was refused: %+v", got)
			}
		}
		if got := take(t, l, wide); got.Allowed {
			t.Errorf("beyond the wide bucket: %+v", got)
		}
	}
}

// shared is a store in memory: the suite of stores has the real ones, this one counts and fails on demand.
type shared struct {
	mu    sync.Mutex // guards all below
	ahead map[ratelimit.Bucket]time.Time
	calls int
	err   error
}

func newShared() *shared { return &shared{ahead: map[ratelimit.Bucket]time.Time{}} }

func (s *shared) TakeCells(_ context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (int, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.err != nil {
		return 0, 0, s.err
	}
	now := time.Now()
	at := s.ahead[b]
	if at.Before(now) {
		at = now
	}
	got := min(want, int((tolerance-at.Sub(now))/interval))
	at = at.Add(time.Duration(got) * interval)
	s.ahead[b] = at
	return got, at.Sub(now), nil
}

func (s *shared) PruneCells(context.Context) error { return nil }

// TestShared: four nodes under an uneven load let through what the rate allows, together and within a tenth, and ask the store for a
// small part of the requests.
func TestShared(t *testing.T) {
	s := newShared()
	d := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: ratelimit.Rate{PerMinute: 120_000, Burst: 200}} // 2,000 a second
	const lasts = 1500 * time.Millisecond
	var passed, asked atomic.Int64
	var group sync.WaitGroup
	begun := time.Now()
	for node := range 4 {
		l := limiter(t, ratelimit.Options{Store: s})
		for range 1 + 2*node { // the last asks seven times as much as the first
			group.Go(func() {
				for time.Since(begun) < lasts {
					got, err := l.Take(t.Context(), d)
					if err != nil {
						t.Error(err)
						return
					}
					asked.Add(1)
					if got.Allowed {
						passed.Add(1)
					}
					time.Sleep(500 * time.Microsecond)
				}
			})
		}
	}
	group.Wait()
	may := 200 + 2000*time.Since(begun).Seconds()
	if n := float64(passed.Load()); n > 1.01*may || n < 0.9*may {
		t.Errorf("%.0f passed of %d, the rate allows %.0f", n, asked.Load(), may)
	}
	if s.calls > int(asked.Load())/5 {
		t.Errorf("the store was asked %d times for %d requests", s.calls, asked.Load())
	}
}

// TestStoreFails: nobody passes on a guess, and everybody who waits hears of it.
func TestStoreFails(t *testing.T) {
	s := newShared()
	s.err = fault.New(fault.StoreUnavailable, "away")
	l := limiter(t, ratelimit.Options{Store: s})
	d := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: ratelimit.Rate{PerMinute: 60}}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := l.Take(t.Context(), d); !fault.Has(err, fault.StoreUnavailable) {
				t.Errorf("the store is away: %v", err)
			}
		})
	}
	group.Wait()
	s.mu.Lock()
	s.err = nil
	s.mu.Unlock()
	if got := take(t, l, d); !got.Allowed {
		t.Errorf("the store is back: %+v", got)
	}
}

// TestGone: who waits for another's answer from the store leaves when its own time is over.
func TestGone(t *testing.T) {
	hold := make(chan struct{})
	l := limiter(t, ratelimit.Options{Store: waiting{newShared(), hold}})
	d := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: ratelimit.Rate{PerMinute: 60}}
	done := make(chan error, 1)
	go func() {
		_, err := l.Take(context.Background(), d)
		done <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for {
		_, err := l.Take(ctx, d)
		if fault.Has(err, fault.Timeout) {
			break
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// waiting answers once it may, or when the caller leaves.
type waiting struct {
	ratelimit.Store
	hold chan struct{}
}

func (w waiting) TakeCells(ctx context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (int, time.Duration, error) {
	select {
	case <-w.hold:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	return w.Store.TakeCells(ctx, b, interval, tolerance, want)
}

func BenchmarkTake(b *testing.B) {
	for name, store := range map[string]ratelimit.Store{"alone": nil, "shared": newShared()} {
		b.Run(name, func(b *testing.B) {
			l := limiter(b, ratelimit.Options{Store: store})
			rate := ratelimit.Rate{PerMinute: ratelimit.MaxPerMinute}
			tenant, key := ratelimit.Demand{Bucket: bucket(ratelimit.KindTenant), Rate: rate}, ratelimit.Demand{Bucket: bucket(ratelimit.KindCredential), Rate: rate}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Take(b.Context(), tenant, key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
