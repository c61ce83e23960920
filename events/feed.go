package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sort"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// Log is what a Feed needs of the store.
type Log interface {
	// News gives news in the order of the log; see cluster.Store.
	News(ctx context.Context, from uint64, limit int) (news []cluster.News, next uint64, lost bool, err error)
	// AuditEntries gives entries; see audit.Store.
	AuditEntries(ctx context.Context, from uint64, limit int) ([]audit.Stored, error)
}

// Keys tells what a key is called.
type Keys interface {
	// EventKey gives name and labels of a key of the tenant as they are now, and fault.KeyNotFound for one that is not there.
	EventKey(ctx context.Context, tenant, id uuid.UUID) (name string, labels map[string]string, err error)
}

const (
	pollEvery = 200 * time.Millisecond
	ringSize  = 4096 // events that are kept for those who are nearly up to date
	pageSize  = 1000 // news read at once
	catchUps  = 2    // of those who are not: who may read the store at once
)

// errGone: what was asked for is not kept any more, or not of this log.
var errGone = fault.New(fault.EventsGone, "events are kept for 3 days, and what came after this id is not all there any more: read the audit log, then begin anew")

// Feed reads the changes of a store once for all who listen on this node. It is safe for concurrent use.
type Feed struct {
	store Log
	keys  Keys
	log   *slog.Logger
	turns chan struct{} // holds a token for each who reads the store to catch up

	mu     sync.Mutex    // guards what follows
	ring   []*Event      // all events with from ≤ Index < to, ascending
	from   uint64        // of what the ring is complete
	to     uint64        // up to where
	grown  chan struct{} // closed, and replaced, when an event came or the ring was begun anew
	users  int
	wake   chan struct{} // room for one
	cancel context.CancelFunc
	ended  chan struct{} // closed when the goroutine has ended; nil: none runs
	closed bool
}

// NewFeed makes a feed. It reads nothing as long as nobody listens.
func NewFeed(store Log, keys Keys, log *slog.Logger) *Feed {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Feed{store: store, keys: keys, log: log, turns: make(chan struct{}, catchUps), grown: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// Wake says that there may be news: they are asked for at once instead of within 200 ms. It does not block.
func (f *Feed) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Head is the index of the next entry of the log: who begins there hears of all that is committed from now on.
func (f *Feed) Head(ctx context.Context) (uint64, error) {
	_, next, _, err := f.store.News(ctx, math.MaxInt64, pageSize)
	if err != nil {
		return 0, fmt.Errorf("reading the head of the events: %w", err)
	}
	return next, nil
}

// join makes the feed follow the log until the last who joined has left. fault.Unavailable after Close.
func (f *Feed) join() (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fault.New(fault.Unavailable, "the service is stopping").RetryAfter(time.Second)
	}
	if f.users++; f.users == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		before, ended := f.ended, make(chan struct{})
		f.cancel, f.ended = cancel, ended
		go func() {
			defer close(ended)
			if before != nil {
				<-before // the one of those who have left
			}
			f.follow(ctx)
		}()
	}
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.users--; f.users == 0 {
			f.cancel()
		}
	}), nil
}

// Close ends the reading, and waits for it. Those who listen get no more.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	if f.cancel != nil {
		f.cancel()
	}
	ended := f.ended
	f.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// follow keeps the ring up to date until ctx ends. It begins at the end of the log: what was before is read by those who need it.
func (f *Feed) follow(ctx context.Context) {
	f.begin(0, 0) // nothing is known until the first answer
	started, failing := false, false
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		var err error
		if !started {
			var head uint64
			if head, err = f.Head(ctx); err == nil {
				f.begin(head, head)
				started = true
			}
		} else {
			err = f.more(ctx)
		}
		if err != nil && ctx.Err() == nil && !failing {
			f.log.Warn("events cannot be read", "error", err) // once: it is asked again all the time
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			f.begin(0, 0)
			return
		case <-f.wake:
		case <-tick.C:
		}
	}
}

// begin empties the ring.
func (f *Feed) begin(from, to uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring, f.from, f.to = nil, from, to
	f.signal()
}

func (f *Feed) signal() {
	close(f.grown)
	f.grown = make(chan struct{})
}

// more reads on to the end of the log.
func (f *Feed) more(ctx context.Context) error {
	for {
		f.mu.Lock()
		at := f.to
		f.mu.Unlock()
		events, next, again, err := f.read(ctx, at)
		if errors.Is(err, errGone) {
			f.begin(next, next)
			return nil
		}
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.to = next
		if len(events) > 0 {
			f.ring = append(f.ring, events...)
			if over := len(f.ring) - ringSize; over > 0 {
				f.from = f.ring[over-1].Index + 1
				f.ring = append(make([]*Event, 0, ringSize+pageSize), f.ring[over:]...)
			}
			f.signal()
		}
		f.mu.Unlock()
		if !again {
			return nil
		}
	}
}

// Next gives the events from index at on, of all tenants, and where to go on. When there are none it waits for one, or until wait is over.
// The errors are fault.EventsGone, with the index at which to begin anew, the store's, and fault.Timeout when ctx ended.
func (f *Feed) Next(ctx context.Context, at uint64, wait time.Duration) (events []*Event, next uint64, err error) {
	var timer <-chan time.Time
	for {
		f.mu.Lock()
		known, grown := f.to > 0 && at >= f.from, f.grown
		if known && at <= f.to {
			i := sort.Search(len(f.ring), func(i int) bool { return f.ring[i].Index >= at })
			if i < len(f.ring) {
				events = f.ring[i:min(i+pageSize, len(f.ring)):len(f.ring)]
				next = events[len(events)-1].Index + 1
				f.mu.Unlock()
				return events, next, nil
			}
			at = f.to
		}
		f.mu.Unlock()
		if !known {
			events, next, again, err := f.catchUp(ctx, at)
			if err != nil || len(events) > 0 || !again && next > at {
				return events, next, err
			}
			if at = next; again {
				continue
			}
		}
		if timer == nil {
			t := time.NewTimer(wait)
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-grown:
		case <-timer:
			return nil, at, nil
		case <-ctx.Done():
			return nil, at, fault.Wrap(fault.Timeout, "the deadline passed before there was an event", ctx.Err())
		}
	}
}

// catchUp reads the store for one who is behind the ring, in turns.
func (f *Feed) catchUp(ctx context.Context, at uint64) ([]*Event, uint64, bool, error) {
	select {
	case f.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, at, false, fault.Wrap(fault.Timeout, "the deadline passed before there was an event", ctx.Err())
	}
	defer func() { <-f.turns }()
	return f.read(ctx, at)
}

// read makes the events of a page of news. again: there may be more.
func (f *Feed) read(ctx context.Context, from uint64) (events []*Event, next uint64, again bool, err error) {
	news, next, lost, err := f.store.News(ctx, from, pageSize)
	if err != nil {
		return nil, from, false, fmt.Errorf("reading news: %w", err)
	}
	if lost {
		return nil, next, false, errGone
	}
	again = len(news) >= pageSize
	for len(news) > 0 {
		// Entries that lie close together are read together.
		n := 1
		for n < len(news) && news[n].Index-news[n-1].Index <= 4 && news[n].Index-news[0].Index < 256 {
			n++
		}
		first, count := news[0].Index, int(news[n-1].Index-news[0].Index)+1
		entries, err := f.store.AuditEntries(ctx, first, count)
		if err != nil {
			return nil, from, false, fmt.Errorf("reading audit entries: %w", err)
		}
		if len(entries) != count {
			return nil, from, false, fault.New(fault.StoreCorrupted, "there is news of an audit entry that is not there")
		}
		for i := range n {
			if i > 0 && news[i].Index == news[i-1].Index {
				continue // one entry, one event
			}
			if entries[news[i].Index-first].Pruned() {
				return nil, next, false, errGone
			}
			e, err := f.event(ctx, &entries[news[i].Index-first], news[i].Kind)
			if err != nil {
				return nil, from, false, err
			}
			if e != nil {
				events = append(events, e)
			}
		}
		news = news[n:]
	}
	return events, next, again, nil
}

func (f *Feed) event(ctx context.Context, s *audit.Stored, kind cluster.Kind) (*Event, error) {
	e, err := audit.ParseLeaf(s.Leaf)
	if err != nil {
		return nil, fault.Wrap(fault.StoreCorrupted, "an audit entry cannot be read", err)
	}
	var name string
	var labels map[string]string
	if e.Key != uuid.Nil && happened(&e) {
		name, labels, err = f.keys.EventKey(ctx, e.Tenant, e.Key)
		if err != nil && !fault.Has(err, fault.KeyNotFound) {
			return nil, fmt.Errorf("reading the name of a key: %w", err)
		}
	}
	return fromEntry(s.Index, &e, kind, name, labels)
}
