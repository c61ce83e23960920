package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keyenc"
)

// Load gives a handle for a key version. A Ref that was checked in this generation of the token costs a look-up under a sharded
// lock; another one a tag by the token, and for a resident key the reading of the object.
func (b *Backend) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	epoch := b.epoch.Load()
	e, drops := b.refs.get(&r, epoch)
	if e != nil {
		return b.handle(e), nil
	}
	p, ok := parseBlob(r.Blob)
	if !ok {
		return nil, errUnreadable
	}
	if p.place == placeSealed {
		return b.loadSealed(ctx, r, p)
	}
	e, err := b.check(ctx, &r, p)
	if err != nil {
		return nil, err
	}
	e.epoch = epoch
	b.refs.put(e, drops)
	return b.handle(e), nil
}

func (b *Backend) loadSealed(ctx context.Context, r backend.Ref, p blob) (backend.Key, error) {
	if b.engine == nil || r.Spec.Custody != backend.CustodySealed {
		return nil, errUnreadable
	}
	r.Blob = p.sealed
	key, err := b.engine.Load(ctx, r)
	if fault.Has(err, fault.KeyMaterial) {
		return nil, unreadable(err)
	}
	return key, err
}

// check holds a Ref in device custody against its tag, and against the object on the token.
func (b *Backend) check(ctx context.Context, r *backend.Ref, p blob) (*entry, error) {
	info, ok := backend.Lookup(r.Spec.Algorithm)
	if !ok || !info.Allows(r.Spec.Purpose) || r.Spec.Custody != backend.CustodyDevice || r.Spec.Exportable ||
		p.id != idOf(&r.Spec) || info.Symmetric() != (len(r.Public) == 0) || isService(p.id) {
		return nil, errUnreadable // no Ref of ours is like that
	}
	if err := b.authentic(ctx, r, info, p); err != nil {
		return nil, err
	}
	if p.place == placeCopied && (!b.copies || b.copying.ended(p.id)) {
		return nil, errUnreadable
	}
	e := &entry{copied: p.place == placeCopied, spec: r.Spec, info: info, public: bytes.Clone(r.Public), blob: bytes.Clone(r.Blob), id: p.id, name: p.name, wrapped: bytes.Clone(p.wrapped)}
	if !info.Symmetric() {
		pub, err := publicOf(info, r.Public)
		if err != nil {
			return nil, unreadable(err)
		}
		e.pub = pub
	}
	if p.place != placeResident {
		return e, nil // the token checks the rest when it unwraps, or took the copy; the public key was bound when the key was made
	}
	members, err := b.homed(p.name)
	if err != nil {
		return nil, err
	}
	o, err := each(ctx, b, members, opFind, func(ctx context.Context, m *member) (token.Object, error) { return m.token.Find(ctx, p.id) })
	if fault.Has(err, fault.KeyMaterial) {
		return nil, unreadable(err)
	}
	if err != nil {
		return nil, err
	}
	if err := fits(o, p.id, info, r.Public); err != nil {
		return nil, unreadable(err)
	}
	return e, nil
}

var (
	errOther = errors.New("the token has another key under the identity of the record")
	errLoose = errors.New("the key on the token is not sensitive, or can be extracted")
	errTag   = errors.New("the record's tag is wrong")
)

// fits compares what the token has with what the record says.
func fits(o token.Object, id token.ID, info backend.AlgorithmInfo, public []byte) error {
	if o.ID != id || o.Algorithm != info.Name || !bytes.Equal(o.Public, public) {
		return errOther
	}
	if !o.Sensitive || o.Extractable {
		return errLoose
	}
	return nil
}

// authentic checks the tag of a Ref.
func (b *Backend) authentic(ctx context.Context, r *backend.Ref, info backend.AlgorithmInfo, p blob) error {
	if (p.auth == byToken) != b.keyed {
		return errUnreadable
	}
	members, err := b.homed(p.name)
	if err != nil {
		return err
	}
	want, err := b.tag(ctx, members, statement(&r.Spec, info.ID, r.Public, p.body))
	if err != nil {
		return err
	}
	if !hmac.Equal(want, p.tag) {
		return unreadable(errTag)
	}
	return nil
}

// tag authenticates a statement by the binding key of the members. A missing binding key is the token's failure, not the record's.
func (b *Backend) tag(ctx context.Context, members []*member, statement []byte) ([]byte, error) {
	if !b.keyed {
		sum := sha256.Sum256(statement)
		return sum[:], nil
	}
	call := token.Call{Op: token.MAC, ID: bindingKey().ID, Algorithm: backend.HMACSHA256, Input: statement}
	out, err := each(ctx, b, members, opTag, func(ctx context.Context, m *member) ([]byte, error) { return m.token.Use(ctx, call) })
	if fault.Has(err, fault.KeyMaterial) {
		return nil, fault.Wrap(fault.BackendUnavailable, "the token has lost the service's binding key", err)
	}
	if err == nil && len(out) != tagSize {
		err = fault.New(fault.BackendUnavailable, "the token gave a tag of the wrong size")
	}
	return out, err
}

// publicOf parses SPKI that must be a key of the algorithm, in the type that backend.Key promises.
func publicOf(info backend.AlgorithmInfo, der []byte) (crypto.PublicKey, error) {
	pub, err := keyenc.ParseSPKI(der)
	if err != nil {
		return nil, err
	}
	if p, ok := pub.(*ecdsa.PublicKey); ok && info.Family == backend.FamilyECDH {
		return p.ECDH()
	}
	return pub, nil
}
