package hsm

import (
	"context"
	"crypto"
	"slices"
	"strings"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// importInside has the token open an envelope. fault.Unsupported: it cannot, or not with these keys, and nothing was done.
func (b *Backend) importInside(ctx context.Context, s backend.Spec, by *decrypterKey, hash crypto.Hash, wrapped []byte) (backend.Ref, error) {
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	s, info, c, err := b.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if s.Custody != backend.CustodyDevice || !c.Import || b.pinned || !b.opensInside(s.Algorithm, hash) {
		return backend.Ref{}, errUnsupported // pinned: the two keys may belong to two tokens
	}
	e := token.Envelope{ID: by.e.id, Algorithm: by.e.spec.Algorithm, Wrapped: by.e.wrapped, Hash: hash, Blob: wrapped}
	id := idOf(&s)
	ref, err := b.make(ctx, s, info, func(ctx context.Context, m *member) (token.Object, error) {
		return m.token.ImportWrapped(ctx, id, s.Algorithm, s.Purpose, e, b.wraps())
	})
	if fault.Has(err, fault.BadImport) {
		return backend.Ref{}, errImport // the same as for a blob that does not open here
	}
	if err != nil {
		return backend.Ref{}, err
	}
	ref.Inside = true
	return ref, nil
}

// opensInside reports whether all members that are there open envelopes with keys of an algorithm.
func (b *Backend) opensInside(a backend.Algorithm, hash crypto.Hash) bool {
	all := b.present()
	for _, m := range all {
		d := &m.description
		if !slices.Contains(d.Inside, a) || !slices.Contains(d.InsideHashes, hash.String()) {
			return false
		}
	}
	return len(all) > 0
}

// importing says in words how keys come in.
func (b *Backend) importing() string {
	const clear = "Imported keys come in clear as far as this process, which gives them to the token encrypted under a fresh key where the token can unwrap"
	var inside []string
	for _, m := range b.present() {
		for _, a := range m.description.Inside {
			if b.opensInside(a, crypto.SHA256) && !slices.Contains(inside, string(a)) {
				inside = append(inside, string(a))
			}
		}
	}
	if len(inside) == 0 || b.pinned {
		return clear + "."
	}
	return clear + ", but for keys wrapped with RSA-OAEP by SHA-256 of these algorithms, which the token unwraps: " + strings.Join(inside, ", ") + "."
}
