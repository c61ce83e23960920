package remote

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

// closeTime bounds how long Close waits for a child's calls under way: a little longer than the child itself does.
const closeTime = drainTime + time.Second

// Supervisor is a token in other processes. It implements token.Token; its methods are safe for concurrent use.
//
// A child that crashes, breaks the protocol or hangs is killed and replaced, at most once per Options.RestartEvery. It hangs when a call is
// past its deadline and nothing comes to an end in it; one in which other calls do is slow, and has seconds for a late one. Its calls under way answer fault.BackendUnavailable with RetryAfter, but for uses of keys, random bytes
// and look-ups, which are tried once more on another child. Once a child reports that the PIN was refused, no child is
// started or logged in any more; those that are logged in go on.
type Supervisor struct {
	config   token.Config // with a PIN of its own
	options  Options
	children []*child
	logins   *logins
	launcher *launcher
	counters counters
	full     token.Description // what the first child found; fixed before there are others

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	closed atomic.Bool
	once   sync.Once
	wg     sync.WaitGroup
}

var _ token.Token = (*Supervisor)(nil)

// child is the place of one child, in which one process follows another.
type child struct {
	s      *Supervisor
	index  int
	link   atomic.Pointer[link] // nil while there is none to work with
	lesser time.Time            // since when its token does less than at the start; zero: it does not. Of the goroutine that starts it
	tempo                       // of the goroutine that starts it

	mu          sync.Mutex
	description token.Description // guarded by mu: what the child said last; its generation counts from base
	base        uint64            // guarded by mu: the generations of the children before
	stats       token.Stats       // guarded by mu: what the child said last
	past        token.Stats       // guarded by mu: counters of the children before
}

// Open starts the children and waits until each has tried to open the token once. It answers the first child's error, so a token
// that cannot be opened is an error as it is with token.Open; other children that fail are tried again. The PIN is copied;
// the caller's may be wiped.
func Open(ctx context.Context, config token.Config, options Options) (*Supervisor, error) {
	options.fill()
	config.PIN = append(secret.Bytes(nil), config.PIN...)
	config.LoginGate = nil // the children have ours
	s := &Supervisor{config: config, options: options, logins: newLogins(), launcher: newLauncher()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for i := range options.Processes {
		s.children = append(s.children, &child{s: s, index: i})
	}
	// The first alone: it is the one that makes what the token lacks, and that shows whether the PIN is right.
	first, p, err := s.children[0].start(ctx)
	if err != nil {
		s.cancel()
		s.launcher.close()
		s.config.PIN.Wipe()
		return nil, asFault(err)
	}
	s.full = s.children[0].description
	if s.config.Serial == "" {
		s.config.Serial = s.full.Serial // a label may be another token's later, which is not to see the PIN
	}
	s.wg.Go(func() { s.children[0].run(first, p) })
	var tried sync.WaitGroup
	for _, c := range s.children[1:] {
		tried.Add(1)
		s.wg.Go(func() {
			l, p, err := c.start(ctx)
			if err != nil {
				s.log().Warn("a process for the module could not be started", "child", c.index, "error", err)
			}
			tried.Done()
			c.run(l, p)
		})
	}
	tried.Wait()
	return s, nil
}

func (s *Supervisor) log() *slog.Logger { return s.options.Logger }

// asFault gives what a failed opening is to the caller.
func asFault(err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fault.Wrap(fault.Timeout, "the token could not be opened in time", err)
	}
	return fault.Wrap(fault.BackendUnavailable, "the process for the token's module does not work", err)
}

// start starts a process and opens the token in it.
func (c *child) start(ctx context.Context) (*link, *process, error) {
	s := c.s
	ctx, cancel := context.WithTimeout(ctx, s.options.OpenTimeout)
	defer cancel()
	began := time.Now()
	defer context.AfterFunc(s.ctx, cancel)()
	p, conn, err := start(s.options.Command(), s.launcher, s.log().With("child", c.index), s.config.PIN)
	if err != nil {
		return nil, nil, err
	}
	l, d, err := greeting(ctx, p, conn, &s.config, s.options.Grace, c.openingLimit(s.options.OpenTimeout), s.logins)
	if err != nil {
		c.notOpened(err)
		return nil, nil, err
	}
	if err := c.compare(&d); err != nil {
		l.die(err)
		p.kill()
		l.wg.Wait()
		return nil, nil, err
	}
	c.opened(l, time.Since(began), s.options.OpenTimeout)
	c.mu.Lock()
	c.base += c.description.Generation
	c.description = d
	c.mu.Unlock()
	c.link.Store(l)
	return l, p, nil
}

// compare refuses a token that does less than at the start, for a while.
func (c *child) compare(d *token.Description) error {
	what := lacks(&c.s.full, d)
	if what == "" {
		c.lesser = time.Time{}
		return nil
	}
	if c.lesser.IsZero() {
		c.lesser = time.Now()
	}
	if time.Since(c.lesser) < c.s.options.LesserFor {
		return fault.New(fault.BackendUnavailable, "the token does less than at the start, "+what+" for one: it is opened again")
	}
	c.s.log().Error("the token does less than at the start, and is used as it is", "child", c.index, "lacks", what)
	return nil
}

// run keeps one child going until Close.
func (c *child) run(l *link, p *process) {
	s := c.s
	started := time.Now()
	failure := ""
	for {
		if l != nil {
			c.watch(l, p)
		}
		if !s.wait(time.Until(started.Add(s.options.RestartEvery))) {
			return
		}
		started = time.Now()
		var err error
		l, p, err = c.start(s.ctx)
		switch {
		case s.ctx.Err() != nil && err != nil:
			return
		case err == nil:
			s.counters.restarts.Add(1)
			s.log().Info("the module's process was started again", "child", c.index, "pid", p.cmd.Process.Pid)
			failure = ""
		case err.Error() != failure: // the same failure every second is told once
			failure = err.Error()
			s.log().Error("the module's process does not start", "child", c.index, "error", err)
		}
		if err != nil {
			s.counters.failedStarts.Add(1)
		}
	}
}

// wait waits before another start. It reports false when there shall be none.
func (s *Supervisor) wait(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(max(d, 0)):
	}
	select {
	case <-s.ctx.Done():
		return false
	case <-s.logins.refused:
		s.log().Error("the token has refused the PIN: no process is started any more")
		<-s.ctx.Done()
		return false
	default:
		return true
	}
}

// watch waits until a child is dead or the supervisor closes, and cleans up after it.
func (c *child) watch(l *link, p *process) {
	s := c.s
	var again <-chan time.Time // a token that does less is looked at again
	if !c.lesser.IsZero() {
		again = time.After(s.options.LesserFor)
	}
	select {
	case <-l.dead:
	case <-p.exited:
		c.lastWords(l)
	case <-again:
		c.link.CompareAndSwap(l, nil) // no more calls go there
		c.finish(l, p)
		c.bury()
		return
	case <-s.ctx.Done():
		c.finish(l, p)
		return
	}
	c.link.CompareAndSwap(l, nil)
	p.kill()
	l.wg.Wait()
	if errors.Is(l.why(), errHung) {
		s.counters.kills.Add(1)
	} else {
		s.counters.crashes.Add(1)
	}
	c.ended(l)
	s.log().Error("the module's process was lost", "child", c.index, "pid", p.cmd.Process.Pid, "error", l.why(), "status", p.status)
	c.bury()
}

// bury keeps the counters of a child that is gone.
func (c *child) bury() {
	c.mu.Lock()
	defer c.mu.Unlock()
	addCounters(&c.past, &c.stats)
	c.stats = token.Stats{}
}

// lastWords lets the answers arrive that a child has sent before its end.
func (c *child) lastWords(l *link) {
	select {
	case <-l.dead:
	case <-time.After(100 * time.Millisecond): // somebody else holds the socket open
		l.die(errors.New("it has ended"))
	}
}

// finish lets a child end by itself: no more requests come, and it answers those that it has.
func (c *child) finish(l *link, p *process) {
	limit, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	l.closing.Store(true)
	if err := l.conn.CloseWrite(); err == nil { // it fails on a dead link
		select {
		case <-p.exited: // with its last answers in the socket
			c.lastWords(l)
		case <-limit.Done():
			c.s.log().Warn("the module's process did not end by itself", "child", c.index)
		}
	}
	c.link.Store(nil)
	l.die(errClosed)
	p.kill()
	l.wg.Wait()
}

// Close ends all children: calls under way get up to 5 s, then the children are killed. A second Close waits for the first.
func (s *Supervisor) Close() error {
	s.once.Do(func() {
		s.closed.Store(true)
		s.cancel()
		s.wg.Wait()
		s.launcher.close()
		s.config.PIN.Wipe()
	})
	return nil
}
