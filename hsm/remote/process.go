package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/hsm/token"
)

// command is this binary with the hidden argument. /proc/self/exe is the very file that runs, also when an update has put
// another in its place: parent and child speak one protocol.
func command() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", Argument) //nolint:noctx // a child lives until its Supervisor ends it
	cmd.Args[0] = os.Args[0]
	return cmd
}

// process is one child as the system knows it.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it is reaped
	logged chan struct{} // closed when all that it printed is logged
	status error         // how it ended; valid after exited
}

// start starts a child with one end of a new socket, of which it gives the other.
func start(cmd *exec.Cmd, on *launcher, log *slog.Logger, pin []byte) (*process, *net.UnixConn, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close() //nolint:errcheck // the child has its own copy
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	defer w.Close() //nolint:errcheck // the child has its own copy
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = nil, w, w, []*os.File{theirs}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // from the first instruction on; the child sets it again for itself
	cmd.SysProcAttr.Setpgid = true              // what a terminal sends to our group is for us to act on
	if err := on.do(cmd.Start); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("starting the module's process: %w", err), r.Close(), conn.Close())
	}
	p := &process{cmd: cmd, exited: make(chan struct{}), logged: make(chan struct{})}
	go func() {
		p.status = cmd.Wait()
		// What a daemon of the module inherited stays open: its words are not waited for.
		_ = r.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // pipes have deadlines
		close(p.exited)
	}()
	go func() {
		defer close(p.logged)
		logLines(r, log.With("pid", cmd.Process.Pid), pin)
		_ = r.Close() // read to its end
	}()
	return p, conn, nil
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent")
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// kill ends the process and waits until it is reaped.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it fails only when the process has ended
	<-p.exited
	<-p.logged
}

// greeting opens the token in a new child, in the limit if ctx leaves as much. The link is dead and the process gone when it fails.
func greeting(ctx context.Context, p *process, conn *net.UnixConn, c *token.Config, grace, limit time.Duration, g *logins) (*link, token.Description, error) {
	fail := func(l *link, err error) (*link, token.Description, error) {
		if l != nil {
			l.die(err)
		} else {
			_ = conn.Close() // the error is err
		}
		p.kill()
		if l != nil {
			l.wg.Wait()
		}
		return nil, token.Description{}, err
	}
	l, err := newLink(conn, capacity(*c), grace, g)
	if err != nil {
		return fail(nil, err)
	}
	stop := context.AfterFunc(ctx, func() { l.die(context.Cause(ctx)) })
	defer stop()
	opened := make(chan struct{})
	defer close(opened)
	l.wg.Go(func() { l.hurry(limit, opened) })
	if err := l.greet(); err != nil {
		return fail(l, fmt.Errorf("greeting the module's process: %w", err))
	}
	d, err := l.open(ctx, c)
	if err != nil {
		if err == errLost { //nolint:errorlint // our own value, never wrapped
			err = cmp.Or(l.why(), err)
		}
		return fail(l, err)
	}
	if !stop() {
		return fail(l, ctx.Err())
	}
	return l, d, nil
}

// hurry ends a child whose opening takes longer than the limit. A login, its own or others' that it waits for, has limits of its own, and starts this
// one again.
func (l *link) hurry(limit time.Duration, opened <-chan struct{}) {
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		turns := l.turns.Load()
		select {
		case <-opened:
			return
		case <-l.dead:
			return
		case <-t.C:
		}
		if !l.asked.Load() && l.turns.Load() == turns {
			l.die(errSlowOpening)
			return
		}
		t.Reset(limit)
	}
}

// launcher starts processes on one thread of its own: the kernel sends the signal of a parent's death when the thread ends that
// started the child, and other threads may end (golang/go#27505).
type launcher struct{ work chan func() }

func newLauncher() *launcher {
	l := &launcher{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread() // the thread stays
		for f := range l.work {
			f()
		}
	}()
	return l
}

func (l *launcher) do(f func() error) error {
	result := make(chan error)
	l.work <- func() { result <- f() }
	return <-result
}

// close may be called once nothing is started any more and all children are gone.
func (l *launcher) close() { close(l.work) }
