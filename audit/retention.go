package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/fault"
)

// MinRetention is the shortest time for which entries are kept: what follows the log (sinks, events of three days, people) has to come first.
const MinRetention = 7 * 24 * time.Hour

// Bounds of pruning.
const (
	pruneLook  = time.Hour      // how often it is looked whether something is due
	pruneAgain = time.Minute    // after a failure
	pruneLate  = 24 * time.Hour // fewer entries than a tile wait so long, as each run makes one more
	pruneRun   = 256 * tile     // entries that one run, and one entry, tells of
	pruneBatch = 2 * tile       // entries of one transaction
	pruneRest  = 4              // times as long as a transaction took, nothing is pruned
)

// RetentionOptions are the parts of a Retention. Keep is required.
type RetentionOptions struct {
	// Keep is for how long bodies of entries are kept, at least MinRetention.
	Keep time.Duration
	// Taken gives the index of the first entry that somebody who is handed the log has not taken yet, and who that is. Nil: there is nobody.
	Taken func(ctx context.Context) (index uint64, who string, err error)
	// Registerer takes the metrics; nil: there are none.
	Registerer prometheus.Registerer
	// Logger hears what is pruned, and why not. Default: silent.
	Logger *slog.Logger
}

// Retention prunes a log: the bodies of entries go that are older than a time, their hashes and the tree stay. It takes only what is proven
// to be in a signed checkpoint and what everybody has taken who is handed the log.
type Retention struct {
	log     *Log
	o       RetentionOptions
	pruned  prometheus.Counter
	failed  prometheus.Counter
	all     []prometheus.Collector
	kept    atomic.Uint64
	oldest  atomic.Int64 // microseconds; 0: not known
	waiting string       // who was said to be waited for
}

// NewRetention makes a Retention. It starts nothing.
func NewRetention(l *Log, o RetentionOptions) (*Retention, error) {
	if o.Keep < MinRetention {
		return nil, fmt.Errorf("audit: entries are kept for at least %d days", int(MinRetention.Hours()/24))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Retention{log: l, o: o,
		pruned: prometheus.NewCounter(prometheus.CounterOpts{Name: "keywright_audit_pruned_total", Help: "Audit entries whose bodies this node has pruned."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "keywright_audit_prune_failures_total", Help: "Failures to prune the audit log."}),
	}
	r.all = []prometheus.Collector{r.pruned, r.failed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keywright_audit_first_kept", Help: "Index of the first audit entry that is not pruned."},
			func() float64 { return float64(r.kept.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keywright_audit_oldest_timestamp_seconds", Help: "Time of the first audit entry that is not pruned; 0 when it is not known."},
			func() float64 { return float64(r.oldest.Load()) / 1e6 }),
	}
	if o.Registerer != nil {
		for _, c := range r.all {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("registering metrics of the retention: %w", err)
			}
		}
	}
	return r, nil
}

// Watch keeps the metrics up to date until ctx ends, on every node.
func (r *Retention) Watch(ctx context.Context) {
	for ctx.Err() == nil {
		if _, _, err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.o.Logger.Debug("reading where the audit log begins", "error", err)
		}
		pause(ctx, time.Minute)
	}
}

// Run prunes what is due, now and then, until ctx ends. One node at a time should.
func (r *Retention) Run(ctx context.Context) {
	for failing := false; ctx.Err() == nil; {
		n, err := r.Prune(ctx)
		switch {
		case fault.Has(err, fault.Locked): // there is no key, and nothing is wrong
			pause(ctx, pruneAgain)
			continue
		case err != nil && ctx.Err() == nil:
			r.failed.Inc()
			if !failing {
				r.o.Logger.Error("the audit log cannot be pruned", "error", err) // once, until it can
			}
			failing = true
			pause(ctx, pruneAgain)
			continue
		case n == pruneRun:
			continue // there may be more
		}
		failing = false
		pause(ctx, pruneLook)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (r *Retention) look(ctx context.Context) (first uint64, at time.Time, err error) {
	if first, at, err = r.log.store.AuditKept(ctx); err != nil {
		return 0, at, fmt.Errorf("reading where the audit log begins: %w", err)
	}
	r.kept.Store(first)
	if r.oldest.Store(0); !at.IsZero() {
		r.oldest.Store(at.UnixMicro())
	}
	return first, at, nil
}

// Prune does one run, of 65,536 entries at most, and gives how many bodies it has taken. What is taken is looked at first: were it not what a
// signed checkpoint covers, its hash would be kept for the true one, and the error is fault.StoreCorrupted. The run is recorded, and that
// record under a checkpoint, before anything goes; a run that is interrupted leaves less pruned than its entry says, and the next goes on.
func (r *Retention) Prune(ctx context.Context) (pruned int, err error) {
	before := r.log.opts.Now().Add(-r.o.Keep)
	first, at, err := r.look(ctx)
	if err != nil || at.IsZero() || !at.Before(before) {
		return 0, err
	}
	s, err := r.log.lastSigned(ctx)
	if err != nil || s == nil {
		return 0, err
	}
	limit, err := r.limit(ctx, first, s.Size)
	if err != nil || first >= limit {
		return 0, err
	}
	hashes, err := r.due(ctx, s, first, limit, before)
	if err != nil || len(hashes) == 0 || len(hashes) < tile && at.After(before.Add(-pruneLate)) {
		return 0, err
	}
	if err := r.tell(ctx, first, first+uint64(len(hashes))); err != nil {
		return 0, err
	}
	for pruned < len(hashes) {
		batch := hashes[pruned:min(pruned+pruneBatch, len(hashes))]
		began := time.Now()
		if err := r.log.store.PruneAudit(ctx, first+uint64(pruned), batch); err != nil {
			return pruned, fmt.Errorf("pruning the audit log: %w", err)
		}
		pruned += len(batch)
		r.pruned.Add(float64(len(batch)))
		if pruned < len(hashes) {
			pause(ctx, pruneRest*time.Since(began))
		}
	}
	r.o.Logger.Info("the audit log was pruned", "first", first, "entries", pruned)
	_, _, err = r.look(ctx)
	return pruned, err
}

// limit gives the end of what may be pruned of a log that is signed up to size, and says once who is waited for.
func (r *Retention) limit(ctx context.Context, first, size uint64) (uint64, error) {
	if r.o.Taken == nil {
		return size, nil
	}
	taken, who, err := r.o.Taken(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking what was taken of the audit log: %w", err)
	}
	if taken > first {
		r.waiting = ""
	} else if r.waiting != who {
		r.waiting = who
		r.o.Logger.Warn("audit entries that are due are not pruned: they were not all handed on yet", "to", who, "taken", taken)
	}
	return min(size, taken), nil
}

// due gives the hashes of the entries from first on that are older than before, all of them, and looks whether they are those of the
// checkpoint.
func (r *Retention) due(ctx context.Context, s *signedHead, first, limit uint64, before time.Time) (hashes [][32]byte, err error) {
	blocks, err := newBlockReader(ctx, r.log.store, s.Size)
	if err != nil {
		return nil, err
	}
	var raw rawEntry
	for block := first &^ (tile - 1); block < limit && len(hashes) < pruneRun; block += tile {
		n := int(min(tile, s.Size-block))
		entries, err := r.log.store.AuditEntries(ctx, block, n)
		if err != nil {
			return nil, fmt.Errorf("reading audit entries: %w", err)
		}
		if len(entries) != n {
			return nil, corrupted("the audit log lacks entries that its head counts")
		}
		tree := Head{}
		some, more := len(hashes), true
		for i := range entries {
			e := &entries[i]
			h := e.LeafHash()
			tree.add(h, nil)
			if e.Index < first || !more {
				continue
			}
			if e.Pruned() {
				return nil, errors.New("somebody else prunes the audit log")
			}
			if err := raw.parse(e.Leaf); err != nil {
				return nil, corrupted(fmt.Sprintf("entry %d of the audit log is damaged", e.Index))
			}
			if more = e.Index < limit && raw.Time.Before(before) && len(hashes) < pruneRun; more {
				hashes = append(hashes, h)
			}
		}
		if len(hashes) > some {
			if _, err := blocks.prove(s, block/tile, tree.Root()); err != nil {
				return nil, err
			}
		}
		if !more {
			break
		}
	}
	return hashes, nil
}

// tell records what will be pruned and has a checkpoint signed that covers the record: whoever finds it pruned finds why.
func (r *Retention) tell(ctx context.Context, first, end uint64) error {
	index, err := r.log.Record(ctx, pruneEntry(first, end))
	if err != nil {
		return fmt.Errorf("recording what is pruned: %w", err)
	}
	s, err := r.log.signedNow(ctx, func(last *signedHead) bool { return last.Size > index })
	if err != nil {
		return fmt.Errorf("signing a checkpoint over what tells of the pruning: %w", err)
	}
	if s.Size <= index {
		return errors.New("the checkpoint does not cover what tells of the pruning")
	}
	return nil
}

// lastSigned gives the newest checkpoint that is kept under the key of today, nil when there is none.
func (l *Log) lastSigned(ctx context.Context) (*signedHead, error) {
	_, key, err := l.signer(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := l.store.Checkpoint(ctx)
	if err != nil || len(kept) == 0 {
		return nil, err
	}
	c, err := OpenCheckpoint(kept, key)
	if err != nil {
		return nil, fmt.Errorf("the newest checkpoint: %w", err)
	}
	return &signedHead{Checkpoint: c, note: kept, key: key}, nil
}
