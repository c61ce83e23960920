package tpm

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

var (
	_ backend.Revealer = (*Backend)(nil)
	_ backend.Revealer = (*Waiting)(nil)

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
	if r.Spec.Custody != backend.CustodySealed {
		return nil, errUnreadable
	}
	r.Blob = p.sealed
	out, err := b.engine.Reveal(ctx, r)
	if fault.Has(err, fault.KeyMaterial) {
		return nil, unreadable(err)
	}
	return out, err
}

// Reveal is Backend.Reveal.
func (w *Waiting) Reveal(ctx context.Context, r backend.Ref) (secret.Bytes, error) {
	b, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	return b.Reveal(ctx, r)
}
