package remote

import (
	"context"
	"crypto"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

const (
	// leastPart is how many items a child gets at least, where there are several children: fewer are not worth another frame.
	leastPart = 8
	// maxPart bounds the bytes of the items of one frame; a larger item has a frame of its own.
	maxPart = 1 << 20
	// aroundItem is what an item has in a frame besides its bytes.
	aroundItem = 2 * 4
)

// UseMany spreads the items evenly over the children that live, each part in one frame.
func (s *Supervisor) UseMany(ctx context.Context, c token.Call, items []backend.Item) ([]backend.Result, error) {
	if len(items) == 0 {
		return nil, nil
	}
	c.Input, c.AAD = nil, nil
	n := max(min(s.alive(), len(items)/leastPart), 1)
	out := make([]backend.Result, len(items))
	errs := make([]error, n)
	part := func(i int) {
		from, to := i*len(items)/n, (i+1)*len(items)/n
		errs[i] = s.part(ctx, &c, items[from:to], out[from:to])
	}
	var others sync.WaitGroup
	for i := 1; i < n; i++ {
		others.Go(func() { part(i) })
	}
	part(0)
	others.Wait()
	for _, err := range errs {
		if err != nil {
			for i := range out {
				clear(out[i].Output)
			}
			return nil, err
		}
	}
	return out, nil
}

// part has one child after the other do frames of items.
func (s *Supervisor) part(ctx context.Context, c *token.Call, items []backend.Item, out []backend.Result) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) {
			more := len(items[n].Input) + len(items[n].AAD) + aroundItem
			if n > 0 && size+more > maxPart {
				break
			}
			n, size = n+1, size+more
		}
		room := roomFor(size + len(c.Wrapped) + len(c.Label))
		a, err := s.do(ctx, opUseMany, token.Limit(s.options.CallTimeout, token.TimeMany, "", n), room, appendItems(appendCall(beginRequest(*room, opUseMany), c), items[:n]))
		if err != nil {
			return err
		}
		if err := decodeResults(a.body, out[:n]); err != nil {
			return broken(err)
		}
		items, out = items[n:], out[n:]
	}
	return nil
}

// alive counts the children that there are to work with.
func (s *Supervisor) alive() (n int) {
	for _, c := range s.children {
		if c.link.Load() != nil {
			n++
		}
	}
	return n
}

func appendItems(b []byte, items []backend.Item) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(items)))
	for i := range items {
		b = appendBytes(appendBytes(b, items[i].Input), items[i].AAD)
	}
	return b
}

func (d *decoder) items() []backend.Item {
	n := d.count(aroundItem)
	if n == 0 {
		return nil
	}
	items := make([]backend.Item, n)
	for i := range items {
		items[i] = backend.Item{Input: d.bytes(), AAD: d.bytes()}
	}
	return items
}

// appendResults writes the results, whose bytes are wiped: for each a truth value, whether it has failed, and the output or the fault.
func appendResults(b []byte, results []backend.Result) []byte {
	size := 0
	for i := range results {
		size += 1 + 4 + len(results[i].Output)
	}
	b = slices.Grow(b, size)
	for i := range results {
		r := &results[i]
		b = appendBool(b, r.Err != nil)
		if r.Err != nil {
			b = appendBytes(b, appendFault(nil, r.Err, false))
			continue
		}
		b = appendBytes(b, r.Output)
		clear(r.Output)
	}
	return b
}

// decodeResults gives results that belong to the frame, whose number must be right. Faults that are not about one item are not among them.
func decodeResults(body []byte, out []backend.Result) error {
	d := decoder{b: body}
	for i := range out {
		failed, p := d.boolean(), d.bytes()
		if !failed {
			out[i] = backend.Result{Output: p}
			continue
		}
		f, stuck, err := decodeFault(p)
		if d.bad || err != nil || stuck || f.Code == fault.BackendUnavailable || f.Code == fault.Timeout {
			return errMalformed
		}
		out[i] = backend.Result{Err: f}
	}
	return d.end()
}

// Attributes asks the child that looks after the objects.
func (s *Supervisor) Attributes(ctx context.Context, id token.ID, a backend.Algorithm, wrapped []byte) (token.Object, error) {
	room := roomFor(len(wrapped))
	return s.object(s.do(ctx, opAttributes, s.options.CallTimeout, room, appendBytes(appendBytes(append(beginRequest(*room, opAttributes), id[:]...), a), wrapped)))
}

// ImportWrapped asks the child that looks after the objects.
func (s *Supervisor) ImportWrapped(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, e token.Envelope, wrapped bool) (token.Object, error) {
	room := roomFor(len(e.Blob) + len(e.Wrapped))
	return s.object(s.do(ctx, opImportWrapped, s.limit(token.TimeMake, a), room, appendEnvelope(appendMake(beginRequest(*room, opImportWrapped), id, a, p, wrapped), &e)))
}

func appendEnvelope(b []byte, e *token.Envelope) []byte {
	b = appendBytes(append(b, e.ID[:]...), e.Algorithm)
	b = binary.BigEndian.AppendUint32(appendBytes(b, e.Wrapped), uint32(e.Hash))
	return appendBytes(b, e.Blob)
}

func (d *decoder) envelope(e *token.Envelope) {
	d.id(&e.ID)
	e.Algorithm, e.Wrapped = backend.Algorithm(d.str()), d.bytes()
	e.Hash, e.Blob = crypto.Hash(d.u32()), d.bytes()
}
