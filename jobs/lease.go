package jobs

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// lease is the right to run one job, as this node knows it. It is not for concurrent use.
type lease struct {
	leases Leases
	name   string
	holder uuid.UUID
	ttl    time.Duration
	asked  time.Time // when what is held was asked for: it lasts at least for ttl from then on
}

// take asks for the lease.
func (l *lease) take(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl)
	defer cancel()
	asked := time.Now()
	_, held, err := l.leases.Acquire(ctx, l.name, l.holder, l.ttl)
	if err == nil && held {
		l.asked = asked
	}
	return held, err
}

// keep prolongs the lease when a quarter of it is over, and reports whether it is still held for a while. While the store cannot be asked
// it counts as held for three quarters of its time, so that this node has stopped before another can begin.
func (l *lease) keep(ctx context.Context) bool {
	if time.Since(l.asked) < l.ttl/4 {
		return true
	}
	ctx, cancel := context.WithDeadline(ctx, l.asked.Add(l.ttl*3/4))
	defer cancel()
	held, err := l.take(ctx)
	if err == nil {
		return held
	}
	return time.Since(l.asked) < l.ttl*3/4
}

// release gives the lease back. When it cannot, the lease ends by itself.
func (l *lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.ttl)
	defer cancel()
	_ = l.leases.Release(ctx, l.name, l.holder) // as above
}
