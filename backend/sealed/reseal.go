package sealed

import (
	"context"
	"crypto/subtle"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Generational is a sealer whose key can be replaced: what it sealed under the one before still opens, and says so.
type Generational interface {
	backend.Sealer
	// Stale reports whether sealed bytes are under another key than new ones. What it cannot read is not stale.
	Stale(sealed []byte) bool
}

// Stale implements backend.Resealer, where the sealer is Generational.
func (e *Engine) Stale(r backend.Ref) bool {
	s, ok := e.sealer.(Generational)
	return ok && len(r.Blob) > 1 && r.Blob[0] == blobVersion && s.Stale(r.Blob[1:])
}

// Reseal implements backend.Resealer. It asks the sealer three times: to open, to seal, and to open what was sealed. The material is not
// looked into: that it is this key's, the binding says.
func (e *Engine) Reseal(ctx context.Context, r backend.Ref) (backend.Ref, error) {
	if err := e.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer e.gate.Leave()
	s, info, err := e.resolve(r.Spec)
	if err != nil || s != r.Spec || len(r.Blob) < 2 || r.Blob[0] != blobVersion || info.Symmetric() != (len(r.Public) == 0) {
		return backend.Ref{}, errUnreadable // no Ref of this engine is like that
	}
	bound := binding(&s, info.ID, s.Custody, r.Public)
	raw, err := e.sealer.Open(ctx, r.Blob[1:], bound)
	if err != nil {
		return backend.Ref{}, unreadable(err)
	}
	defer raw.Wipe()
	blob, err := e.sealer.Seal(ctx, raw, bound)
	if err != nil {
		return backend.Ref{}, err
	}
	again, err := e.sealer.Open(ctx, blob, bound)
	if err != nil {
		return backend.Ref{}, fault.Wrap(fault.BackendUnavailable, "what was sealed anew does not open", err)
	}
	defer again.Wipe()
	if subtle.ConstantTimeCompare(raw, again) != 1 {
		return backend.Ref{}, fault.New(fault.BackendUnavailable, "what was sealed anew opens as something else")
	}
	r.Blob = append([]byte{blobVersion}, blob...)
	return r, nil
}

// unreadable gives one answer for all that does not open; the cause is for the log.
func unreadable(err error) error {
	if fault.Has(err, fault.KeyMaterial) {
		return fault.Wrap(fault.KeyMaterial, errUnreadable.Message, err)
	}
	return err
}
