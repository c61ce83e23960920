package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// FreshFor is how long after the beginning of a successful look for news what is cached may be believed: no change made on
	// another node is overlooked for longer.
	FreshFor = time.Second
	// pollEvery is how often a feed looks for news when nothing wakes it.
	pollEvery = 200 * time.Millisecond
	// pollGap is the least time between two looks, however many commits wake the feed.
	pollGap = 5 * time.Millisecond
	// listenAgain is when a feed listens again whose connection was lost.
	listenAgain = 500 * time.Millisecond
	page        = 1000
)

// Subscriber is told what other nodes, and this one, have changed. It is called from the feed's goroutine, in the order of the log, and
// must not block.
type Subscriber struct {
	// Heard is one piece of news.
	Heard func(News)
	// Forget says that news may have been missed: nothing that is cached may be believed any more. It also comes first.
	Forget func()
}

// FeedOptions are the parts of a Feed. Store is required.
type FeedOptions struct {
	Store Store
	// Subscribers are told of all news, in this order.
	Subscribers []Subscriber
	// Registerer takes the metrics; nil: they are counted and shown nowhere.
	Registerer prometheus.Registerer
	// Logger hears when news cannot be had, and when they can be again; nil: nothing is logged.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Feed looks for news several times a second, and at once when the store wakes it, and says whether what is cached may be believed. Wakes are
// for speed alone: with all of them lost, news are met by looking. All methods are safe for concurrent use.
type Feed struct {
	opts    FeedOptions
	log     *slog.Logger
	began   atomic.Pointer[time.Time] // of the newest look that succeeded; nil: none has
	wake    chan struct{}
	next    uint64 // of Run alone
	failing bool   // of Run alone
	polls   *prometheus.CounterVec
	heard   prometheus.Counter
	lost    prometheus.Counter
}

// NewFeed makes a feed. Until Run has looked for the first time nothing is fresh.
func NewFeed(o FeedOptions) (*Feed, error) {
	if o.Store == nil {
		return nil, errors.New("cluster: a feed needs a store")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Feed{opts: o, log: o.Logger, wake: make(chan struct{}, 1), next: math.MaxInt64} // beyond any end: what was before is not asked for
	f.polls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywright_news_polls_total", Help: "Looks for news of changes on other nodes, by their outcome.",
	}, []string{"outcome"})
	f.heard = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "keywright_news_total", Help: "Changes on this and other nodes that this node was told of.",
	})
	f.lost = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "keywright_news_lost_total", Help: "How often news were missed that had been forgotten already, so that all caches were emptied.",
	})
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywright_news_age_seconds",
		Help: "Time since the last successful look for news began. At 1 nothing cached is believed any more. -1: none has succeeded yet.",
	}, func() float64 {
		at := f.began.Load()
		if at == nil {
			return -1
		}
		return o.Now().Sub(*at).Seconds()
	})
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{f.polls, f.heard, f.lost, lag} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("registering metrics of the feed: %w", err)
			}
		}
	}
	return f, nil
}

// Fresh reports whether what is cached may be believed now: every change that was committed more than FreshFor ago has been told. It costs
// no more than reading the clock.
func (f *Feed) Fresh() bool {
	began := f.began.Load()
	if began == nil {
		return false
	}
	now := f.opts.Now()
	// The second comparison is of wall clocks: the monotonic one rests while a machine is suspended.
	return now.Sub(*began) < FreshFor && now.Round(0).Sub(began.Round(0)) < FreshFor
}

// Run looks for news until ctx ends. It is called once.
func (f *Feed) Run(ctx context.Context) {
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		f.listen(ctx)
	}()
	defer func() { <-listening }()
	for ctx.Err() == nil {
		f.look(ctx)
		sleep(ctx, pollGap, nil)
		sleep(ctx, pollEvery-pollGap, f.wake)
	}
}

// sleep waits for the time, the end of ctx or a value of early.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-early:
	case <-ctx.Done():
	}
}

// listen keeps being woken, for as long as ctx lasts.
func (f *Feed) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.opts.Store.Listen(ctx, func() {
			select {
			case f.wake <- struct{}{}:
			default: // it is awake already
			}
		})
		if ctx.Err() == nil {
			f.log.Debug("notifications of news are lost for a moment: they are looked for instead", "error", err)
		}
		sleep(ctx, listenAgain, nil)
	}
}

// look tells the subscribers all there is, and notes when it began to ask.
func (f *Feed) look(ctx context.Context) {
	// What was asked for longer ago than that would not make anything fresh.
	asking, cancel := context.WithTimeout(ctx, FreshFor)
	defer cancel()
	for {
		began := f.opts.Now()
		news, next, lost, err := f.opts.Store.News(asking, f.next, page)
		if err != nil {
			f.failed(ctx, err)
			return
		}
		f.polls.WithLabelValues("ok").Inc()
		if lost {
			if f.began.Load() != nil {
				f.lost.Inc()
				f.log.Warn("news of changes were missed: the caches are empty again")
			}
			for _, s := range f.opts.Subscribers {
				s.Forget()
			}
		}
		for _, n := range news {
			for _, s := range f.opts.Subscribers {
				s.Heard(n)
			}
		}
		f.heard.Add(float64(len(news)))
		f.next = next
		if len(news) < page {
			f.began.Store(&began)
			break
		}
	}
	if f.failing {
		f.failing = false
		f.log.Info("news of changes can be had again")
	}
}

func (f *Feed) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // the end, and no failure
	}
	f.polls.WithLabelValues("error").Inc()
	if !f.failing {
		f.failing = true
		f.log.Warn("news of changes cannot be had: nothing cached is believed after a second", "error", err)
	}
}
