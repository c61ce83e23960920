package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

var (
	errLost = errors.New("the module's process is gone")
	errHung = errors.New("the module has a call past its deadline")

	errSlowOpening = errors.New("opening the token takes much longer than it did")
)

// answer is what a child has said to a call. Its bytes belong to the receiver.
type answer struct {
	body  []byte
	parts [][]byte
	err   error // a fault.Error of the child, or errLost
}

// waiter is a call under way. It leaves the map of its link before it is told, and is told once.
type waiter struct {
	told  chan answer // has room for one
	parts [][]byte
	size  int         // of parts, in bytes
	limit *time.Timer // of an abandoned call: looks into the child
	given bool        // abandoned: nobody is told
	late  int         // how often it was overdue
	heard uint64      // what the child had said by then
}

// link is the parent's end of one child: it matches answers to calls, and dies as a whole.
type link struct {
	conn   *net.UnixConn
	in     *frameReader
	out    *writer
	limit  int           // of callers' calls at once
	grace  time.Duration // of a call past its deadline
	logins *logins

	// patience is the grace, or longer: what the child needs to show that it is slow and not hung. openTime is what opening the token
	// anew may take. In nanoseconds.
	patience, openTime atomic.Int64

	heard   atomic.Uint64 // frames that have come
	turns   atomic.Uint64 // logins that are over
	load    atomic.Int32  // calls under way
	good    atomic.Uint64 // calls that the child has answered well
	suspect atomic.Bool   // a suspicion is being looked into
	closing atomic.Bool   // nothing more is sent

	mu      sync.Mutex
	waiting map[uint64]*waiter // guarded by mu; nil once dead
	last    uint64             // guarded by mu: the number given last
	cause   error              // guarded by mu: why it is dead

	asked    atomic.Bool   // the child waits for a permission to log in, or has it
	loggedIn chan struct{} // the child's word that the login is over
	dead     chan struct{}
	wg       sync.WaitGroup
}

func newLink(conn *net.UnixConn, limit int, grace time.Duration, g *logins) (*link, error) {
	l := &link{conn: conn, in: newFrameReader(conn), limit: limit, grace: grace, logins: g,
		waiting: make(map[uint64]*waiter), dead: make(chan struct{}), loggedIn: make(chan struct{}, 1)}
	l.patience.Store(int64(grace))
	l.openTime.Store(int64(leastOpening))
	var err error
	if l.out, err = newWriter(conn, &l.load, maxQueued); err != nil {
		return nil, err
	}
	l.wg.Go(func() { l.out.run(l.dead) })
	return l, nil
}

// greet reads the child's hello.
func (l *link) greet() error {
	kind, _, body, err := l.in.next()
	switch {
	case err != nil:
		return err
	case kind != kindHello || string(body) != magic+string([]byte{version}):
		return fmt.Errorf("hello: %w", errMalformed)
	}
	return nil
}

// open sends the configuration and waits for the child to have opened the token.
func (l *link) open(ctx context.Context, c *token.Config) (token.Description, error) {
	w := &waiter{told: make(chan answer, 1)}
	l.mu.Lock()
	if l.waiting == nil { // ctx has ended
		l.mu.Unlock()
		return token.Description{}, errLost
	}
	l.waiting[0] = w
	l.mu.Unlock()
	l.load.Add(1)
	l.wg.Go(l.serve)
	frame := appendConfig(begin(nil, kindOpen, 0), c)
	defer clear(frame)
	if !finish(frame) {
		return token.Description{}, fault.New(fault.BadSize, "the configuration of the token is too large")
	}
	if err := l.out.send(frame); err != nil {
		return token.Description{}, err
	}
	select {
	case a := <-w.told:
		if a.err != nil {
			return token.Description{}, a.err
		}
		return decodeDescription(a.body)
	case <-ctx.Done():
		return token.Description{}, ctx.Err()
	}
}

// serve reads what the child sends, until the link is dead.
func (l *link) serve() {
	for {
		kind, id, body, err := l.in.next()
		if err == nil {
			l.heard.Add(1)
			err = l.receive(kind, id, body)
		}
		if err != nil {
			l.die(err)
			return
		}
	}
}

func (l *link) receive(kind byte, id uint64, body []byte) error {
	switch kind {
	case kindResult:
		return l.tell(id, answer{body: append([]byte{}, body...)})
	case kindFault:
		f, stuck, err := decodeFault(body)
		if err != nil {
			return err
		}
		if stuck || f.Code == fault.Timeout || f.Code == fault.BackendUnavailable {
			l.doubt()
		}
		if errors.Is(f, token.ErrPINRefused) {
			l.logins.refuse()
		}
		return l.tell(id, answer{err: f})
	case kindPart:
		return l.part(id, body)
	case kindAskLogin:
		if len(body) > 0 || l.asked.Swap(true) {
			return errMalformed
		}
		l.wg.Go(func() { l.logins.grant(l) })
		return nil
	case kindLoggedIn:
		if len(body) != 1 || body[0] > loginFailed || !l.asked.Load() {
			return errMalformed
		}
		if body[0] == loginRefused {
			l.logins.refuse()
		}
		l.turns.Add(1)
		l.asked.Store(false)
		select {
		case l.loggedIn <- struct{}{}:
			return nil
		default:
		}
	}
	return errMalformed
}

// part keeps a part of an answer until the rest is there.
func (l *link) part(id uint64, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.waiting[id]
	if w == nil || w.size+len(body) > maxAnswer {
		return errMalformed
	}
	w.size += len(body)
	if !w.given {
		w.parts = append(w.parts, append([]byte{}, body...))
	}
	return nil
}

// tell ends a call. A number that no call has is a fault of the child.
func (l *link) tell(id uint64, a answer) error {
	l.mu.Lock()
	w := l.waiting[id]
	delete(l.waiting, id)
	l.mu.Unlock()
	if w == nil {
		return errMalformed
	}
	l.load.Add(-1)
	w.end(a)
	return nil
}

// end tells a waiter that has left the map.
func (w *waiter) end(a answer) {
	if w.limit != nil {
		w.limit.Stop()
	}
	if !w.given {
		a.parts = w.parts
		w.told <- a
	}
}

var errFull = errors.New("the module's process has all the calls that it may have")

// call sends a request, unless limit calls are under way, and waits for its answer. The frame is the caller's again when it returns. The errors are errLost, errFull
// and the context's; what the child has answered is in the answer.
func (l *link) call(ctx context.Context, frame []byte, deadline time.Time, limit int) (answer, error) {
	w := &waiter{told: make(chan answer, 1)}
	l.mu.Lock()
	switch {
	case l.waiting == nil:
		l.mu.Unlock()
		return answer{}, errLost
	case len(l.waiting) >= limit:
		l.mu.Unlock()
		return answer{}, errFull
	}
	l.last++
	id := l.last
	l.waiting[id] = w
	l.mu.Unlock()
	l.load.Add(1)

	address(frame, id, time.Until(deadline))
	if err := l.out.send(frame); err != nil {
		if errors.Is(err, errBacklog) {
			return answer{}, l.withdraw(id, errFull)
		}
		if !l.closing.Load() { // then the others still get their answers
			l.die(err)
		}
		return answer{}, l.withdraw(id, errLost)
	}
	select {
	case a := <-w.told:
		return a, lost(a)
	case <-ctx.Done():
	}
	if l.abandon(id, w, deadline) {
		return answer{}, ctx.Err()
	}
	a := <-w.told // came at the same moment
	return a, lost(a)
}

func lost(a answer) error {
	if a.err == errLost { //nolint:errorlint // our own value, never wrapped
		return errLost
	}
	return nil
}

// withdraw takes back a call that was never sent, and gives why.
func (l *link) withdraw(id uint64, why error) error {
	l.mu.Lock()
	_, there := l.waiting[id]
	delete(l.waiting, id)
	l.mu.Unlock()
	if !there {
		return errLost // with the link, which has told the waiter
	}
	l.load.Add(-1)
	return why
}

// abandon leaves a call to the child, which is looked into when it still has it a while after the deadline. It reports false when the
// answer is there already.
func (l *link) abandon(id uint64, w *waiter, deadline time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[id] != w {
		return false
	}
	w.given, w.parts, w.heard = true, nil, l.heard.Load()
	w.limit = time.AfterFunc(time.Until(deadline)+l.patient(), func() { l.overdue(id, w) })
	// A cancellation that cannot be sent changes nothing: the child is dead, or does not read and will be.
	_ = l.out.send(control(kindCancel, id))
	return true
}

// control makes a frame that carries little.
func control(kind byte, id uint64, body ...byte) []byte {
	return seal(append(begin(nil, kind, id), body...))
}

// die ends the link and every call on it. The first cause stays.
func (l *link) die(cause error) {
	l.mu.Lock()
	waiting := l.waiting
	if waiting == nil {
		l.mu.Unlock()
		return
	}
	l.waiting, l.cause = nil, cause
	l.mu.Unlock()
	close(l.dead)
	l.out.fail(errClosed)
	_ = l.conn.Close() // its error says nothing that cause does not
	l.load.Add(-int32(len(waiting)))
	for _, w := range waiting {
		w.end(answer{err: errLost})
	}
}

// why gives the cause of death, nil while it lives.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}
