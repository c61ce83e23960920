package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// resolve checks a Spec against what the backend can do and fills in the custody.
func (b *Backend) resolve(s backend.Spec) (backend.Spec, backend.AlgorithmInfo, backend.Capability, error) {
	info, ok := backend.Lookup(s.Algorithm)
	c, can := b.can[s.Algorithm]
	if !ok || !can || !info.Allows(s.Purpose) {
		return s, info, c, errUnsupported
	}
	if !slices.ContainsFunc(backend.OperationsOf(info, s.Purpose), func(op backend.Operation) bool { return slices.Contains(c.Operations, op) }) {
		return s, info, c, errUnsupported
	}
	if s.Custody == "" {
		s.Custody = c.Custody
	}
	switch {
	case s.Custody == backend.CustodySealed && b.engine != nil:
	case s.Custody != backend.CustodyDevice || c.Custody != backend.CustodyDevice:
		return s, info, c, errCustody
	case s.Exportable:
		return s, info, c, errExport
	}
	if s.KeyID == uuid.Nil || s.Version == 0 || isService(idOf(&s)) {
		return s, info, c, fault.New(fault.BadField, "a key version needs a key id and a number from 1")
	}
	return s, info, c, nil
}

// Generate makes a key on a token, or in sealed custody where the Spec asks for that or the tokens lack the algorithm and the options
// allow it. A call that ends by its deadline, or with the token, may leave an object without a record; it is never repeated here.
func (b *Backend) Generate(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	s, info, _, err := b.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if s.Custody == backend.CustodySealed {
		return sealedRef(b.engine.Generate(ctx, s))
	}
	id := idOf(&s)
	return b.make(ctx, s, info, func(ctx context.Context, m *member) (token.Object, error) {
		return m.token.Generate(ctx, id, s.Algorithm, s.Purpose, b.wraps())
	})
}

// Import gives the token a key made elsewhere, encrypted under a fresh key of the session where the token can unwrap.
func (b *Backend) Import(ctx context.Context, s backend.Spec, material []byte) (backend.Ref, error) {
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	s, info, c, err := b.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if s.Custody == backend.CustodySealed {
		return sealedRef(b.engine.Import(ctx, s, material))
	}
	if !c.Import {
		return backend.Ref{}, errUnsupported
	}
	id := idOf(&s)
	return b.make(ctx, s, info, func(ctx context.Context, m *member) (token.Object, error) {
		return m.token.Import(ctx, id, s.Algorithm, s.Purpose, secret.Bytes(material), b.wraps())
	})
}

// ImportWrapped opens an RSA_AES_KEY_WRAP blob (PKCS#11 2.40 current mechanisms section 2.1.21) in the token, where the token can, and the
// Ref says so. Else the token opens the AES key with the RSA key of with, this process opens the material with it and gives it to the token
// as Import does.
func (b *Backend) ImportWrapped(ctx context.Context, s backend.Spec, with backend.Ref, hash crypto.Hash, wrapped []byte) (ref backend.Ref, err error) {
	key, err := b.Load(ctx, with)
	if err != nil {
		return backend.Ref{}, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	if by, ok := key.(*decrypterKey); ok && keyenc.OAEPHash(hash) {
		if ref, err = b.importInside(ctx, s, by, hash, wrapped); !fault.Has(err, fault.Unsupported) {
			return ref, err
		}
	}
	return sealed.ImportWrapped(ctx, key, hash, wrapped, rand.Reader, func(raw []byte) (backend.Ref, error) { return b.Import(ctx, s, raw) })
}

// sealedRef makes a Ref of ours of an engine's.
func sealedRef(r backend.Ref, err error) (backend.Ref, error) {
	if err != nil {
		return backend.Ref{}, err
	}
	r.Blob = append([]byte{blobVersion, byte(placeSealed)}, r.Blob...)
	return r, nil
}

// make has one member make a key, and the Ref of it.
func (b *Backend) make(ctx context.Context, s backend.Spec, info backend.AlgorithmInfo, f func(context.Context, *member) (token.Object, error)) (backend.Ref, error) {
	members := able(b.order(), ability{s.Algorithm, ""})
	if len(members) == 0 {
		return backend.Ref{}, errNobody
	}
	if b.copies {
		if err := b.enough(members); err != nil {
			return backend.Ref{}, err
		}
	}
	m := members[0]
	o, err := once(ctx, b, m, opMake, f)
	if err != nil {
		return backend.Ref{}, err
	}
	r, err := b.ref(ctx, m, s, info, o)
	if b.copies {
		if err == nil {
			err = b.spread(ctx, &r, o)
		}
		if err != nil {
			return backend.Ref{}, err
		}
		return r, nil
	}
	if err != nil && !b.wrapped {
		b.takeBack(ctx, m, o.ID)
	}
	return r, err
}

func (b *Backend) ref(ctx context.Context, m *member, s backend.Spec, info backend.AlgorithmInfo, o token.Object) (backend.Ref, error) {
	if err := fits(o, idOf(&s), info, o.Public); err != nil {
		return backend.Ref{}, fault.Wrap(fault.BackendUnavailable, "the token made another key than it was asked for", err)
	}
	if info.Symmetric() != (len(o.Public) == 0) || b.wraps() != (len(o.Wrapped) > 0) || len(o.Wrapped) > maxWrapped {
		return backend.Ref{}, fault.New(fault.BackendUnavailable, "the token made another key than it was asked for")
	}
	if !info.Symmetric() {
		if _, err := publicOf(info, o.Public); err != nil {
			return backend.Ref{}, fault.Wrap(fault.BackendUnavailable, "the token's public key is not valid", err)
		}
	}
	where, auth := placeResident, byToken
	switch {
	case b.wrapped:
		where = placeWrapped
	case b.copies:
		where = placeCopied
	}
	if !b.keyed {
		auth = byDigest
	}
	body := appendBody(where, auth, m.serial, o.ID, o.Wrapped)
	tag, err := b.tag(ctx, []*member{m}, statement(&s, info.ID, o.Public, body))
	if err != nil {
		return backend.Ref{}, err
	}
	return backend.Ref{Spec: s, Public: o.Public, Blob: append(body, tag...)}, nil
}

// takeBack destroys a new key that gets no record. Should that fail too, the object is left for the reconciler to report.
func (b *Backend) takeBack(ctx context.Context, m *member, id token.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	if err := m.token.Destroy(ctx, id); err != nil {
		b.log.Error("a key without a record stays on the token", "member", m.name, "error", err)
	}
}

// Destroy removes the object from the tokens. Of replicas every one has to confirm it: with one of them not available the answer is
// fault.BackendUnavailable, and destroying is to be repeated. A Ref that is not authentic destroys nothing and is fault.KeyMaterial. In wrapped
// placement and in sealed custody it only drops what is cached.
func (b *Backend) Destroy(ctx context.Context, r backend.Ref) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	defer b.gate.Leave()
	p, ok := parseBlob(r.Blob)
	if !ok {
		return errUnreadable
	}
	if p.place == placeSealed {
		if b.engine == nil {
			return errUnreadable
		}
		r.Blob = p.sealed
		return b.engine.Destroy(ctx, r)
	}
	info, ok := backend.Lookup(r.Spec.Algorithm)
	if !ok || p.id != idOf(&r.Spec) || isService(p.id) {
		return errUnreadable
	}
	if err := b.authentic(ctx, &r, info, p); err != nil {
		return err
	}
	b.refs.drop(&r.Spec)
	if p.place == placeWrapped {
		return nil
	}
	if p.place == placeCopied {
		b.copying.end(p.id)
	}
	defer b.refs.drop(&r.Spec) // what was checked meanwhile
	members := b.members
	if b.pinned {
		var err error
		if members, err = b.homed(p.name); err != nil {
			return err
		}
	}
	for _, m := range members {
		if !m.joined.Load() {
			return errNotThere
		}
	}
	for _, m := range members {
		if _, err := once(ctx, b, m, opDestroy, func(ctx context.Context, m *member) (struct{}, error) {
			return struct{}{}, m.token.Destroy(ctx, p.id)
		}); err != nil {
			return err
		}
	}
	return nil
}
