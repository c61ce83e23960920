package events

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/fault"
)

// StreamOptions bound the streams of a node. The zero value of each field means its default.
type StreamOptions struct {
	// Most is how many may be open at once. Default 512.
	Most int
	// MostOfTenant is how many one tenant may have open at once. Default 64.
	MostOfTenant int
	// Registerer takes the metrics. Default: there are none.
	Registerer prometheus.Registerer
}

// Streams are the streams that are open on this node. They are safe for concurrent use.
type Streams struct {
	feed *Feed
	o    StreamOptions
	open prometheus.Gauge
	sent prometheus.Counter
	over chan struct{} // closed by Drain

	mu     sync.Mutex // guards what follows
	of     map[uuid.UUID]int
	all    int
	closed bool
}

// NewStreams makes them. The error is that of a metric whose name is taken.
func NewStreams(feed *Feed, o StreamOptions) (*Streams, error) {
	if o.Most <= 0 {
		o.Most = 512
	}
	if o.MostOfTenant <= 0 {
		o.MostOfTenant = 64
	}
	s := &Streams{feed: feed, o: o, of: map[uuid.UUID]int{}, over: make(chan struct{}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keywright_event_streams", Help: "Event streams that are open."}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "keywright_event_stream_events_total", Help: "Events given to streams."})}
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{s.open, s.sent} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Stream is the events of one tenant that fit a filter, in order, each once. One goroutine uses it.
type Stream struct {
	s      *Streams
	tenant uuid.UUID
	filter Filter
	next   uint64
	leave  func()
}

// Open begins a stream: behind the event with the id after, or with nil at what comes from now on. fault.EventsGone when that is not kept
// any more, fault.BadField for a filter that cannot fit, fault.Overloaded when too many are open. The caller closes it.
func (s *Streams) Open(ctx context.Context, tenant uuid.UUID, after *uint64, filter Filter) (*Stream, error) {
	if err := filter.check(); err != nil {
		return nil, err
	}
	if err := s.enter(tenant); err != nil {
		return nil, err
	}
	leave, err := s.feed.join()
	if err != nil {
		s.left(tenant)
		return nil, err
	}
	t := &Stream{s: s, tenant: tenant, filter: filter, leave: sync.OnceFunc(func() { leave(); s.left(tenant) })}
	if after == nil {
		t.next, err = s.feed.Head(ctx)
	} else {
		// Whether it is still kept is known now, while there is a status to say it with.
		var lost bool
		t.next = *after + 1
		_, _, lost, err = s.feed.store.News(ctx, t.next, pageSize)
		if err == nil && lost {
			err = errGone
		}
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (s *Streams) enter(tenant uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return fault.New(fault.Unavailable, "the service is stopping").RetryAfter(time.Second)
	case s.all >= s.o.Most, s.of[tenant] >= s.o.MostOfTenant:
		return fault.New(fault.Overloaded, "too many event streams are open").RetryAfter(10 * time.Second)
	}
	s.all++
	s.of[tenant]++
	s.open.Set(float64(s.all))
	return nil
}

func (s *Streams) left(tenant uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[tenant]--; s.of[tenant] == 0 {
		delete(s.of, tenant)
	}
	s.open.Set(float64(s.all))
}

// Drain ends all streams and lets none begin. Their clients go on elsewhere, where they left off.
func (s *Streams) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.over)
	}
}

// Over is closed when the streams are to end.
func (s *Streams) Over() <-chan struct{} { return s.over }

// Next gives the events that have come, waiting for one up to the given time, and the position up to which all is told: the id to go on
// behind (ok is false when there is none yet). The errors are those of Feed.Next.
func (t *Stream) Next(ctx context.Context, wait time.Duration) (events []*Event, last uint64, ok bool, err error) {
	all, next, err := t.s.feed.Next(ctx, t.next, wait)
	if err != nil {
		return nil, 0, false, err
	}
	t.next = next
	for _, e := range all {
		if e.Tenant == t.tenant && t.filter.Match(e) {
			events = append(events, e)
		}
	}
	t.s.sent.Add(float64(len(events)))
	return events, max(next, 1) - 1, next > 0, nil
}

// Position is what Next gives as the position, before anything was read.
func (t *Stream) Position() (last uint64, ok bool) { return max(t.next, 1) - 1, t.next > 0 }

// Close ends the stream. It may be called more than once.
func (t *Stream) Close() { t.leave() }
