package hsm

import (
	"context"
	"time"

	"github.com/keywright/keywright/backend"
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
	if !m.joined.Load() && !b.join(ctx, m) {
		return
	}
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var tested time.Time
	for {
		b.look(m)
		if m.down.Load() || !m.verified.Load() || m.recognised.Load() != m.generation.Load() || !b.ready.Load() || time.Since(tested) >= b.o.PingEvery {
			_ = b.test(ctx, m) // it has marked the member
			tested = time.Now()
		}
		if b.copies && m.state().Healthy && m.owed.Swap(false) && !b.replenish(ctx, m) {
			m.owed.Store(true)
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

// test does a real operation with a test key, and brings in a member that is not in yet.
func (b *Backend) test(ctx context.Context, m *member) error {
	limit := pingTimeout
	if !b.ready.Load() {
		limit = settleTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := m.token.Ping(ctx)
	if err == nil && !b.ready.Load() {
		err = b.settle(ctx)
	}
	if err == nil && !m.verified.Load() {
		err = b.verify(ctx, m)
	}
	if err == nil && m.verified.Load() {
		err = b.recognise(ctx, m) // a token can be initialised anew under a module that goes on
	}
	if err == nil && m.verified.Load() {
		err = b.refresh(ctx, m) // another process may have made the next sealing key
	}
	if !m.verified.Load() {
		m.refused.Store(err != nil && !passing(err))
	}
	if err == nil {
		m.lastGood.Store(b.now().UnixNano())
		if !b.resting(m) {
			b.mark(m, nil)
		}
		return nil
	}
	if context.Cause(ctx) != context.Canceled { //nolint:errorlint // the exact value: the backend closes, or the caller gave up
		b.mark(m, err)
	}
	return err
}

// verify looks for the group's service keys on a member that was not there when the backend was made of the others.
func (b *Backend) verify(ctx context.Context, m *member) error {
	m.equipping.Lock()
	defer m.equipping.Unlock()
	if m.verified.Load() {
		return nil
	}
	if err := b.suits(ctx, m); err != nil {
		return err
	}
	m.lacks = b.lacking(m)
	m.owed.Store(true)
	m.verified.Store(true)
	b.log.Info("a member has joined the group", "member", m.name, "lacks", len(m.lacks))
	return nil
}

// suits reports an error unless a token that comes later can be one of the group.
func (b *Backend) suits(ctx context.Context, m *member) error {
	if b.keyed && !m.does(backend.HMACSHA256, backend.OpMAC) {
		return fault.New(fault.Unsupported, "the token cannot check records: it has no HMAC-SHA-256, as the other members have")
	}
	if leaks(m) && b.Info().CustodyCaveat == "" {
		return fault.New(fault.PolicyDenied, "the token lets non-extractable keys be wrapped out, and the group's keys are said to be safe from that: the next start accepts it, if the configuration does")
	}
	if err := b.equip(ctx, m, b.pinned); err != nil {
		return err
	}
	if !b.pinned && m.identity != b.identity {
		return fault.New(fault.Conflict, "the token is no replica of the other members: their service keys differ")
	}
	for _, other := range b.members {
		if other.verified.Load() && !other.down.Load() {
			return b.kin(ctx, other, m)
		}
	}
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
		err = errNobody
	}
	return err
}
