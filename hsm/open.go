package hsm

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

const (
	joinFirst   = time.Second     // before a token that is missing is looked for again
	joinMost    = 5 * time.Second // this grows to
	joinTimeout = time.Minute     // of opening one
	// settleTimeout is for making the backend of the first token that comes, and what that one lacks.
	settleTimeout = 2 * time.Minute
)

// Known is what is known of a backend before its tokens are there. It holds no secrets.
type Known struct {
	Identity string       `json:"identity"` // that of the tokens; "" for pinned ones
	Info     backend.Info `json:"info"`
}

// Open makes a backend of tokens. On tokens that it has not seen it makes the service's own keys (see ServiceKeys). A member that is not there
// joins when it is: it is looked for in growing intervals of at most 5 seconds. At least one must be there, unless the identity of the backend
// is known (Options.Known, Options.ID) and Options.Required is not set. When Open fails the tokens that it was given stay open
// and the caller's.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	b, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err = b.metrics.register(o.Registerer); err != nil {
		return nil, err
	}
	b.life, b.stop = context.WithCancel(context.Background())
	if err = b.first(ctx); err != nil {
		b.stop()
		b.metrics.unregister(o.Registerer)
		return nil, errors.Join(err, b.closeTokens(func(m *member) bool { return o.Members[m.index].Token == nil }))
	}
	for _, m := range b.members {
		b.watchers.Go(func() { b.watch(b.life, m) })
	}
	return b, nil
}

// first opens what is there, and makes the backend of it, or of what is known.
func (b *Backend) first(ctx context.Context) error {
	errs := make([]error, len(b.members))
	var all sync.WaitGroup
	for i, m := range b.members {
		if !m.joined.Load() {
			all.Go(func() { errs[i] = b.admit(ctx, m) })
		}
	}
	all.Wait()
	if ctx.Err() != nil {
		return ended(ctx)
	}
	var err error
	if len(b.present()) > 0 {
		if err = b.settle(ctx); err == nil {
			for _, m := range b.members {
				if !m.joined.Load() {
					b.log.Error("a member of the group is missing and will join when it is there", "member", m.name, "error", m.state().LastError)
				}
			}
			return nil
		}
	} else {
		err = errors.Join(errs...)
	}
	info := backend.Info{Kind: "hsm", Name: b.o.Name, ID: b.o.ID, Custody: []backend.Custody{backend.CustodyDevice}, KeepsObjects: !b.wrapped}
	if b.o.Known != nil {
		info = b.o.Known.Info
		info.Name = b.o.Name
	}
	if info.ID == "" || b.o.Required || slices.ContainsFunc(slices.Concat(errs, []error{err}), func(err error) bool { return err != nil && !passing(err) }) {
		return err
	}
	b.info.Store(&info)
	b.log.Error("no token of the backend is there: its keys cannot be used until one is", "error", err)
	return nil
}

// passing reports whether time may heal an error of opening a token.
func passing(err error) bool {
	return (fault.Has(err, fault.BackendUnavailable) || fault.Has(err, fault.Timeout)) && !errors.Is(err, token.ErrPINRefused)
}

// admit opens a member's token.
func (b *Backend) admit(ctx context.Context, m *member) error {
	m.joining.Store(true)
	defer m.joining.Store(false)
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	t, err := b.o.Members[m.index].Open(ctx)
	if err == nil {
		if err = b.take(m, t); err != nil {
			err = errors.Join(err, t.Close())
		}
	}
	if err != nil {
		m.refused.Store(!passing(err))
		m.failed(err, b.now())
		return err
	}
	m.refused.Store(false)
	return nil
}

// take gives a member its open token.
func (b *Backend) take(m *member, t token.Token) error {
	d := t.Describe()
	serial := d.Serial
	if serial == "" {
		serial = d.Label
	}
	serial = serial[:min(len(serial), maxName)]
	b.taking.Lock()
	defer b.taking.Unlock()
	if b.pinned && (serial == "" || slices.ContainsFunc(b.members, func(other *member) bool { return other.joined.Load() && other.serial == serial })) {
		return fault.New(fault.BadField, "pinned members need tokens with serial numbers that differ")
	}
	m.token, m.description, m.serial = t, d, serial
	m.generation.Store(d.Generation)
	m.joined.Store(true)
	return nil
}

// present gives the members whose tokens are open.
func (b *Backend) present() []*member {
	out := make([]*member, 0, len(b.members))
	for _, m := range b.members {
		if m.joined.Load() {
			out = append(out, m)
		}
	}
	return out
}

// join opens the token of a member that is missing, as often as it takes. It reports false when it is to be tried no more.
func (b *Backend) join(ctx context.Context, m *member) bool {
	wait, told := joinFirst, ""
	for !m.joined.Load() {
		if errors.Is(m.state().LastError, token.ErrPINRefused) {
			b.log.Error("the token has refused the PIN: it is not looked for until the next start", "member", m.name)
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, joinMost)
		err := b.admit(ctx, m)
		switch {
		case ctx.Err() != nil:
			return m.joined.Load() // Close closes it
		case err == nil:
			b.log.Info("a token that was missing is there", "member", m.name)
		case err.Error() != told: // the same every time is told once
			told = err.Error()
			b.log.Warn("a token is missing", "member", m.name, "error", err)
		}
	}
	return true
}

// settle makes the backend of the tokens that are there.
func (b *Backend) settle(ctx context.Context) error {
	b.settling.Lock()
	defer b.settling.Unlock()
	if b.ready.Load() {
		return nil
	}
	err := b.service(ctx)
	if err != nil {
		return err
	}
	if b.form != 0 && b.engine == nil {
		b.engine, err = sealed.New(engineSealer{b}, sealed.Options{Name: b.o.Name, Custody: backend.CustodySealed, Capacity: b.o.Capacity,
			Bytes: b.o.Bytes, Held: b.o.Held, TTL: b.o.TTL, Rand: b.generator(), Now: b.o.Now, Registerer: b.o.Registerer})
	}
	if err == nil {
		err = b.describe()
	}
	if err != nil {
		if b.engine != nil {
			err = errors.Join(err, b.engine.Close())
			b.engine = nil
		}
		return err
	}
	b.ready.Store(true)
	if b.o.Remember != nil {
		b.o.Remember(Known{Identity: b.identity, Info: b.Info()})
	}
	return nil
}
