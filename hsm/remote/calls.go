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
	a, err := s.do(ctx, opUse, room, appendCall(beginRequest(*room, opUse), &c))
	return a.body, err
}

// Random gives at most 2 MiB at once.
func (s *Supervisor) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 0 || n > maxFrame/2 {
		return nil, fault.New(fault.BadSize, "so many random bytes are not given at once")
	}
	room := roomFor(0)
	a, err := s.do(ctx, opRandom, room, binary.BigEndian.AppendUint32(beginRequest(*room, opRandom), uint32(n)))
	return a.body, err
}

func (s *Supervisor) Ping(ctx context.Context) error {
	room := roomFor(0)
	_, err := s.do(ctx, opPing, room, beginRequest(*room, opPing))
	return err
}

func (s *Supervisor) Find(ctx context.Context, id token.ID) (token.Object, error) {
	room := roomFor(0)
	return s.object(s.do(ctx, opFind, room, append(beginRequest(*room, opFind), id[:]...)))
}

func (s *Supervisor) Generate(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, wrapped bool) (token.Object, error) {
	room := roomFor(0)
	return s.object(s.do(ctx, opGenerate, room, appendMake(beginRequest(*room, opGenerate), id, a, p, wrapped)))
}

func (s *Supervisor) Import(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, material secret.Bytes, wrapped bool) (token.Object, error) {
	room := roomFor(len(material))
	return s.object(s.do(ctx, opImport, room, appendBytes(appendMake(beginRequest(*room, opImport), id, a, p, wrapped), material)))
}

func (s *Supervisor) Destroy(ctx context.Context, id token.ID) error {
	room := roomFor(0)
	_, err := s.do(ctx, opDestroy, room, append(beginRequest(*room, opDestroy), id[:]...))
	return err
}

func (s *Supervisor) List(ctx context.Context) ([]token.Object, error) {
	room := roomFor(0)
	a, err := s.do(ctx, opList, room, beginRequest(*room, opList))
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

func broken(err error) error {
	return fault.Wrap(fault.Internal, "the module's process has given a malformed answer", err)
}

// do makes a call on the child that has the least to do, and once more on another when the first is lost and nothing can be done
// twice by it. The frame, which began in room, is wiped.
func (s *Supervisor) do(ctx context.Context, op operation, room *[]byte, frame []byte) (answer, error) {
	defer func() {
		clear(frame)
		*room = keep(frame)
		frames.Put(room)
	}()
	if !finish(frame) {
		return answer{}, fault.New(fault.BadSize, "the input is larger than the token's process takes")
	}
	if err := ctx.Err(); err != nil {
		return answer{}, timeout(err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.options.CallTimeout)
		defer cancel()
		deadline, _ = ctx.Deadline()
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
	case err == nil:
		return answer{}, a.err
	case errors.Is(err, errLost):
		s.counters.lost.Add(1)
		return answer{}, s.unavailable(l.why())
	case errors.Is(err, errFull):
		return answer{}, fault.Wrap(fault.Overloaded, "the queue of the token is full", err).RetryAfter(time.Second)
	}
	return answer{}, timeout(err)
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
