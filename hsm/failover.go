package hsm

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

var errNobody = fault.New(fault.BackendUnavailable, "no member of the group is available").RetryAfter(time.Second)

var errNotThere = fault.New(fault.BackendUnavailable, "a member of the group is missing, and may have the key too").RetryAfter(joinFirst)

// homed gives the members that may have a key, the one to ask first in front.
func (b *Backend) homed(name string) ([]*member, error) {
	if !b.pinned {
		return b.order(), nil
	}
	missing := false
	for i, m := range b.members {
		if !m.joined.Load() {
			missing = true
		} else if m.serial == name {
			return b.members[i : i+1], nil
		}
	}
	if missing {
		return nil, fault.New(fault.BackendUnavailable, "the member that has the key may be one that is missing").RetryAfter(joinFirst)
	}
	return nil, errUnreadable
}

// able leaves out the members that joined later and cannot do what the backend offers.
func able(members []*member, a ability) []*member {
	lacks := func(m *member) bool { return m.lacks[a] }
	if !slices.ContainsFunc(members, lacks) {
		return members
	}
	return slices.DeleteFunc(slices.Clone(members), lacks)
}

// does reports whether a member's token has an operation.
func (m *member) does(a backend.Algorithm, op backend.Operation) bool {
	return slices.ContainsFunc(m.description.Capabilities, func(c backend.Capability) bool {
		return c.Algorithm == a && slices.Contains(c.Operations, op)
	})
}

// lacking lists what the backend offers on its tokens and this member's does not have.
func (b *Backend) lacking(m *member) map[ability]bool {
	out := map[ability]bool{}
	need := func(a backend.Algorithm, whole bool, list ...backend.Operation) {
		for _, op := range list {
			if op == backend.OpAttest {
				continue // of every token, and not among what is probed
			}
			if !whole || !m.does(a, op) {
				out[ability{a, op}] = true
				out[ability{a, ""}] = true
			}
		}
	}
	for a, c := range b.can {
		if c.Custody == backend.CustodyDevice {
			fits := !b.wraps() || slices.Contains(m.description.Wrappable, a)
			need(a, fits, c.Operations...)
			if at := slices.IndexFunc(m.description.Capabilities, func(own backend.Capability) bool { return own.Algorithm == a }); at >= 0 && c.Import && !m.description.Capabilities[at].Import {
				out[ability{a, ""}] = true
			}
		}
	}
	switch b.form {
	case formGCM:
		need(backend.AES256GCM, true, backend.OpEncrypt, backend.OpDecrypt)
	case formKWP:
		need(backend.AES256KWP, true, backend.OpWrap, backend.OpUnwrap)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// moves reports whether another member should be asked after this error: this one is gone, full, or hangs. The deadline of the
// caller is not the member's fault.
func moves(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (fault.Has(err, fault.BackendUnavailable) || fault.Has(err, fault.Overloaded) || fault.Has(err, fault.Timeout))
}

// pace is how one member does one kind of operation.
type pace struct {
	usual atomic.Int64 // time of calls that succeed, for one item, an average in which each counts an eighth; 0: none yet
	last  atomic.Int64 // when one succeeded: since the start of the process, in nanoseconds
}

func (p *pace) note(start, took time.Duration, n int) {
	end := start + took
	took /= time.Duration(n)
	usual := p.usual.Load()
	if usual == 0 {
		usual = int64(took)
	}
	p.usual.Store(usual + (int64(took)-usual)/8) // that another call does so at the same moment is no harm
	p.last.Store(int64(end))
}

// patience is the least time that a member of a group gets, and how long it may take before a deadline that passes is held against it.
const patience = 250 * time.Millisecond

// share is how long a member gets before another one is asked: much longer than it usually takes, so that load alone moves few calls, and
// no longer than FailoverAfter, so that one that hangs is known soon.
func (b *Backend) share(ctx context.Context, m *member, kind operation, n int) time.Duration {
	usual := time.Duration(m.pace[kind].usual.Load())
	d := min(max(16*usual*time.Duration(n), patience), max(b.o.FailoverAfter, patience)+4*usual*time.Duration(n-1))
	if deadline, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(deadline)/2)
	}
	return d
}

// each does something that may be repeated on the first member that can do it. A member that does not answer in its share of the time
// is left, and the next one asked; the last has what is left of the caller's.
func each[T any](ctx context.Context, b *Backend, members []*member, kind operation, f func(context.Context, *member) (T, error)) (T, error) {
	return eachOf(ctx, b, members, kind, 1, f)
}

// eachOf is each for n items at once.
func eachOf[T any](ctx context.Context, b *Backend, members []*member, kind operation, n int, f func(context.Context, *member) (T, error)) (out T, err error) {
	if len(members) == 0 {
		return out, errNobody
	}
	for i, m := range members {
		if i == len(members)-1 {
			return onceOf(ctx, b, m, kind, n, f)
		}
		try, cancel := context.WithTimeout(ctx, b.share(ctx, m, kind, n))
		out, err = onceOf(try, b, m, kind, n, f)
		cancel()
		if err == nil || !moves(ctx, err) {
			return out, err
		}
		b.metrics.failovers[m.index].Inc()
	}
	return out, err
}

// once does something on one member, whose state follows.
func once[T any](ctx context.Context, b *Backend, m *member, kind operation, f func(context.Context, *member) (T, error)) (T, error) {
	return onceOf(ctx, b, m, kind, 1, f)
}

func onceOf[T any](ctx context.Context, b *Backend, m *member, kind operation, n int, f func(context.Context, *member) (T, error)) (T, error) {
	start := time.Since(b.began)
	if err := b.own(ctx, m, kind); err != nil {
		b.noted(ctx, m, kind, n, start, 0, err)
		var none T
		return none, err
	}
	out, err := f(ctx, m)
	took := time.Since(b.began) - start
	b.metrics.calls[m.index][kind].Observe(took.Seconds())
	b.noted(ctx, m, kind, n, start, took, err)
	return out, err
}

func (b *Backend) noted(ctx context.Context, m *member, kind operation, n int, start, took time.Duration, err error) {
	switch {
	case err == nil:
		m.pace[kind].note(start, took, n)
		if m.down.Load() && m.verified.Load() {
			b.mark(m, nil)
		}
	case fault.Has(err, fault.BackendUnavailable):
		b.mark(m, err)
	case len(b.members) > 1 && took >= patience && fault.Has(err, fault.Timeout) && (ctx.Err() == nil || context.Cause(ctx) == context.DeadlineExceeded) && //nolint:errorlint // the exact value
		m.pace[kind].last.Load() <= int64(start):
		// Nothing of the kind has succeeded in all that time: it hangs, and is not merely busy. Its watcher asks it at once.
		b.mark(m, err)
	}
}
