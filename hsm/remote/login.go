package remote

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// How a login that the parent has allowed has ended.
const (
	loginRefused byte = iota
	loginDone
	loginFailed // for another reason than the PIN
)

// loginTime bounds a login. A child that is lost in the middle of one cannot say whether the PIN was refused, and another will
// try: so it is longer than what a token that works needs.
const loginTime = 5 * time.Second

func errRefused() *fault.Error {
	return fault.Wrap(fault.BackendUnavailable, "the token has refused the PIN, which is not sent again", token.ErrPINRefused)
}

// login asks the parent before a PIN is sent, and tells it how that ended: of all children one logs in at a time, and none
// after a refusal.
func (s *server) login(ctx context.Context, try func() error) error {
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return fault.Wrap(fault.Timeout, "another login took too long", ctx.Err())
	}
	defer func() { <-s.gate }()
	if err := s.out.send(control(kindAskLogin, 0)); err != nil {
		return fault.Wrap(fault.BackendUnavailable, "the service is gone", err)
	}
	select { // not by ctx: the answer comes in any case, and belongs to this question
	case granted := <-s.grants:
		if !granted {
			return errRefused()
		}
	case <-s.gone:
		return fault.New(fault.BackendUnavailable, "the service is gone")
	}
	err := try()
	how := loginDone
	switch {
	case errors.Is(err, token.ErrPINRefused):
		how = loginRefused
	case err != nil:
		how = loginFailed
	}
	s.send(control(kindLoggedIn, 0, how))
	return err
}

// logins is the supervisor's side: the one permission to send the PIN.
type logins struct {
	free    chan struct{} // has one element while nobody has the permission
	refused chan struct{} // closed once a PIN was refused
	once    sync.Once     // closes refused
}

func newLogins() *logins {
	g := &logins{free: make(chan struct{}, 1), refused: make(chan struct{})}
	g.free <- struct{}{}
	return g
}

func (g *logins) refuse() { g.once.Do(func() { close(g.refused) }) }

func (g *logins) isRefused() bool {
	select {
	case <-g.refused:
		return true
	default:
		return false
	}
}

// grant answers a child's question when its turn has come, and keeps the others waiting until the child has logged in or is dead.
func (g *logins) grant(l *link) {
	select {
	case <-g.free:
	case <-l.dead:
		return
	}
	defer func() { g.free <- struct{}{} }()
	yes := byte(1)
	if g.isRefused() {
		yes = 0
		l.asked.Store(false) // before it knows, as it may ask again
	}
	if err := l.out.send(control(kindLogin, 0, yes)); err != nil {
		l.die(err)
		return
	}
	if yes == 0 {
		return
	}
	limit := time.NewTimer(loginTime)
	defer limit.Stop()
	select {
	case <-l.loggedIn:
	case <-l.dead:
	case <-limit.C:
		l.die(errHung)
	}
}
