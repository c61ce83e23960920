package remote

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// doubt looks into a child that has given up a call at its deadline, or says that the token is gone: the call may have waited for
// a session, or the module may be slow, or stuck with it, and so may be the child's healing.
func (l *link) doubt() {
	if !l.suspect.CompareAndSwap(false, true) {
		return
	}
	l.wg.Go(func() {
		defer l.suspect.Store(false)
		l.examine()
	})
}

const (
	// silence is how many times its patience a call may be in the module after its caller has left while nothing of its kind comes to an end.
	silence = 3
	// bearable is the same for one while others of its kind come to an end.
	bearable = 8
	// bearableMost and bearableLeast bound that.
	bearableLeast, bearableMost = 5 * time.Second, 10 * time.Second
	// overdueMost is how many times its patience a child that answers other calls may keep one past its deadline.
	overdueMost = 6
)

// examine watches a child until nothing is wrong with it, or it is dead. It is hung, and killed, when nothing at all has come to an end in
// the time of its patience, a real operation included, while the module has a call that was given up; or when that is so
// twice in a row; or when that is so of one kind of operation for three times as long. One in which everything comes to an end is slow, and
// lives, but for a single call that stays in the module very much longer.
// Full queues never kill a child: it answers other calls all the while. Nor does a login, its own or another child's that it waits for:
// killed in the middle of it, the child could not say whether the PIN was refused. A module that is being initialised anew has
// the time that the opening of a token has.
func (l *link) examine() {
	patience := l.patient()
	before, ok := l.statistics()
	for round := 0; ok; round++ {
		good := l.good.Load()
		pause := time.NewTimer(patience)
		said, done := l.ping()
		select {
		case <-l.dead:
			pause.Stop()
			return
		case <-pause.C:
		}
		var now token.Stats
		if now, ok = l.statistics(); !ok {
			return
		}
		moves := done || now.Returns != before.Returns || l.good.Load() != good
		before = now
		switch {
		case l.asked.Load(), now.MendingFor > 0 && now.MendingFor < time.Duration(l.openTime.Load()):
			round = 0
		case now.MendingFor > 0:
			l.die(errHung)
		case now.StuckFor == 0 && (moves || said):
			return
		case now.SilentFor >= silence*patience:
			l.die(errHung)
		case now.StuckFor >= min(max(bearable*patience, bearableLeast), bearableMost):
			l.die(errHung)
		case moves:
			round = 0
		case now.StuckFor >= patience*3/4, round > 0:
			l.die(errHung)
		}
	}
}

// ping has the token do a real operation, within the patience. said: the child has answered before it was over; done: well.
func (l *link) ping() (said, done bool) {
	a, err := l.askFor(opPing, l.patient())
	// The child's own word that the time is over comes when it is over here too: either may be first.
	said = err == nil && !fault.Has(a.err, fault.Timeout)
	return said, said && a.err == nil
}

// statistics asks the child how it is, which takes nothing of the module: a child that is silent all that time is not there any more.
func (l *link) statistics() (token.Stats, bool) {
	for range 2 {
		heard := l.heard.Load()
		a, err := l.askFor(opStats, 2*l.patient())
		switch {
		case err == nil && a.err == nil:
			s, err := decodeStats(a.body)
			if err != nil {
				l.die(err)
			}
			return s, err == nil
		case errors.Is(err, context.DeadlineExceeded) && l.heard.Load() != heard:
			continue
		case errors.Is(err, context.DeadlineExceeded):
			l.die(errHung)
		}
		return token.Stats{}, false
	}
	l.die(errHung)
	return token.Stats{}, false
}

// overdue looks at a call that the child should have answered long ago, if only by saying that the time is over. A child that is starved
// of processor time may be late with that, and says other things meanwhile.
func (l *link) overdue(id uint64, w *waiter) {
	heard := l.heard.Load()
	l.mu.Lock()
	if l.waiting[id] != w {
		l.mu.Unlock()
		return
	}
	w.late++
	lost := w.late > overdueMost || w.late > 2 && heard == w.heard
	w.heard = heard
	if !lost {
		w.limit.Reset(l.patient())
	}
	l.mu.Unlock()
	if lost {
		l.die(errHung)
		return
	}
	l.doubt()
}

func (l *link) patient() time.Duration { return time.Duration(l.patience.Load()) }

// ask makes a call without arguments within the grace.
func (l *link) ask(op operation) (answer, error) { return l.askFor(op, l.grace) }

func (l *link) askFor(op operation, limit time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	frame := beginRequest(nil, op)
	finish(frame)
	return l.call(ctx, frame, deadline, l.limit+spare)
}
