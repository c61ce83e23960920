package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// LeaseTTL is how long a lease lasts that is not prolonged. It is prolonged, and asked for in vain, three times in that time; so what a node
// that vanishes was doing is taken up by another within four seconds.
const LeaseTTL = 3 * time.Second

// LeasesOptions are the parts of Leases. Store and Holder are required.
type LeasesOptions struct {
	Store  Store
	Holder uuid.UUID     // this node
	TTL    time.Duration // 0: LeaseTTL
	// Registerer takes the metrics; nil: they are counted and shown nowhere.
	Registerer prometheus.Registerer
	// Logger hears when leases cannot be had; nil: nothing is logged.
	Logger *slog.Logger
}

// Leases does work that one node at a time may do. It is safe for concurrent use.
type Leases struct {
	opts LeasesOptions
	held *prometheus.GaugeVec
}

// NewLeases makes Leases.
func NewLeases(o LeasesOptions) (*Leases, error) {
	if o.Store == nil || o.Holder == uuid.Nil {
		return nil, errors.New("cluster: leases need a store and a holder")
	}
	if o.TTL <= 0 {
		o.TTL = LeaseTTL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Leases{opts: o, held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "keywright_lease_held", Help: "Whether this node does the work that one node at a time does.",
	}, []string{"lease"})}
	if o.Registerer != nil {
		if err := o.Registerer.Register(l.held); err != nil {
			return nil, fmt.Errorf("registering metrics of the leases: %w", err)
		}
	}
	return l, nil
}

// Hold runs work whenever this node has the lease, until ctx ends. The context of work ends before the lease can have run out by this node's
// own clock, which is not compared with any other. Work has to end then: it may change nothing that another node's work would not bear
// beside it, should it be held up at the wrong moment. When work ends by itself the lease is given back, and asked for again after its time.
func (l *Leases) Hold(ctx context.Context, name string, work func(ctx context.Context)) {
	failing := false
	for ctx.Err() == nil {
		until, held, err := l.acquire(ctx, name)
		switch {
		case err != nil && ctx.Err() == nil && !failing:
			failing = true
			l.opts.Logger.Warn("a lease cannot be asked for", "lease", name, "error", err)
		case err == nil:
			failing = false
		}
		if held {
			l.while(ctx, name, until, work)
		}
		sleep(ctx, l.opts.TTL/3, nil)
	}
}

// Once waits for the lease, runs work under it once and gives the lease back. It gives the error of work, or why the lease could not be had.
func (l *Leases) Once(ctx context.Context, name string, work func(ctx context.Context) error) error {
	for {
		until, held, err := l.acquire(ctx, name)
		if err != nil {
			return err
		}
		if held {
			var failed error
			l.while(ctx, name, until, func(ctx context.Context) { failed = work(ctx) })
			return failed
		}
		sleep(ctx, min(l.opts.TTL/3, 50*time.Millisecond), nil)
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("waiting for the lease %s: %w", name, err)
		}
	}
}

// acquire asks for the lease, or prolongs it, and gives until when it is safe to work by this node's clock: reckoned from before the store was
// asked, less some time to stop in.
func (l *Leases) acquire(ctx context.Context, name string) (until time.Time, held bool, err error) {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, l.opts.TTL/2)
	defer cancel()
	_, held, err = l.opts.Store.Acquire(ctx, name, l.opts.Holder, l.opts.TTL)
	return asked.Add(l.opts.TTL - l.opts.TTL/6), held, err
}

// while runs work and prolongs the lease until work ends, the lease is lost or ctx ends. Then it waits for work and gives the lease back.
func (l *Leases) while(ctx context.Context, name string, until time.Time, work func(ctx context.Context)) {
	gauge := l.held.WithLabelValues(name)
	gauge.Set(1)
	defer gauge.Set(0)
	working, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(working)
	}()
	ends := time.NewTimer(time.Until(until))
	defer ends.Stop()
	ask := time.NewTicker(l.opts.TTL / 3)
	defer ask.Stop()
	type answer struct {
		until  time.Time // zero: not known
		others bool
	}
	prolonged := make(chan answer, 1)
	asking := false
	for open := true; open; {
		select {
		case <-done:
			open = false
		case <-ctx.Done():
			open = false
		case <-ends.C:
			l.opts.Logger.Warn("a lease could not be prolonged: its work stops here", "lease", name)
			open = false
		case a := <-prolonged:
			asking = false
			open = !a.others
			if a.until.After(until) {
				until = a.until
				ends.Reset(time.Until(until))
			}
		case <-ask.C:
			if asking {
				break
			}
			asking = true
			go func() { // so that a store that does not answer does not hold the end up
				next, held, err := l.acquire(working, name)
				if err != nil {
					next = time.Time{}
				}
				prolonged <- answer{next, err == nil && !held}
			}()
		}
	}
	stop()
	<-done
	if asking {
		<-prolonged // it ends with working; a lease that it got after all is given back here
	}
	giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := l.opts.Store.Release(giving, name, l.opts.Holder); err != nil {
		l.opts.Logger.Debug("a lease was not given back: it runs out", "lease", name, "error", err)
	}
}
