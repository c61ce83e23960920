package keys

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
)

// many is how a kind of operation gives a device several items at once.
type many[I, O any] struct {
	// fits reports whether the key and the choices of the request allow it.
	fits func(b *batch) bool
	// ask checks an item and gives what the device gets of it, and the version that it is for.
	ask func(ctx context.Context, b *batch, in *I) (*use, backend.Item, error)
	// with gives how a handle does many items; nil: it takes one at a time.
	with func(key backend.Key) func(context.Context, []backend.Item) ([]backend.Result, error)
	// give makes the result of what the device gave for an item.
	give func(b *batch, u *use, in *I, out *O, output []byte) error
}

// asked is an item on its way to a device.
type asked struct {
	item backend.Item
	of   int // index of its version in batch.uses; -1: it has failed
	used Used
	err  error
}

// executeMany carries out the items version by version, and says of each how it was done. together is false when a handle takes one at a
// time: nothing is done then. The error is that the time was over.
func executeMany[I, O any, P result[O]](ctx context.Context, b *batch, q *request, items []I, out []O, k kind[I, O]) (done []asked, together bool, err error) {
	done = make([]asked, len(items))
	var looked []bool // at the handles of which versions
	for i := range items {
		a := &done[i]
		a.of = -1
		if a.err = q.permitItem(b.record.facts, k.context(&items[i])); a.err != nil {
			continue
		}
		var u *use
		if u, a.item, a.err = k.many.ask(ctx, b, &items[i]); a.err != nil {
			continue
		}
		for at := range b.uses {
			if &b.uses[at] == u {
				a.of = at
			}
		}
		for len(looked) < len(b.uses) {
			looked = append(looked, false)
		}
		if looked[a.of] {
			continue
		}
		looked[a.of] = true
		if key, err := u.load(ctx, b); err == nil && k.many.with(key) == nil {
			return nil, false, nil
		}
	}
	for at := range b.uses {
		if err := runVersion[I, O, P](ctx, b, at, done, items, out, k); err != nil {
			return nil, true, err
		}
	}
	return done, true, nil
}

// runVersion does the items of one version.
func runVersion[I, O any, P result[O]](ctx context.Context, b *batch, at int, done []asked, items []I, out []O, k kind[I, O]) error {
	if ctx.Err() != nil {
		return expired(ctx)
	}
	list := make([]backend.Item, 0, len(done))
	for i := range done {
		if done[i].of == at {
			list = append(list, done[i].item)
		}
	}
	if len(list) == 0 {
		return nil
	}
	u := &b.uses[at]
	var results []backend.Result
	key, err := u.load(ctx, b)
	if err == nil {
		results, err = k.many.with(key)(ctx, list)
	}
	if err != nil && ctx.Err() != nil {
		return expired(ctx)
	}
	for i := range done {
		if done[i].of != at {
			continue
		}
		if err != nil {
			done[i].err = err
			continue
		}
		r := results[0]
		results = results[1:]
		if done[i].err = r.Err; r.Err == nil {
			done[i].used = u.used(b)
			done[i].err = k.many.give(b, u, &items[i], &out[i], r.Output)
		}
	}
	return nil
}

// keep gives a copy of bytes that lasts as long as the request.
func (b *batch) keep(p []byte) []byte {
	at := len(b.scratch)
	b.scratch = append(b.scratch, p...)
	return b.scratch[at:len(b.scratch):len(b.scratch)]
}

// isAEAD is fits of operations that only AES-GCM and its kin do.
func isAEAD(b *batch) bool { return b.record.info.Family == backend.FamilyAEAD }

// anyKey is fits of operations whose keys all do them.
func anyKey(*batch) bool { return true }

// header gives the header of an envelope of the version.
func (b *batch) header(u *use) envelope.Header {
	return envelope.Header{KeyID: b.record.key.ID, KeyVersion: u.version.Version.Version, Algorithm: b.record.info.ID}
}
