package hsm

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
)

// member is one token and what is known of its state.
type member struct {
	index  int
	name   string
	weight int         // 0: stands by
	joined atomic.Bool // its token is open: token, serial and description are set, once, before that
	// serial is the token's, or its label where it has none: what blobs say.
	serial      string
	token       token.Token
	description token.Description // of the opening
	sealing     atomic.Uint32     // newest generation of the sealing key that it is known to have; 0: none
	joining     atomic.Bool       // its token is being opened
	refused     atomic.Bool       // its token is there and is not to be used
	verified    atomic.Bool       // has the service's keys: identity and lacks are set before that
	identity    string
	lacks       map[ability]bool // what the backend offers and this member cannot do; nil: nothing
	down        atomic.Bool      // an operation or test has failed, and none has succeeded since
	generation  atomic.Uint64
	recognised  atomic.Uint64 // generation in which its token was last seen to be its own
	replaced    atomic.Bool   // its token is another
	lastGood    atomic.Int64  // of a test: UnixNano by the backend's clock; 0: none
	pace        [operations]pace
	bringing    chan struct{} // copies that are on their way to it
	owed        atomic.Bool   // copies of keys are to be brought to it
	equipping   sync.Mutex    // held while the service's keys are looked for

	mu       sync.Mutex    // guards the rest
	since    time.Time     // of the last change between healthy and not
	rest     time.Duration // how long it stays unhealthy at least, though its tests succeed
	lastErr  error
	stats    token.Stats
	counters remote.Counters // of a token in processes of its own
}

// ability is an operation with an algorithm. Of a key's making the operation is "".
type ability struct {
	algorithm backend.Algorithm
	operation backend.Operation
}

func newMember(i int, given Member) *member {
	m := &member{index: i, name: given.Name, weight: max(given.Weight, 0), bringing: make(chan struct{}, bringAtOnce)}
	if given.Weight == 0 {
		m.weight = 1
	}
	switch {
	case m.name != "":
	case given.Token != nil:
		m.name = given.Token.Describe().Label
	default:
		m.name = "member " + strconv.Itoa(i+1)
	}
	return m
}

// failed remembers why a member is not there.
func (m *member) failed(err error, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		m.since = now
	}
	m.lastErr = err
}

// State is how a member is, in a word.
type State string

const (
	StateMissing     State = "missing"     // its token cannot be opened; it is tried again and again
	StateJoining     State = "joining"     // its token is being opened, or looked at whether it is one of the group
	StateRefused     State = "refused"     // its token is not one of the group, refuses the PIN, or must not be used for another reason
	StateHealthy     State = "healthy"     // gets operations
	StateUnavailable State = "unavailable" // its token fails, and is being healed
)

func states() []State {
	return []State{StateMissing, StateJoining, StateRefused, StateHealthy, StateUnavailable}
}

// MemberState is how a member is at the moment.
type MemberState struct {
	Index       int
	Name        string
	Serial      string // of the token, or its label where it has none
	Weight      int    // share of the operations; 0: it stands by
	State       State
	Healthy     bool // gets operations
	Verified    bool // has the group's service keys
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
	s := MemberState{Index: m.index, Name: m.name, Weight: m.weight, Verified: m.verified.Load(), Since: m.since, LastError: m.lastErr,
		Stats: m.stats, Processes: m.counters}
	m.mu.Unlock()
	joined := m.joined.Load()
	if joined {
		s.Serial, s.Description = m.serial, m.description
	}
	s.Healthy = joined && s.Verified && !m.down.Load()
	switch {
	case s.Healthy:
		s.State = StateHealthy
	case m.joining.Load():
		s.State = StateJoining
	case m.refused.Load():
		s.State = StateRefused
	case !joined:
		s.State = StateMissing
	case m.down.Load():
		s.State = StateUnavailable
	default:
		s.State = StateJoining
	}
	if n := m.lastGood.Load(); n != 0 {
		s.LastGood = time.Unix(0, n)
	}
	return s
}

const (
	relapse  = 10 * time.Second // within which a failure counts as the same trouble
	restMost = 30 * time.Second
)

// resting reports whether an unhealthy member of a group is left alone for a while whatever its tests say.
func (b *Backend) resting(m *member) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(b.members) > 1 && m.down.Load() && b.now().Sub(m.since) < m.rest
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
		now := b.now()
		// One that passes its tests and fails at once again, as for some operations alone, is tried ever less often.
		switch {
		case bad && !m.since.IsZero() && now.Sub(m.since) < relapse:
			m.rest = min(max(2*m.rest, watchEvery), restMost)
		case bad:
			m.rest = 0
		}
		m.since = now
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

// Members implements backend.Grouper.
func (b *Backend) Members() []backend.MemberStatus {
	out := make([]backend.MemberStatus, 0, len(b.members))
	for _, s := range b.MemberStates() {
		one := backend.MemberStatus{Name: s.Name, State: string(s.State), Weight: s.Weight, Since: s.Since}
		if f := new(fault.Error); s.State != StateHealthy && errors.As(s.LastError, &f) {
			one.Reason = f.Message // the cause is for the log
		}
		out = append(out, one)
	}
	return out
}
