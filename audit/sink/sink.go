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
	// AuditKept gives the first entry that is not pruned.
	AuditKept(ctx context.Context) (first uint64, at time.Time, err error)
}

// Cursors keeps up to where each sink has come. Implementations: store/sqlite, store/postgres; suite: store/storetest.
type Cursors interface {
	// SinkCursor gives the index at which a sink goes on; 0 for one that nobody knows.
	SinkCursor(ctx context.Context, name string) (next uint64, err error)
	// SaveSinkCursor keeps it, durable when it returns, unless what is kept is further on, and when that was said.
	SaveSinkCursor(ctx context.Context, name string, next uint64) error
	// SinkCursors gives all that are kept, by name.
	SinkCursors(ctx context.Context) ([]Cursor, error)
}

// Cursor is where a sink goes on.
type Cursor struct {
	Name   string
	Next   uint64
	SaidAt time.Time // when it was saved last, by the clock of who did; zero: nobody knows
}

// LocalName is the name of the cursor of a file, which each node has for itself. The file says itself where it goes on: the cursor tells others.
func LocalName(sink, node string) string { return sink + "/" + node }

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
	// skip says that the entries before next were pruned before the place has taken them all: it goes on there.
	skip(next uint64) error
	// saved is called when write has succeeded, with the index at which to go on.
	saved(ctx context.Context, next uint64) error
	// end lets go of what begin or write have opened.
	end()
}

const (
	pollEvery = 250 * time.Millisecond
	batchSize = 500
	batchRoom = 512 << 10 // bytes of entries in a batch, unless one alone has more: receivers refuse what is too long, and would for ever
	firstWait = 250 * time.Millisecond
	maxWait   = 30 * time.Second
	sayEvery  = time.Minute // how often a file's place is said to others
)

// Options of a Sink. Log and Entries are required.
type Options struct {
	Entries Entries
	Cursors Cursors // of syslog and HTTP; of a file, when others are to know of it
	Leases  Leases  // of syslog and HTTP
	Node    string  // of a file: what this node is called
	Logger  *slog.Logger
	Metrics *Metrics
}

// Sink is one place with what follows the log for it.
type Sink struct {
	name  string // as the cursor, the lease and the metrics have it
	local bool   // each node has its own: no lease
	place place
	o     Options
	said  time.Time // when a file's place was said last
}

// Name is what the sink is called.
func (s *Sink) Name() string { return s.name }

// Local reports whether each node has its own, whose cursor is that of LocalName.
func (s *Sink) Local() bool { return s.local }

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
	if err == nil || next > 0 {
		s.o.Metrics.stands(s.name, next) // also of a place that is away since the start
	}
	if err != nil {
		return false, err
	}
	for ctx.Err() == nil {
		if err := s.say(ctx, next); err != nil {
			return handed, fmt.Errorf("keeping the cursor: %w", err)
		}
		entries, err := s.o.Entries.AuditEntries(ctx, next, batchSize)
		if err != nil {
			return handed, fmt.Errorf("reading the audit log: %w", err)
		}
		if len(entries) > 0 && entries[0].Pruned() {
			if next, err = s.skip(ctx, next); err != nil {
				return handed, err
			}
			continue
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
		entries = entries[:fitting(entries)]
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

// fitting gives how many of the entries make a batch, one at least.
func fitting(entries []audit.Stored) int {
	room := batchRoom
	for i := range entries {
		if room -= len(entries[i].Leaf) + 1; room < 0 && i > 0 {
			return i
		}
	}
	return len(entries)
}

// skip goes on with the first entry that is not pruned, and says what is missing.
func (s *Sink) skip(ctx context.Context, next uint64) (uint64, error) {
	first, _, err := s.o.Entries.AuditKept(ctx)
	if err != nil {
		return next, fmt.Errorf("reading where the audit log begins: %w", err)
	}
	if first <= next {
		return next, errOrder
	}
	s.o.Logger.Warn("audit entries were pruned before this sink has taken them: it goes on with the first that is kept", "sink", s.name, "first", next, "last", first-1)
	if err := s.place.skip(first); err != nil {
		return next, err
	}
	if err := s.place.saved(ctx, first); err != nil {
		return next, fmt.Errorf("keeping the cursor: %w", err)
	}
	s.o.Metrics.skipped(s.name, first-next, first)
	return first, nil
}

// say tells others now and then where a file is.
func (s *Sink) say(ctx context.Context, next uint64) error {
	if !s.local || s.o.Cursors == nil || time.Since(s.said) < sayEvery {
		return nil
	}
	s.said = time.Now()
	return s.o.Cursors.SaveSinkCursor(ctx, LocalName(s.name, s.o.Node), next)
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

// skip leaves the gap to be seen by the index that stands with each entry.
func (r *remote) skip(uint64) error { return nil }

func (r *remote) saved(ctx context.Context, next uint64) error {
	return r.cursors.SaveSinkCursor(ctx, r.name, next)
}

// Metrics are those of all sinks of a node. A nil one counts nothing.
type Metrics struct {
	entries, failures, missed *prometheus.CounterVec
	next                      *prometheus.GaugeVec
}

// NewMetrics makes them. The error is a name that is taken.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		entries:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_audit_sink_entries_total", Help: "Audit entries handed on."}, []string{"sink"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_audit_sink_failures_total", Help: "Failures to hand audit entries on."}, []string{"sink"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_audit_sink_missed_total",
			Help: "Audit entries that were pruned before the sink has taken them."}, []string{"sink"}),
		next: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keywright_audit_sink_next",
			Help: "Index of the entry that is handed on next; keywright_audit_size is the end."}, []string{"sink"}),
	}
	for _, c := range []prometheus.Collector{m.entries, m.failures, m.missed, m.next} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) stands(name string, next uint64) {
	if m != nil {
		m.next.WithLabelValues(name).Set(float64(next))
	}
}

func (m *Metrics) handed(name string, n int, next uint64) {
	if m != nil {
		m.entries.WithLabelValues(name).Add(float64(n))
		m.next.WithLabelValues(name).Set(float64(next))
	}
}

func (m *Metrics) skipped(name string, n, next uint64) {
	if m != nil {
		m.missed.WithLabelValues(name).Add(float64(n))
		m.next.WithLabelValues(name).Set(float64(next))
	}
}

func (m *Metrics) failed(name string) {
	if m != nil {
		m.failures.WithLabelValues(name).Inc()
	}
}
