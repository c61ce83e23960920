package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// childFD is the child's end of the socket: the first of os/exec's ExtraFiles.
const childFD = 3

// Child is all that a process started with Argument does: it hardens itself, serves its parent on file descriptor 3, and gives the exit
// code. What it has to say goes to standard error, line by line into the parent's log.
//
// Interrupts are the parent's to act on: a terminal or a service manager sends them to all processes of a group, and a child that
// obeyed would take the module away under calls that the parent still finishes. The child ends with its parent in any case, by
// the end of the stream and by the kernel's signal.
func Child(ctx context.Context, open OpenFunc) int {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	if err := harden(); err != nil {
		fmt.Fprintln(os.Stderr, "hardening:", err)
	}
	conn, err := inherited()
	if err != nil {
		fmt.Fprintln(os.Stderr, "this command is for the service itself, which starts it with a socket:", err)
		return 2
	}
	if err := Serve(ctx, conn, open); err != nil {
		fmt.Fprintln(os.Stderr, "ending:", err)
		return 1
	}
	return 0
}

// harden keeps the PIN and what passes through out of core dumps and of other processes' reach, and binds the life of the
// process to its parent's. Nothing here is needed for it to work.
func harden() error {
	return errors.Join(
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0),
		unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0),
	)
}

// inherited takes the socket over, so that nothing which the module starts inherits it.
func inherited() (*net.UnixConn, error) {
	unix.CloseOnExec(childFD)
	f := os.NewFile(childFD, "parent")
	conn, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("file descriptor 3 is no Unix socket"), conn.Close())
	}
	return u, nil
}
