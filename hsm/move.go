package hsm

import (
	"context"
	"errors"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

var (
	_ backend.Revealer  = (*Backend)(nil)
	_ backend.Recoverer = (*Backend)(nil)

	errInside = fault.New(fault.NotExportable, "the material of the key cannot leave its device")
)

// Reveal gives the material of a key in sealed custody; see backend.Revealer.
func (b *Backend) Reveal(ctx context.Context, r backend.Ref) (secret.Bytes, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	p, ok := parseBlob(r.Blob)
	if !ok {
		return nil, errUnreadable
	}
	if p.place != placeSealed {
		return nil, errInside
	}
	if b.engine == nil || r.Spec.Custody != backend.CustodySealed {
		return nil, errUnreadable
	}
	r.Blob = p.sealed
	out, err := b.engine.Reveal(ctx, r)
	if fault.Has(err, fault.KeyMaterial) {
		return nil, unreadable(err)
	}
	return out, err
}

// Recover gives the Ref of an object that is on the tokens without a record; see backend.Recoverer.
func (b *Backend) Recover(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	s, info, _, err := b.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if s.Custody != backend.CustodyDevice || b.wraps() { // what is wrapped is nothing without its record
		return backend.Ref{}, errUnsupported
	}
	id := idOf(&s)
	var missing error
	for _, m := range able(b.order(), ability{s.Algorithm, ""}) {
		o, err := once(ctx, b, m, opFind, func(ctx context.Context, m *member) (token.Object, error) { return m.token.Find(ctx, id) })
		switch {
		case err == nil && o.Sensitive && !o.Extractable:
			return b.ref(ctx, m, s, info, o)
		case err == nil:
			return backend.Ref{}, unreadable(errLoose)
		case !fault.Has(err, fault.KeyMaterial):
			return backend.Ref{}, err
		}
		missing = errors.Join(missing, err)
	}
	if missing == nil {
		return backend.Ref{}, errNobody
	}
	return backend.Ref{}, unreadable(missing)
}
