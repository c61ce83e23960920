package remote

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/fault"
)

// doubt looks into a child that has given up a call at its deadline, or says that the token is gone: the call may have waited for
// a session, or the module may be stuck with it, and so may be the child's healing. After the grace the child says how long the
// module has had what was given up. When that is not the matter and nothing has succeeded since, a real operation decides. Full queues
// alone never kill a child: it answers other calls all the while. Nor does a login, its own or another child's that it waits for: killed
// in the middle of it, the child could not say whether the PIN was refused.
func (l *link) doubt() {
	if !l.suspect.CompareAndSwap(false, true) {
		return
	}
	l.wg.Go(func() {
		defer l.suspect.Store(false)
		good := l.good.Load()
		select {
		case <-l.dead:
			return
		case <-time.After(l.grace):
		}
		a, err := l.ask(opStats)
		if err != nil || a.err != nil {
			return // dead, or it will be when the grace of this very call is over
		}
		s, err := decodeStats(a.body)
		switch {
		case err != nil:
			l.die(err)
		case l.asked.Load(): // a login has a limit of its own
		case s.StuckFor >= l.grace:
			l.die(errHung)
		case l.good.Load() == good:
			a, err = l.ask(opPing)
			// The child's own word that the time is over comes when it is over here too: either may be first.
			late := errors.Is(err, context.DeadlineExceeded) || err == nil && fault.Has(a.err, fault.Timeout)
			if late && l.good.Load() == good {
				l.die(errHung)
			}
		}
	})
}

// ask makes a call without arguments within the grace.
func (l *link) ask(op operation) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.grace)
	defer cancel()
	deadline, _ := ctx.Deadline()
	frame := beginRequest(nil, op)
	finish(frame)
	return l.call(ctx, frame, deadline, l.limit+spare)
}
