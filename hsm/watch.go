package hsm

import (
	"context"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/remote"
)

const (
	watchEvery  = time.Second     // how often the members' counters are read, and those tested that are not healthy
	pingTimeout = 5 * time.Second // of a test
	// pingFresh is how old the test may be that Ping answers by.
	pingFresh = time.Minute
)

// watch follows one member until ctx ends: its counters each second, and a test of it every second while it is not healthy and from time
// to time while it is. So an operation comes back to a member that has healed without being risked for finding out.
func (b *Backend) watch(ctx context.Context, m *member) {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var tested time.Time
	for {
		b.look(m)
		if m.down.Load() || !m.verified.Load() || time.Since(tested) >= b.o.PingEvery {
			_ = b.test(ctx, m) // it has marked the member
			tested = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// look reads the member's counters and generation.
func (b *Backend) look(m *member) {
	stats := m.token.Stats()
	generation := m.token.Describe().Generation
	var counters remote.Counters
	if s, ok := m.token.(interface{ Counters() remote.Counters }); ok {
		counters = s.Counters()
	}
	m.mu.Lock()
	m.stats, m.counters = stats, counters
	m.mu.Unlock()
	if m.generation.Swap(generation) != generation {
		b.epoch.Add(1) // what was checked before is checked again
	}
}

// test does a real operation with a test key.
func (b *Backend) test(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := m.token.Ping(ctx)
	if err == nil && !m.verified.Load() {
		err = b.verify(ctx, m)
	}
	if err == nil {
		m.lastGood.Store(b.now().UnixNano())
		b.mark(m, nil)
		return nil
	}
	if context.Cause(ctx) != context.Canceled { //nolint:errorlint // the exact value: the backend closes, or the caller gave up
		b.mark(m, err)
	}
	return err
}

// verify looks for the group's service keys on a member that was not available at the start.
func (b *Backend) verify(ctx context.Context, m *member) error {
	m.equipping.Lock()
	defer m.equipping.Unlock()
	if m.verified.Load() {
		return nil
	}
	if err := b.equip(ctx, m, b.pinned); err != nil {
		return err
	}
	if !b.pinned {
		for _, other := range b.members {
			if other.verified.Load() && other.identity != m.identity {
				return fault.New(fault.BackendUnavailable, "the token is no replica of the other members: their service keys differ")
			}
		}
	}
	m.verified.Store(true)
	return nil
}

// Ping succeeds when some member works, by a test at most a minute old or by one made now.
func (b *Backend) Ping(ctx context.Context) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	defer b.gate.Leave()
	var err error
	for _, m := range b.order() {
		age := b.now().Sub(time.Unix(0, m.lastGood.Load()))
		if !m.down.Load() && age >= 0 && age < pingFresh {
			return nil
		}
		if err = b.test(ctx, m); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ended(ctx)
		}
	}
	if err == nil {
		err = fault.New(fault.BackendUnavailable, "no member of the group is available").RetryAfter(time.Second)
	}
	return err
}
