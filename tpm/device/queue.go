package device

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const maxOperations = 64 // names of operations; further ones are counted as "other"

// operation is a kind of operation: what the queue expects of it, and its metrics.
type operation struct {
	expected atomic.Int64 // nanoseconds with the turn, a moving mean
	spread   atomic.Int64 // the moving mean of how far off that was
	queue    prometheus.Observer
	device   prometheus.Observer
}

// call is one Do on its way through the queue.
type call struct {
	op      *operation
	booked  int64         // what of it stands in the backlog: the mean
	most    time.Duration // what it will hardly exceed
	started time.Time
	dropped bool // it was run again because a handle was lost
}

// operation gives the operation of a name, making it if it is new.
func (d *Device) operation(name string) *operation {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.ops[name]
	if o == nil {
		if len(d.ops) >= maxOperations {
			name = "other"
			if o = d.ops[name]; o != nil {
				return o
			}
		}
		o = &operation{queue: d.metrics.queue.WithLabelValues(name), device: d.metrics.device.WithLabelValues(name)}
		d.ops[name] = o
	}
	return o
}

// enter waits for the turn. A call that would not have its answer by its deadline, as far as can be foretold, is refused at once: its
// turn would only be taken from another one. Whoever finds the TPM free gets it, so that a forecast that is wrong mends itself.
func (d *Device) enter(ctx context.Context, name string) (*call, error) {
	if ctx.Err() != nil {
		return nil, timedOut(ctx)
	}
	if err := d.refusal(); err != nil {
		return nil, err
	}
	o := d.operation(name)
	c := &call{op: o, booked: o.expected.Load()}
	c.most = time.Duration(c.booked + 4*o.spread.Load())
	start := time.Now()
	deadline, bounded := ctx.Deadline()
	ahead := time.Duration(d.backlog.Load())
	if n := d.queued.Add(1); n > 1 {
		var refuse error
		switch {
		case n > int64(d.o.Queue)+1:
			refuse = errQueueFull
		case ahead > d.o.MaxWait, bounded && deadline.Sub(start) < ahead+c.most:
			refuse = late(ahead)
		}
		if refuse != nil {
			d.queued.Add(-1)
			d.stats.refused.Add(1)
			return nil, refuse
		}
	}
	d.backlog.Add(c.booked)
	err := d.await(ctx)
	c.started = time.Now()
	waited := c.started.Sub(start)
	o.queue.Observe(waited.Seconds())
	if err == nil {
		// Others took longer than foretold. The last in the queue goes on all the same, for the same reason as above.
		if bounded && deadline.Sub(c.started) < c.most && d.queued.Load() > 1 {
			err = late(time.Duration(d.backlog.Load()))
		}
		if ctx.Err() != nil {
			err = overdue(ctx, waited)
		}
		if err == nil {
			return c, nil
		}
		<-d.turn
	}
	if !errors.Is(err, errClosed) {
		d.stats.refused.Add(1)
	}
	d.backlog.Add(-c.booked)
	d.queued.Add(-1)
	return nil, err
}

// await takes the turn. Waiters get it in the order in which they came.
func (d *Device) await(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	default:
	}
	start := time.Now()
	timer := time.NewTimer(d.o.MaxWait)
	defer timer.Stop()
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return overdue(ctx, time.Since(start))
	case <-timer.C:
		return late(d.o.MaxWait)
	case <-d.life.Done():
		return errClosed
	}
}

// overdue is the fault of a call whose context ended before its turn: the TPM was overloaded, unless the caller left.
func overdue(ctx context.Context, waited time.Duration) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return late(waited)
	}
	return timedOut(ctx)
}

// Queued is how many calls wait for the turn.
func (d *Device) Queued() int { return max(0, int(d.queued.Load())-1) }

// exit gives the turn back.
func (d *Device) exit(c *call) {
	took := time.Since(c.started)
	c.op.device.Observe(took.Seconds())
	// Mean and mean deviation as RFC 6298 has them. Two calls cannot be here at once: this one still has the turn.
	if mean := c.op.expected.Load(); mean == 0 {
		c.op.expected.Store(int64(took))
		c.op.spread.Store(int64(took) / 2)
	} else {
		off := int64(took) - mean
		c.op.expected.Store(mean + off/8)
		c.op.spread.Store(c.op.spread.Load()*3/4 + max(off, -off)/4)
	}
	<-d.turn
	d.backlog.Add(-c.booked)
	if d.queued.Add(-1) > 0 {
		// Whoever has got the turn goes first: the TPM waits for its command, and nobody for this goroutine's processor.
		runtime.Gosched()
	}
}
