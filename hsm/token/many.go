package token

import (
	"bytes"
	"context"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// turn is how long the items of one caller keep a session while other operations wait for one.
const turn = 5 * time.Millisecond

// UseMany does the items on one session as long as nobody else wants it, else in turns, each of which waits in the queue like any other
// operation.
func (d *device) UseMany(ctx context.Context, c Call, items []backend.Item) ([]backend.Result, error) {
	k, err := d.checkMany(c, items)
	if err != nil {
		return nil, err
	}
	room := 0
	for i := range items {
		room += len(items[i].Input) + len(items[i].AAD)
	}
	// As in Use: a call that was given up may still read them.
	copies := make(secret.Bytes, 0, room)
	todo := make([]backend.Item, len(items))
	clone := func(b []byte) []byte {
		at := len(copies)
		copies = append(copies, b...)
		return copies[at:len(copies):len(copies)]
	}
	for i := range items {
		todo[i] = backend.Item{Input: clone(items[i].Input), AAD: clone(items[i].AAD)}
	}
	c.Wrapped, c.Context = bytes.Clone(c.Wrapped), bytes.Clone(c.Context)
	flags := as(TimeMany)
	if c.Op == Decrypt {
		flags |= opens
	}
	out := make([]backend.Result, 0, len(items))
	for len(out) < len(todo) {
		// What a call that was given up writes later goes into a variable of its own.
		t := &stretch{call: c, kind: k, todo: todo[len(out):]}
		err := d.do(ctx, flags, t.run)
		if fault.Has(err, fault.Timeout) || fault.Has(err, fault.BackendUnavailable) {
			return nil, err // the module may still be at it
		}
		if n := len(t.done); n > 1 {
			d.stats.calls.Add(uint64(n - 1)) // the queue counts one
		}
		out = append(out, t.done...)
		if err != nil {
			if !ofItem(err) {
				return nil, err
			}
			out = append(out, backend.Result{Err: err})
		}
	}
	if c.Op == Encrypt {
		copies.Wipe()
	}
	return out, nil
}

func (d *device) checkMany(c Call, items []backend.Item) (kind, error) {
	k, ok := kindOf(c.Algorithm)
	many := c.Op == Sign || c.Op == Encrypt || c.Op == MAC || c.Op == Decrypt && k.Family == backend.FamilyAEAD
	if !ok || !many || !d.does(c.Algorithm, c.Op) {
		return kind{}, fault.New(fault.Unsupported, "the token does not have this operation with this algorithm for many inputs")
	}
	total := 0
	for i := range items {
		total += len(items[i].Input) + len(items[i].AAD)
	}
	if total > maxData {
		return kind{}, fault.New(fault.BadSize, "the data is longer than 16 MiB")
	}
	return k, nil
}

// ofItem reports whether an error is about one input, so that the others are worth trying.
func ofItem(err error) bool {
	return fault.Has(err, fault.DecryptionFailed) || fault.Has(err, fault.BadField) || fault.Has(err, fault.BadSize)
}

// stretch is what is done of many items in one go.
type stretch struct {
	call  Call
	kind  kind
	todo  []backend.Item
	done  []backend.Result
	again bool // it is the second attempt
}

// run does items from where it was when the session failed. Then one success ends it, so that each item has a second attempt.
func (t *stretch) run(s *session) error {
	again := t.again
	t.again = true
	if t.done == nil {
		t.done = make([]backend.Result, 0, len(t.todo))
	}
	start := time.Now()
	return s.with(t.kind, t.call, func(h pkcs11.ObjectHandle) error {
		for len(t.done) < len(t.todo) {
			c := t.call
			c.Input, c.AAD = t.todo[len(t.done)].Input, t.todo[len(t.done)].AAD
			out, err := s.perform(t.kind, c, h)
			if err != nil {
				return err
			}
			t.done = append(t.done, backend.Result{Output: out})
			if again || len(s.d.queue) > 0 && time.Since(start) > turn || s.job.state.Load() == givenUp {
				return nil
			}
		}
		return nil
	})
}
