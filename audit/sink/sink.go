// Package sink hands the audit log on, as it grows, to places outside the service: a file, a syslog server, an HTTP receiver. Each gets every
// entry from its cursor on, in order and at least once, as the exact line that is hashed into the tree; none can hold up the log or another.
//
// It trusts the store for the log. A place that it hands on to is trusted with every tenant's entries, which hold no secrets.
package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
)

// Entries is what is handed on: audit.Store's part.
type Entries interface {
	// AuditEntries gives up to limit entries from index from upward, in order and without a gap.
	AuditEntries(ctx context.Context, from uint64, limit int) ([]audit.Stored, error)
}

// Cursors keeps up to where each sink has come. Implementations: store/sqlite, store/postgres; suite: store/storetest.
type Cursors interface {
	// SinkCursor gives the index at which a sink goes on; 0 for one that nobody knows.
	SinkCursor(ctx context.Context, name string) (next uint64, err error)
	// SaveSinkCursor keeps it, durable when it returns, unless what is kept is further on.
	SaveSinkCursor(ctx context.Context, name string, next uint64) error
}

// Leases do what one node at a time may do. *cluster.Leases is the implementation.
type Leases interface {
	Hold(ctx context.Context, name string, work func(ctx context.Context))
}

// place is one place outside. One goroutine uses it.
type place interface {
	// begin gives the index at which to go on, and makes the place ready.
	begin(ctx context.Context) (next uint64, err error)
	// write hands entries on, all of them or an error. What it has taken may be written again after an error.
	write(ctx context.Context, entries []audit.Stored) error
	// saved is called when write has succeeded, with the index at which to go on.
	saved(ctx context.Context, next uint64) error
	// end lets go of what begin or write have opened.
	end()
}

const (
	pollEvery = 250 * time.Millisecond
	batchSize = 500
	firstWait = 250 * time.Millisecond
	maxWait   = 30 * time.Second
)

// Options of a Sink. Log and Entries are required.
type Options struct {
	Entries Entries
	Cursors Cursors // of syslog and HTTP
	Leases  Leases  // of syslog and HTTP
	Logger  *slog.Logger
	Metrics *Metrics
}

// Sink is one place with what follows the log for it.
type Sink struct {
	name  string // as the cursor, the lease and the metrics have it
	local bool   // each node has its own: no lease
	place place
	o     Options
}

// Name is what the sink is called.
func (s *Sink) Name() string { return s.name }

// Run hands on until ctx ends: at once for a file, which each node writes for itself, and while this node has the sink's lease for the others.
func (s *Sink) Run(ctx context.Context) {
	if s.local {
		s.follow(ctx)
		return
	}
	s.o.Leases.Hold(ctx, "audit-sink:"+s.name, s.follow)
}

// follow hands on until ctx ends. After a failure it begins anew, later and later.
func (s *Sink) follow(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		handed, err := s.some(ctx)
		s.place.end()
		if ctx.Err() != nil {
			return
		}
		if handed {
			failures = 0
		}
		if failures++; failures == 1 {
			s.o.Logger.Warn("the audit log cannot be handed on", "sink", s.name, "error", err) // once, until it goes on
		}
		s.o.Metrics.failed(s.name)
		sleep(ctx, min(firstWait<<min(failures-1, 10), maxWait))
	}
}

var errOrder = errors.New("the store gives audit entries out of order")

// some hands on until there is an error.
func (s *Sink) some(ctx context.Context) (handed bool, err error) {
	next, err := s.place.begin(ctx)
	if err != nil {
		return false, err
	}
	for ctx.Err() == nil {
		entries, err := s.o.Entries.AuditEntries(ctx, next, batchSize)
		if err != nil {
			return handed, fmt.Errorf("reading the audit log: %w", err)
		}
		if len(entries) == 0 {
			sleep(ctx, pollEvery)
			continue
		}
		for i := range entries {
			if entries[i].Index != next+uint64(i) {
				return handed, errOrder
			}
		}
		if err := s.place.write(ctx, entries); err != nil {
			return handed, err
		}
		next += uint64(len(entries))
		if err := s.place.saved(ctx, next); err != nil {
			return handed, fmt.Errorf("keeping the cursor: %w", err)
		}
		handed = true
		s.o.Metrics.handed(s.name, len(entries), next)
	}
	return handed, ctx.Err()
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// remote is what places have in common whose cursor is in the store.
type remote struct {
	name    string
	cursors Cursors
}

func (r *remote) begin(ctx context.Context) (uint64, error) { return r.cursors.SinkCursor(ctx, r.name) }

func (r *remote) saved(ctx context.Context, next uint64) error {
	return r.cursors.SaveSinkCursor(ctx, r.name, next)
}

// Metrics are those of all sinks of a node. A nil one counts nothing.
type Metrics struct {
	entries, failures *prometheus.CounterVec
	next              *prometheus.GaugeVec
}

// NewMetrics makes them. The error is a name that is taken.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		entries:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_audit_sink_entries_total", Help: "Audit entries handed on."}, []string{"sink"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_audit_sink_failures_total", Help: "Failures to hand audit entries on."}, []string{"sink"}),
		next: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keywright_audit_sink_next",
			Help: "Index of the entry that is handed on next; keywright_audit_size is the end."}, []string{"sink"}),
	}
	for _, c := range []prometheus.Collector{m.entries, m.failures, m.next} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) handed(name string, n int, next uint64) {
	if m != nil {
		m.entries.WithLabelValues(name).Add(float64(n))
		m.next.WithLabelValues(name).Set(float64(next))
	}
}

func (m *Metrics) failed(name string) {
	if m != nil {
		m.failures.WithLabelValues(name).Inc()
	}
}
