package sealed

import (
	"bytes"
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// Reveal implements backend.Revealer. It opens the material for this one call, past the cache.
func (e *Engine) Reveal(ctx context.Context, r backend.Ref) (secret.Bytes, error) {
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	s, info, err := e.resolve(r.Spec)
	if err != nil || s != r.Spec || len(r.Blob) < 2 || r.Blob[0] != blobVersion || info.Symmetric() != (len(r.Public) == 0) {
		return nil, errUnreadable // no Ref of this engine is like that
	}
	raw, err := e.sealer.Open(ctx, r.Blob[1:], binding(&s, info.ID, s.Custody, r.Public))
	if fault.Has(err, fault.KeyMaterial) {
		return nil, fault.Wrap(fault.KeyMaterial, errUnreadable.Message, err)
	}
	if err != nil {
		return nil, err
	}
	defer raw.Wipe()
	mat, err := newMaterial(info, s.Purpose, raw, r.Public)
	if err != nil {
		return nil, errUnreadable
	}
	defer mat.wipe()
	if pub := mat.public(); pub != nil {
		der, err := keyenc.MarshalSPKI(pub)
		if err != nil || !bytes.Equal(der, r.Public) {
			return nil, errUnreadable
		}
	}
	out, err := exportForm(mat, raw)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "encoding a private key", err)
	}
	return out, nil
}
