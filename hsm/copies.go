package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// maxEnded bounds how many destroyed keys are remembered, so that no copy of them is brought anywhere.
const maxEnded = 1 << 16

const (
	bringTimeout = 10 * time.Second // of one copy
	bringAtOnce  = 4                // copies to one member
)

// copying keeps the bringing of copies apart from the destroying of keys.
type copying struct {
	bringing sync.RWMutex // held for reading while a copy is brought

	mu    sync.Mutex // guards the rest
	gone  map[token.ID]bool
	order []token.ID // oldest first
}

// end remembers that a key is destroyed. When it returns no copy of it is on its way.
func (c *copying) end(id token.ID) {
	c.mu.Lock()
	if c.gone == nil {
		c.gone = map[token.ID]bool{}
	}
	if !c.gone[id] {
		c.gone[id] = true
		c.order = append(c.order, id)
	}
	if len(c.order) > maxEnded {
		delete(c.gone, c.order[0])
		c.order = c.order[1:]
	}
	c.mu.Unlock()
	c.bringing.Lock()
	c.bringing.Unlock() //nolint:staticcheck // waits for those who have not seen it
}

func (c *copying) ended(id token.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone[id]
}

var (
	errFew    = fault.New(fault.BackendUnavailable, "too few members of the group are there to keep copies of a new key").RetryAfter(time.Second)
	errNoCopy = fault.New(fault.Overloaded, "the member does not have its copy of the key yet").RetryAfter(time.Second)
)

// enough reports an error unless as many members are healthy as a new key needs.
func (b *Backend) enough(members []*member) error {
	n := 0
	for _, m := range members {
		if !m.down.Load() {
			n++
		}
	}
	if n < b.o.MinCopies {
		return errFew
	}
	return nil
}

// spread brings a new key to all members that are healthy. It is not to be given out unless enough of them have it.
func (b *Backend) spread(ctx context.Context, r *backend.Ref, o token.Object) error {
	_, drops := b.refs.get(r, 0)
	info, _ := backend.Lookup(r.Spec.Algorithm) // resolve has found it
	e := &entry{spec: r.Spec, info: info, public: slices.Clone(r.Public), blob: slices.Clone(r.Blob), id: o.ID, wrapped: slices.Clone(o.Wrapped), copied: true}
	if !info.Symmetric() {
		pub, err := publicOf(info, r.Public)
		if err != nil {
			return unreadable(err)
		}
		e.pub = pub
	}
	errs := make([]error, len(b.members))
	var all sync.WaitGroup
	for i, m := range b.members {
		if !m.verified.Load() || m.down.Load() || m.lacks[ability{r.Spec.Algorithm, ""}] {
			errs[i] = errNotThere
			continue
		}
		all.Go(func() {
			_, errs[i] = once(ctx, b, m, opPlace, func(ctx context.Context, m *member) (struct{}, error) {
				return struct{}{}, b.place(ctx, m, e)
			})
		})
	}
	all.Wait()
	n := 0
	conflict := false
	for i, err := range errs {
		if err == nil {
			n++
			continue
		}
		b.members[i].owed.Store(true)
		conflict = conflict || fault.Has(err, fault.Conflict)
	}
	if n >= b.o.MinCopies && !conflict {
		e.epoch = b.epoch.Load()
		b.refs.put(e, drops)
		return nil
	}
	for i, err := range errs {
		if err == nil {
			b.takeBack(ctx, b.members[i], e.id)
		}
	}
	if conflict {
		return fault.New(fault.Conflict, "a key with this identity exists already")
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return fault.Wrap(fault.BackendUnavailable, errFew.Message, errors.Join(errs...)).RetryAfter(time.Second)
}

// place makes a key an object of a member's token.
func (b *Backend) place(ctx context.Context, m *member, e *entry) error {
	b.copying.bringing.RLock()
	defer b.copying.bringing.RUnlock()
	if b.copying.ended(e.id) {
		return errUnreadable
	}
	p, ok := m.token.(token.Placer)
	if !ok {
		return fault.New(fault.Unsupported, "the token does not take copies of keys")
	}
	o, err := p.Place(ctx, e.id, e.spec.Algorithm, e.spec.Purpose, e.wrapped, e.public)
	if err != nil {
		return err
	}
	if err := fits(o, e.id, e.info, e.public); err != nil {
		return unreadable(err)
	}
	return nil
}

// withCopy does something with a copied key on a member. One that lacks its copy, because it was away when the key was made, is brought it beside the
// call, which goes to another member meanwhile, or waits if there is none.
func withCopy[T any](ctx context.Context, b *Backend, m *member, e *entry, f func() (T, error)) (T, error) {
	out, err := f()
	if !fault.Has(err, fault.KeyMaterial) || b.copying.ended(e.id) {
		return out, err
	}
	brought := make(chan error, 1)
	select {
	case m.bringing <- struct{}{}:
		b.watchers.Go(func() {
			defer func() { <-m.bringing }()
			brought <- b.bring(m, e)
		})
	default:
		return out, errNoCopy // it has enough to do
	}
	if slices.ContainsFunc(b.members, func(other *member) bool { return other != m && other.verified.Load() && !other.down.Load() }) {
		return out, errNoCopy
	}
	select {
	case berr := <-brought:
		if fault.Has(berr, fault.KeyMaterial) {
			return out, err
		}
		if berr != nil && !fault.Has(berr, fault.Conflict) {
			return out, berr
		}
	case <-ctx.Done():
		return out, ended(ctx)
	}
	if out, err = f(); fault.Has(err, fault.KeyMaterial) {
		return out, errNoCopy // another call brings it at this moment
	}
	return out, err
}

// bring brings a member one copy.
func (b *Backend) bring(m *member, e *entry) error {
	ctx, cancel := context.WithTimeout(b.life, bringTimeout)
	defer cancel()
	err := b.place(ctx, m, e)
	switch {
	case err == nil:
		b.metrics.copies[m.index].Inc()
		b.log.Info("a member was brought its copy of a key", "member", m.name, "key", e.spec.KeyID.String(), "version", e.spec.Version)
	case !fault.Has(err, fault.Conflict):
		b.log.Warn("a member could not be brought its copy of a key", "member", m.name, "key", e.spec.KeyID.String(), "version", e.spec.Version, "error", err)
	}
	return err
}

// replenish brings a member the copies that it lacks of keys in use. Of other keys it gets them when they are used.
func (b *Backend) replenish(ctx context.Context, m *member) bool {
	entries := b.refs.copied()
	if len(entries) == 0 {
		return true
	}
	list, err := m.token.List(ctx)
	if err != nil {
		return ctx.Err() != nil
	}
	has := make(map[token.ID]bool, len(list))
	for i := range list {
		has[list[i].ID] = true
	}
	brought := 0
	for _, e := range entries {
		if has[e.id] || b.copying.ended(e.id) || m.lacks[ability{e.spec.Algorithm, ""}] {
			continue
		}
		try, cancel := context.WithTimeout(ctx, bringTimeout)
		err := b.place(try, m, e)
		cancel()
		if ctx.Err() != nil {
			return true
		}
		if err != nil && !fault.Has(err, fault.Conflict) && !fault.Has(err, fault.KeyMaterial) {
			b.log.Warn("bringing a member its copies", "member", m.name, "error", err)
			return false
		}
		if err == nil {
			brought++
			b.metrics.copies[m.index].Inc()
		}
	}
	if brought > 0 {
		b.log.Info("a member was brought the copies that it lacked", "member", m.name, "keys", brought)
	}
	return true
}

// kin reports an error unless a key that one member wraps is one that the other unwraps. Where keys are not wrapped there is nothing to compare.
func (b *Backend) kin(ctx context.Context, one, other *member) error {
	if !b.wraps() {
		return nil
	}
	for _, a := range []backend.Algorithm{backend.HMACSHA256, backend.AES256GCM, backend.ECDSAP256} {
		if !slices.Contains(one.description.Wrappable, a) || !slices.Contains(other.description.Wrappable, a) {
			continue
		}
		call := token.Call{Algorithm: a, Input: make([]byte, 32)}
		purpose := backend.PurposeMAC
		switch a {
		case backend.AES256GCM:
			call.Op, purpose = token.Encrypt, backend.PurposeEncryption
		case backend.ECDSAP256:
			call.Op, purpose = token.Sign, backend.PurposeSigning
		default:
			call.Op = token.MAC
		}
		rand.Read(call.ID[:]) // never fails (crypto/rand)
		o, err := one.token.Generate(ctx, call.ID, a, purpose, true)
		if err != nil {
			return err
		}
		call.Wrapped = o.Wrapped
		_, err = other.token.Use(ctx, call)
		if fault.Has(err, fault.KeyMaterial) {
			return fault.Wrap(fault.BadField, "the members of the group have not the same wrapping key", err)
		}
		return err
	}
	return nil
}
