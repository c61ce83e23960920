package hsm

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
)

// member is one token and what is known of its state.
type member struct {
	index       int
	name        string
	serial      string // or the label, where the token has none: what blobs say
	weight      int    // 0: stands by
	token       token.Token
	description token.Description // of the opening
	identity    string            // set when verified
	verified    atomic.Bool       // has the service's keys
	down        atomic.Bool       // an operation or test has failed, and none has succeeded since
	generation  atomic.Uint64
	lastGood    atomic.Int64 // of a test: UnixNano by the backend's clock; 0: none
	equipping   sync.Mutex   // held while the service's keys are looked for

	mu       sync.Mutex // guards the rest
	since    time.Time  // of the last change between healthy and not
	lastErr  error
	stats    token.Stats
	counters remote.Counters // of a token in processes of its own
}

func newMember(i int, given Member) *member {
	m := &member{index: i, name: given.Name, weight: max(given.Weight, 0), token: given.Token, description: given.Token.Describe()}
	if given.Weight == 0 {
		m.weight = 1
	}
	m.serial = m.description.Serial
	if m.serial == "" {
		m.serial = m.description.Label
	}
	m.serial = m.serial[:min(len(m.serial), maxName)]
	if m.name == "" {
		m.name = m.description.Label
	}
	m.generation.Store(m.description.Generation)
	return m
}

// MemberState is how a member is at the moment.
type MemberState struct {
	Index       int
	Name        string
	Serial      string // of the token, or its label where it has none
	Weight      int    // share of the operations; 0: it stands by
	Healthy     bool   // gets operations
	Verified    bool   // has the group's service keys
	Since       time.Time
	LastGood    time.Time // of the last test that succeeded; zero: none yet
	LastError   error     // of the last failure, nil: none. It may be older than LastGood
	Stats       token.Stats
	Processes   remote.Counters // zero for a token in this process
	Description token.Description
}

// MemberStates tells how the members are, as it was seen a second ago at most while they answer. It asks no token.
func (b *Backend) MemberStates() []MemberState {
	out := make([]MemberState, 0, len(b.members))
	for _, m := range b.members {
		out = append(out, m.state())
	}
	return out
}

func (m *member) state() MemberState {
	m.mu.Lock()
	s := MemberState{Index: m.index, Name: m.name, Serial: m.serial, Weight: m.weight, Healthy: !m.down.Load(), Verified: m.verified.Load(),
		Since: m.since, LastError: m.lastErr, Stats: m.stats, Processes: m.counters, Description: m.description}
	m.mu.Unlock()
	if n := m.lastGood.Load(); n != 0 {
		s.LastGood = time.Unix(0, n)
	}
	return s
}

// mark remembers how an operation or test of a member ended.
func (b *Backend) mark(m *member, err error) {
	bad := err != nil
	if !bad && !m.down.Load() {
		return
	}
	m.mu.Lock()
	changed := m.down.Swap(bad) != bad
	if changed {
		m.since = b.now()
	}
	if bad {
		m.lastErr = err
	}
	m.mu.Unlock()
	switch {
	case changed && bad:
		b.log.Warn("a token is not available", "member", m.name, "error", err)
	case changed:
		b.log.Info("a token is available again", "member", m.name)
	}
}

// order gives the members that may serve, the one to ask first in front: a healthy one by weight, then the others that are
// healthy, those that stand by, and those that are not.
func (b *Backend) order() []*member {
	if len(b.members) == 1 {
		return b.members
	}
	out := make([]*member, 0, len(b.members))
	total := 0
	for _, m := range b.members {
		if m.verified.Load() {
			out = append(out, m)
			if !m.down.Load() {
				total += m.weight
			}
		}
	}
	rank := func(m *member) int {
		switch {
		case m.down.Load():
			return 2
		case m.weight == 0:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(x, y *member) int { return rank(x) - rank(y) })
	if total == 0 {
		return out
	}
	at := rand.IntN(total) //nolint:gosec // spreads load
	for i, m := range out {
		if at -= m.weight; at < 0 {
			copy(out[1:i+1], out[:i])
			out[0] = m
			break
		}
	}
	return out
}

// homed gives the member that has a key, or all for a key that all have; nil when it is none of the group.
func (b *Backend) homed(name string) []*member {
	if !b.pinned {
		return b.order()
	}
	for i, m := range b.members {
		if m.serial == name {
			return b.members[i : i+1]
		}
	}
	return nil
}

// moves reports whether another member should be asked after this error: this one is gone, full, or hangs. The deadline of the
// caller is not the member's fault.
func moves(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (fault.Has(err, fault.BackendUnavailable) || fault.Has(err, fault.Overloaded) || fault.Has(err, fault.Timeout))
}

// each does something that may be repeated on the first member that can do it.
func each[T any](ctx context.Context, b *Backend, members []*member, kind operation, f func(context.Context, *member) (T, error)) (out T, err error) {
	if len(members) == 0 {
		return out, fault.New(fault.BackendUnavailable, "no member of the group is available").RetryAfter(time.Second)
	}
	for i, m := range members {
		if i == len(members)-1 {
			return once(ctx, b, m, kind, f)
		}
		// A member that hangs leaves half of the time to the next.
		try, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok {
			try, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		}
		out, err = once(try, b, m, kind, f)
		cancel()
		if err == nil || !moves(ctx, err) {
			return out, err
		}
		b.metrics.failovers[m.index].Inc()
	}
	return out, err
}

// once does something on one member, whose state follows.
func once[T any](ctx context.Context, b *Backend, m *member, kind operation, f func(context.Context, *member) (T, error)) (T, error) {
	start := time.Now()
	out, err := f(ctx, m)
	took := time.Since(start)
	b.metrics.calls[m.index][kind].Observe(took.Seconds())
	b.noted(ctx, m, took, err)
	return out, err
}

// patience is how long a member of a group may take before a deadline that passes is held against it.
const patience = 250 * time.Millisecond

func (b *Backend) noted(ctx context.Context, m *member, took time.Duration, err error) {
	switch {
	case err == nil:
		if m.down.Load() && m.verified.Load() {
			b.mark(m, nil)
		}
	case fault.Has(err, fault.BackendUnavailable):
		b.mark(m, err)
	case len(b.members) > 1 && took >= patience && fault.Has(err, fault.Timeout) && context.Cause(ctx) == context.DeadlineExceeded: //nolint:errorlint // the exact value
		b.mark(m, err) // its watcher asks it at once
	}
}
