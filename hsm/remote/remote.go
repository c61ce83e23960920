// Package remote keeps PKCS#11 modules out of this process: each is loaded by children of the same binary, and a Supervisor that is
// a token.Token speaks with them over a socket. A module that crashes takes its child along and nothing else; one that hangs
// is killed with its child when a call is past its deadline; and where a module does one call at a time, several children do several.
//
// The parent trusts a child as far as it trusts the module that the child has loaded: for the results of the operations that it
// asked for, and for nothing else. Frames are bounded and decoded strictly, and a child that breaks the protocol is killed. The child
// trusts its parent, which holds the other end of a socket that has no name. The PIN travels over that socket alone, never in arguments
// or environment, and after the child has shown that it speaks the same protocol.
package remote

import (
	"context"
	"log/slog"
	"os/exec"
	"time"

	"github.com/keywright/keywright/hsm/token"
)

// Argument is the hidden first argument that makes the binary a child: its main must then do nothing but call Child.
const Argument = "hsm-module"

const (
	version = 2 // of the protocol; both ends must have the same, as they are one binary

	// maxFrame bounds one frame in bytes, its length field not counted. An operation carries at most a request's body (1 MiB and its
	// overhead); long lists travel in several frames.
	maxFrame = 4 << 20
	// maxAnswer bounds the parts of one answer together, in bytes.
	maxAnswer = 64 << 20
	// maxQueued bounds what waits to be written to a child that does not read, in bytes: further calls are refused.
	maxQueued = 16 << 20
	// maxBacklog bounds the answers that wait for a parent that does not read, in bytes: then the child ends.
	maxBacklog = 256 << 20

	defaultCall     = 5 * time.Second
	defaultSessions = 64   // as token.Config says
	defaultQueue    = 1024 // as token.Config says
)

// Options are how a module's children are kept. The zero value is usable.
type Options struct {
	// Processes is how many children load the module side by side; 0: 1. More than one pays where the module does one call at a
	// time (SoftHSM does). Sessions and queue of the token.Config are each child's.
	Processes int
	// Command makes the command of one child; nil: this binary with Argument. Its files and streams are set by the
	// Supervisor, its environment is its own: modules find their configuration by it.
	Command func() *exec.Cmd
	// Grace is how long after its deadline a call may still be in the module before the child is killed, if nothing else comes to an end
	// in it meanwhile; 0: 500 ms. It is longer for a child that took longer to open the token, up to 4 s, and doubles with
	// each child in a row that was killed before it had done anything, up to 10 s.
	Grace time.Duration
	// RestartEvery is the least time between two starts of one child; 0: 1 s. A child that lived longer is replaced at once.
	RestartEvery time.Duration
	// OpenTimeout bounds the opening of the token by a child; 0: 30 s. A child in whose place another has opened it before gets three times
	// as long as that one, 2 s at least, and twice that after each failure.
	OpenTimeout time.Duration
	// CallTimeout is the longest that a use of a key may take, a look-up or a test, whatever its context says; 0: 5 s. token.Limit gives
	// that of other operations. What takes longer is answered with fault.Timeout and a time to try again.
	CallTimeout time.Duration
	// LesserFor is how long a token that does less than at the start, when a child opens it anew, is refused and tried again; then it is
	// taken as it is, and opened anew every LesserFor, which ends nothing that is under way. 0: 30 s.
	LesserFor time.Duration
	// Logger takes what happens to the children, and what they and their modules print; nil: nothing is logged.
	Logger *slog.Logger
}

// OpenFunc opens a token in the child, as token.Open does.
type OpenFunc func(context.Context, token.Config) (token.Token, error)

func (o *Options) fill() {
	o.Processes = max(o.Processes, 1)
	if o.Command == nil {
		o.Command = command
	}
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&o.Grace, 500 * time.Millisecond}, {&o.RestartEvery, time.Second}, {&o.OpenTimeout, 30 * time.Second}, {&o.CallTimeout, defaultCall}, {&o.LesserFor, 30 * time.Second}} {
		if *d.p <= 0 {
			*d.p = d.v
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// capacity is how many calls a child can have at once: those in sessions and those in its queue.
func capacity(c token.Config) int {
	sessions, queue := c.Sessions, c.Queue
	if sessions <= 0 {
		sessions = defaultSessions
	}
	if queue <= 0 {
		queue = defaultQueue
	}
	return min(sessions+queue, 1<<16)
}
