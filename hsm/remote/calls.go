package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

// frames has room for requests.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// roomFor gives room for a request with n bytes of the caller's, so that it does not grow and leave copies of them behind.
func roomFor(n int) *[]byte {
	room := frames.Get().(*[]byte)
	*room = slices.Grow((*room)[:0], n+256)
	return room
}

func (s *Supervisor) Use(ctx context.Context, c token.Call) ([]byte, error) {
	room := roomFor(len(c.Input) + len(c.AAD) + len(c.Wrapped) + len(c.Label) + len(c.Context))
	a, err := s.do(ctx, opUse, s.options.CallTimeout, room, appendCall(beginRequest(*room, opUse), &c))
	return a.body, err
}

// Random gives at most 2 MiB at once.
func (s *Supervisor) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 0 || n > maxFrame/2 {
		return nil, fault.New(fault.BadSize, "so many random bytes are not given at once")
	}
	room := roomFor(0)
	a, err := s.do(ctx, opRandom, s.options.CallTimeout, room, binary.BigEndian.AppendUint32(beginRequest(*room, opRandom), uint32(n)))
	return a.body, err
}

func (s *Supervisor) Ping(ctx context.Context) error {
	room := roomFor(0)
	_, err := s.do(ctx, opPing, s.options.CallTimeout, room, beginRequest(*room, opPing))
	return err
}

func (s *Supervisor) Find(ctx context.Context, id token.ID) (token.Object, error) {
	room := roomFor(0)
	return s.object(s.do(ctx, opFind, s.options.CallTimeout, room, append(beginRequest(*room, opFind), id[:]...)))
}

func (s *Supervisor) Generate(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, wrapped bool) (token.Object, error) {
	room := roomFor(0)
	return s.object(s.do(ctx, opGenerate, s.limit(token.TimeMake, a), room, appendMake(beginRequest(*room, opGenerate), id, a, p, wrapped)))
}

func (s *Supervisor) Import(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, material secret.Bytes, wrapped bool) (token.Object, error) {
	room := roomFor(len(material))
	return s.object(s.do(ctx, opImport, s.limit(token.TimeMake, a), room, appendBytes(appendMake(beginRequest(*room, opImport), id, a, p, wrapped), material)))
}

func (s *Supervisor) Destroy(ctx context.Context, id token.ID) error {
	room := roomFor(0)
	_, err := s.do(ctx, opDestroy, s.limit(token.TimeDestroy, ""), room, append(beginRequest(*room, opDestroy), id[:]...))
	return err
}

func (s *Supervisor) List(ctx context.Context) ([]token.Object, error) {
	room := roomFor(0)
	a, err := s.do(ctx, opList, token.ListLimit, room, beginRequest(*room, opList))
	if err != nil {
		return nil, err
	}
	var list []token.Object
	for _, p := range a.parts {
		if list, err = decodeObjects(list, p); err != nil {
			return nil, broken(err)
		}
	}
	return list, nil
}

func (s *Supervisor) object(a answer, err error) (token.Object, error) {
	if err != nil {
		return token.Object{}, err
	}
	o, err := decodeObject(a.body)
	if err != nil {
		return token.Object{}, broken(err)
	}
	return o, nil
}

// limit is the longest that an operation may take.
func (s *Supervisor) limit(t token.Timed, a backend.Algorithm) time.Duration {
	return token.Limit(s.options.CallTimeout, t, a, 0)
}

func broken(err error) error {
	return fault.Wrap(fault.Internal, "the module's process has given a malformed answer", err)
}

// do makes a call on the child that has the least to do, and once more on another when the first is lost and nothing can be done
// twice by it. It takes no longer than the limit. The frame, which began in room, is wiped.
func (s *Supervisor) do(caller context.Context, op operation, limit time.Duration, room *[]byte, frame []byte) (answer, error) {
	defer func() {
		clear(frame)
		*room = keep(frame)
		frames.Put(room)
	}()
	if !finish(frame) {
		return answer{}, fault.New(fault.BadSize, "the input is larger than the token's process takes")
	}
	if err := caller.Err(); err != nil {
		return answer{}, timeout(err)
	}
	ctx, deadline := caller, time.Now().Add(limit)
	if theirs, ok := caller.Deadline(); ok && theirs.Before(deadline) {
		deadline = theirs
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(caller, deadline)
		defer cancel()
	}
	if s.closed.Load() {
		return answer{}, s.unavailable(nil)
	}
	s.counters.calls.Add(1)
	l := s.pick(nil)
	if op.onObjects() {
		l = s.first()
	}
	if l == nil {
		return answer{}, s.unavailable(nil)
	}
	a, err := l.call(ctx, frame, deadline, l.limit)
	if errors.Is(err, errLost) && op.repeatable() && !s.closed.Load() {
		if other := s.pick(l); other != nil && time.Until(deadline) > 0 {
			s.counters.retries.Add(1)
			l = other
			a, err = l.call(ctx, frame, deadline, l.limit)
		}
	}
	switch {
	case err == nil && a.err == nil:
		l.good.Add(1)
		return a, nil
	case err == nil && fault.Has(a.err, fault.Timeout) && caller.Err() == nil && time.Until(deadline) <= 0:
		return answer{}, slow(a.err)
	case err == nil:
		return answer{}, a.err
	case errors.Is(err, errLost):
		s.counters.lost.Add(1)
		return answer{}, s.unavailable(l.why())
	case errors.Is(err, errFull):
		return answer{}, fault.Wrap(fault.Overloaded, "the queue of the token is full", err).RetryAfter(time.Second)
	}
	if caller.Err() == nil {
		return answer{}, slow(err)
	}
	return answer{}, timeout(err)
}

// slow is the answer to a caller who would have waited longer.
func slow(err error) error {
	return fault.Wrap(fault.Timeout, "the token did not answer in the time that an operation may take", err).RetryAfter(time.Second)
}

func timeout(err error) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the token answered", err)
}

// pick gives the living link with the fewest calls, the first of those that have the same, but not one.
func (s *Supervisor) pick(not *link) *link {
	var best *link
	var least int32
	for _, c := range s.children {
		l := c.link.Load()
		if l == nil || l == not {
			continue
		}
		select {
		case <-l.dead:
			continue
		default:
		}
		if load := l.load.Load(); best == nil || load < least {
			best, least = l, load
		}
	}
	return best
}

// first gives the first living link.
func (s *Supervisor) first() *link {
	for _, c := range s.children {
		if l := c.link.Load(); l != nil {
			select {
			case <-l.dead:
			default:
				return l
			}
		}
	}
	return nil
}

// unavailable says that there is no child to ask, and when there may be one.
func (s *Supervisor) unavailable(cause error) error {
	switch {
	case s.closed.Load():
		return fault.New(fault.BackendUnavailable, "the token is closed")
	case s.logins.isRefused():
		return errRefused()
	}
	return fault.Wrap(fault.BackendUnavailable, "the token's module is being started again", cause).RetryAfter(s.options.RestartEvery)
}
