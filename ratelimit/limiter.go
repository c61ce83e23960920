package ratelimit

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/fault"
)

const (
	shards = 32
	// perShard bounds the buckets in memory. A bucket that gives way is asked for anew, or begins full where nothing is shared.
	perShard = 4096
	// portion is the time for whose requests cells are taken in advance, and hold how long they are good.
	portion = 100 * time.Millisecond
	hold    = time.Second
	// pauseMost and pauseLeast bound how long a node leaves an empty bucket alone.
	pauseMost, pauseLeast = 10 * time.Millisecond, time.Millisecond
	// maxPortion bounds what one node takes at a time, and so does the part of what it has used that it may lose.
	maxPortion = 100_000
	usedPart   = 10
)

// Options of a Limiter. The zero value is a Limiter of one node.
type Options struct {
	// Store shares the buckets with other nodes; nil: there are none.
	Store Store
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
}

// Limiter decides. It is safe for concurrent use, starts no goroutines and needs no closing.
type Limiter struct {
	store  Store
	now    func() time.Time
	shards [shards]shard
	count  *prometheus.CounterVec // nil: none
}

type shard struct {
	mu      sync.Mutex // guards buckets
	buckets map[Bucket]*bucket
}

// bucket is what this node knows of one.
type bucket struct {
	mu     sync.Mutex    // guards all below
	rate   Rate          // that the rest is about
	empty  time.Time     // when it has all its burst again: the truth where nothing is shared, else as last heard
	cells  int           // taken and not used
	until  time.Time     // what is not used by then is void
	got    int           // how many were taken last
	want   int           // how many to take next
	used   int           // how many have been used since cells were last lost
	asked  time.Time     // when they were taken
	denied time.Time     // nothing is to be had before
	asking chan struct{} // closed when the one who asks the store is back; nil: nobody asks
}

// New makes a Limiter.
func New(o Options) (*Limiter, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Limiter{store: o.Store, now: o.Now}
	for i := range l.shards {
		l.shards[i].buckets = map[Bucket]*bucket{}
	}
	if o.Registerer != nil {
		l.count = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_rate_limited_total",
			Help: "Requests refused because their bucket was empty, by what the bucket counts."}, []string{"kind"})
		if err := o.Registerer.Register(l.count); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Take passes a request through all buckets, or through none of them. Demands without a rate are passed over. An error is the
// store's, or fault.Timeout when ctx has ended.
func (l *Limiter) Take(ctx context.Context, demands ...Demand) (Decision, error) {
	var strictest Decision
	for i, d := range demands {
		if d.Rate.PerMinute <= 0 {
			continue
		}
		one, err := l.take(ctx, d)
		if err == nil && one.Allowed {
			if !strictest.Limited || one.Remaining < strictest.Remaining {
				strictest = one
			}
			continue
		}
		for _, taken := range demands[:i] {
			if taken.Rate.PerMinute > 0 {
				l.giveBack(taken)
			}
		}
		if err == nil && l.count != nil {
			l.count.WithLabelValues(string(d.Bucket.Kind)).Inc()
		}
		return one, err
	}
	if !strictest.Limited {
		strictest.Allowed = true
	}
	return strictest, nil
}

func (l *Limiter) bucket(id Bucket) *bucket {
	s := &l.shards[(id.ID[15]^id.Kind[0])%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[id]
	if b == nil {
		if len(s.buckets) >= perShard {
			for other := range s.buckets {
				delete(s.buckets, other)
				break
			}
		}
		b = &bucket{want: 1}
		s.buckets[id] = b
	}
	return b
}

func (l *Limiter) take(ctx context.Context, d Demand) (Decision, error) {
	b := l.bucket(d.Bucket)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate != d.Rate {
		b.hold(d.Rate, l.now())
	}
	if l.store == nil {
		return b.alone(d, l.now()), nil
	}
	for {
		now := l.now()
		if b.cells > 0 && now.Before(b.until) {
			b.cells--
			return b.say(d, now, true), nil
		}
		if now.Before(b.denied) {
			return b.say(d, now, false), nil
		}
		if b.asking == nil {
			if err := l.ask(ctx, b, d); err != nil {
				return Decision{}, err
			}
			continue
		}
		asking := b.asking
		b.mu.Unlock()
		var err error
		select {
		case <-asking:
		case <-ctx.Done():
			err = fault.Wrap(fault.Timeout, "the deadline passed before the rate was checked", context.Cause(ctx))
		}
		b.mu.Lock()
		if err != nil {
			return Decision{}, err
		}
	}
}

// ask takes cells from the store. b.mu is held, but not while the store is asked.
func (l *Limiter) ask(ctx context.Context, b *bucket, d Demand) error {
	now := l.now()
	b.adapt(now)
	want := min(b.want, d.Rate.burst(), maxPortion)
	b.asking = make(chan struct{})
	b.mu.Unlock()
	got, ahead, err := l.store.TakeCells(ctx, d.Bucket, d.Rate.interval(), d.Rate.tolerance(), want)
	b.mu.Lock()
	close(b.asking)
	b.asking = nil
	if err != nil {
		return err
	}
	b.asked, b.got, b.cells, b.empty = now, got, got, now.Add(ahead)
	b.until, b.denied = now.Add(hold), time.Time{}
	if got == 0 {
		// Not at once when there is one again, but when there are some: a flood must not ask the store for each cell.
		pause := min(pauseMost, max(d.Rate.tolerance()/2, pauseLeast))
		b.denied = now.Add(max(ahead+d.Rate.interval()-d.Rate.tolerance(), pause))
	}
	return nil
}

// hold notes what the bucket is held to. Another rate than before finds it no fuller than it can be, as in the store: else a plan with a long burst that was used up would
// be felt for hours under the next one.
func (b *bucket) hold(r Rate, now time.Time) {
	b.rate, b.denied = r, time.Time{}
	if most := now.Add(r.tolerance()); b.empty.After(most) {
		b.empty = most
	}
}

// adapt sets how many cells to take next: what was needed lately in a portion of time, and at most a small part of what has been used, as they are lost when nobody
// comes for them.
func (b *bucket) adapt(now time.Time) {
	if b.asked.IsZero() {
		return
	}
	used := max(b.got-b.cells, 0)
	passed := max(now.Sub(b.asked), time.Millisecond)
	need := int64(used) * int64(portion) / int64(passed)
	b.used = min(b.used+used, usedPart*maxPortion)
	b.want = int(max(1, min(need, int64(b.used/usedPart))))
	if b.cells > 0 || passed > hold {
		b.used = 0
	}
}

// alone is the whole algorithm where no other node takes from the bucket.
func (b *bucket) alone(d Demand, now time.Time) Decision {
	next := b.empty
	if next.Before(now) {
		next = now
	}
	next = next.Add(d.Rate.interval())
	if next.Sub(now) > d.Rate.tolerance() {
		return b.say(d, now, false)
	}
	b.empty = next
	return b.say(d, now, true)
}

// say puts a decision into words.
func (b *bucket) say(d Demand, now time.Time, allowed bool) Decision {
	t, tolerance := d.Rate.interval(), d.Rate.tolerance()
	ahead := max(b.empty.Sub(now), 0)
	out := Decision{Limited: true, Allowed: allowed, Limit: d.Rate.PerMinute, Reset: ahead, Kind: d.Bucket.Kind}
	if !allowed {
		out.RetryAfter = max(ahead+t-tolerance, b.denied.Sub(now), time.Millisecond)
		return out
	}
	out.Remaining = min(max(int((tolerance-ahead)/t), 0)+b.cells, d.Rate.burst())
	return out
}

// giveBack undoes a take: another bucket of the same request was empty.
func (l *Limiter) giveBack(d Demand) {
	b := l.bucket(d.Bucket)
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.store != nil {
		b.cells++ // still charged, and good as long as the others that were taken with it
		return
	}
	b.empty = b.empty.Add(-d.Rate.interval())
}
