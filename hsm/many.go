package hsm

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

var (
	_ backend.BatchAEAD   = (*aeadKey)(nil)
	_ backend.BatchSigner = (*signerKey)(nil)
	_ backend.BatchMACer  = (*macKey)(nil)
)

// useMany is use for many inputs, which one member gets together: around each operation there is a session's queue, and a socket where the
// module has processes of its own, and for a fast token that is more than the operation.
func (h *handle) useMany(ctx context.Context, kind operation, c token.Call, items []backend.Item) ([]backend.Result, error) {
	if len(items) == 0 {
		return nil, nil
	}
	c.ID, c.Algorithm, c.Wrapped = h.e.id, h.e.spec.Algorithm, h.e.wrapped
	if len(c.Wrapped) == 0 || h.e.copied {
		c.Wrapped = nil
	}
	members, err := h.b.homed(h.e.name)
	if err != nil {
		return nil, err
	}
	members = able(members, ability{c.Algorithm, abilities[kind]})
	out, err := eachOf(ctx, h.b, members, kind, len(items), func(ctx context.Context, m *member) ([]backend.Result, error) {
		if !h.e.copied {
			return m.token.UseMany(ctx, c, items)
		}
		return withCopy(ctx, h.b, m, h.e, func() ([]backend.Result, error) { return m.token.UseMany(ctx, c, items) })
	})
	if fault.Has(err, fault.KeyMaterial) {
		h.b.refs.drop(&h.e.spec) // as in use
		return nil, unreadable(err)
	}
	if err == nil && len(out) != len(items) {
		err = fault.New(fault.BackendUnavailable, "the token gave another number of results than it was asked for")
	}
	if err != nil {
		return nil, err
	}
	for i := range out {
		if fault.Has(out[i].Err, fault.DecryptionFailed) {
			out[i].Err = errDecrypt // as in use
		}
	}
	return out, nil
}

// manyOf does those items that are acceptable, and gives the others their errors.
func (h *handle) manyOf(ctx context.Context, kind operation, c token.Call, items []backend.Item, check func(*backend.Item) error) ([]backend.Result, error) {
	if err := h.begin(ctx); err != nil {
		return nil, err
	}
	defer h.b.gate.Leave()
	var refused map[int]error
	good := items
	for i := range items {
		err := check(&items[i])
		if err != nil && refused == nil {
			refused = map[int]error{}
			good = append(make([]backend.Item, 0, len(items)), items[:i]...)
		}
		switch {
		case err != nil:
			refused[i] = err
		case refused != nil:
			good = append(good, items[i])
		}
	}
	done, err := h.useMany(ctx, kind, c, good)
	if err != nil || refused == nil {
		return done, err
	}
	out := make([]backend.Result, 0, len(items))
	for i := range items {
		if err := refused[i]; err != nil {
			out = append(out, backend.Result{Err: err})
			continue
		}
		out, done = append(out, done[0]), done[1:]
	}
	return out, nil
}

func acceptAny(*backend.Item) error { return nil }

func (k *aeadKey) SealMany(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
	out, err := k.manyOf(ctx, opEncrypt, token.Call{Op: token.Encrypt}, items, acceptAny)
	for i := range out {
		if out[i].Err == nil && len(out[i].Output) != k.e.info.NonceSize+len(items[i].Input)+k.e.info.TagSize {
			return nil, fault.New(fault.BackendUnavailable, "the token gave a ciphertext of the wrong size")
		}
	}
	return out, err
}

func (k *aeadKey) OpenMany(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
	return k.manyOf(ctx, opDecrypt, token.Call{Op: token.Decrypt}, items, func(i *backend.Item) error {
		if len(i.Input) < k.e.info.NonceSize+k.e.info.TagSize {
			return errDecrypt
		}
		return nil
	})
}

func (k *signerKey) SignMany(ctx context.Context, items []backend.Item, opts backend.SignOpts) ([]backend.Result, error) {
	return k.manyOf(ctx, opSign, signCall(opts), items, func(i *backend.Item) error {
		return k.acceptable(i.Input, opts)
	})
}

func (k *macKey) MACMany(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
	return k.manyOf(ctx, opMAC, token.Call{Op: token.MAC}, items, acceptAny)
}
