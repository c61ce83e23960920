package audit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
)

// Denials records requests without a valid credential. Anybody can send those, at any rate; so they are counted, and what
// was counted becomes one entry, at most one a second: a flood can neither fill the log nor go unrecorded. The first after
// a quiet time is recorded at once; a crash loses what was counted since the last entry, a second at most while the log
// can be written.
//
// The entry has principal "anonymous", action "authenticate", outcome fault.Unauthenticated, the number of requests in
// Items and their reasons in Detail: "malformed=3 unknown=1", in the order of their first use.
type Denials struct {
	rec   Recorder
	log   *slog.Logger
	every time.Duration
	entry Entry // of which each is made

	mu     sync.Mutex // guards what follows
	counts []denial
	since  time.Time // of the first that is counted
	closed bool

	some     chan struct{} // holds a token when there is something to record
	stop     chan struct{}
	finished chan struct{}
	ctx      context.Context // ends a record under way when Close runs out of time
	cancel   context.CancelFunc
}

type denial struct {
	reason string
	n      int
}

// maxReasons bounds the reasons of one entry. They come from a fixed vocabulary, so this is never reached; it keeps the
// memory bounded should a caller pass on what a client sent.
const maxReasons = 16

// NewDenials starts the helper. It must be closed before the Recorder is. A nil logger is silent.
func NewDenials(rec Recorder, logger *slog.Logger) *Denials {
	return newDenials(rec, logger, time.Second, unauthenticated)
}

// unauthenticated is what stands in every entry of requests without a valid credential.
var unauthenticated = Entry{Principal: "anonymous", Action: "authenticate", Outcome: string(fault.Unauthenticated)}

// NewLimited is NewDenials for requests over a rate: the action is "rate-limit", the outcome fault.RateLimited, the reasons say of whom the
// rate was.
func NewLimited(rec Recorder, logger *slog.Logger) *Denials {
	return newDenials(rec, logger, time.Second, Entry{Principal: "several", Action: "rate-limit", Outcome: string(fault.RateLimited)})
}

func newDenials(rec Recorder, logger *slog.Logger, every time.Duration, of Entry) *Denials {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	d := &Denials{rec: rec, log: logger, every: every, entry: of,
		some: make(chan struct{}, 1), stop: make(chan struct{}), finished: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	go d.run()
	return d
}

// Add counts one denied request. The reason is a word of the program, never something that the client sent. Add does not
// wait. After Close it does nothing: by then no request is served.
func (d *Denials) Add(reason string) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.add(reason, 1)
	if d.since.IsZero() {
		d.since = now
		d.signal()
	}
}

func (d *Denials) add(reason string, n int) {
	for i := range d.counts {
		if d.counts[i].reason == reason || i == maxReasons-1 {
			d.counts[i].n += n
			return
		}
	}
	if len(d.counts) == maxReasons-1 {
		reason = "other"
	}
	d.counts = append(d.counts, denial{reason, n})
}

func (d *Denials) signal() {
	select {
	case d.some <- struct{}{}:
	default: // there is one already
	}
}

func (d *Denials) run() {
	defer close(d.finished)
	wait := time.NewTimer(d.every)
	defer wait.Stop()
	for {
		select {
		case <-d.stop:
			d.flush()
			return
		case <-d.some:
		}
		d.flush()
		wait.Reset(d.every)
		select {
		case <-d.stop:
			d.flush()
			return
		case <-wait.C:
		}
	}
}

// flush records what is counted. What cannot be recorded is counted on and tried again a second later.
func (d *Denials) flush() {
	d.mu.Lock()
	counts, since := d.counts, d.since
	d.counts, d.since = nil, time.Time{}
	d.mu.Unlock()
	if len(counts) == 0 {
		return
	}
	var detail strings.Builder
	total := 0
	for i, c := range counts {
		if i > 0 {
			detail.WriteByte(' ')
		}
		detail.WriteString(c.reason + "=" + strconv.Itoa(c.n))
		total += c.n
	}
	ctx, cancel := context.WithTimeout(d.ctx, 10*time.Second)
	defer cancel()
	e := d.entry
	e.Time, e.Items, e.Detail = since, total, detail.String()
	_, err := d.rec.Record(ctx, &e)
	if err == nil {
		return
	}
	d.log.Warn("recording denied requests", "error", err, "requests", total)
	if fault.Has(err, fault.Timeout) {
		return // it may have been recorded, or will be; counting it twice would be a lie as well
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	later := d.counts
	d.counts, d.since = counts, since
	for _, c := range later {
		d.add(c.reason, c.n)
	}
	d.signal()
}

// Close records what is still counted and ends the goroutine. Its error is fault.Timeout when ctx ends first, and
// fault.AuditUnavailable when the last count could not be recorded.
func (d *Denials) Close(ctx context.Context) error {
	d.mu.Lock()
	first := !d.closed
	d.closed = true
	d.mu.Unlock()
	if first {
		close(d.stop)
	}
	select {
	case <-d.finished:
	case <-ctx.Done():
		d.cancel()
		return fault.Wrap(fault.Timeout, "denied requests could not be recorded in time", ctx.Err())
	}
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.counts) > 0 {
		return fault.Wrap(fault.AuditUnavailable, "denied requests could not be recorded", errors.New("the last count was refused"))
	}
	return nil
}
