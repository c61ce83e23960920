package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"errors"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

var (
	errTag    = errors.New("the record's tag is wrong: it was changed, or made under another root")
	errParent = errors.New("the key belongs to another TPM, or to this one before it was cleared")
)

// Load gives a handle for a key version. It costs no TPM command: the tag in the blob says that this root made the Ref on this TPM. The TPM
// looks at its part of the blob when the key is used, each time.
func (b *Backend) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	p, ok := parseBlob(r.Blob)
	if !ok {
		return nil, errUnreadable
	}
	if p.place == placeSealed {
		return b.loadSealed(ctx, r, p)
	}
	e, err := b.check(&r, p)
	if err != nil {
		return nil, err
	}
	return b.handle(e), nil
}

func (b *Backend) loadSealed(ctx context.Context, r backend.Ref, p blob) (backend.Key, error) {
	if r.Spec.Custody != backend.CustodySealed {
		return nil, errUnreadable
	}
	r.Blob = p.sealed
	key, err := b.engine.Load(ctx, r)
	if fault.Has(err, fault.KeyMaterial) {
		return nil, unreadable(err)
	}
	return key, err
}

// entry is a Ref that was checked. It holds nothing secret and is never changed.
type entry struct {
	spec    backend.Spec
	info    backend.AlgorithmInfo
	pub     crypto.PublicKey
	objects []object
}

// check holds a Ref in device custody against its tag. What the tag is right for is as ref made it, the TPM's public area and the SPKI with it.
func (b *Backend) check(r *backend.Ref, p blob) (*entry, error) {
	info, ok := backend.Lookup(r.Spec.Algorithm)
	if !ok || !info.Allows(r.Spec.Purpose) || r.Spec.Custody != backend.CustodyDevice || r.Spec.Exportable || info.Symmetric() != (len(r.Public) == 0) {
		return nil, errUnreadable // no Ref of ours is like that
	}
	err := b.withSecrets(func(k *secrets) error {
		if !hmac.Equal(k.tagOf(&r.Spec, info.ID, r.Public, p.body), p.tag) {
			return unreadable(errTag)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if want := len(templates(info, r.Spec.Purpose, nil, false)); want == 0 || want != p.count {
		return nil, errUnreadable
	}
	if !bytes.Equal(p.parent, b.parent) {
		return nil, unreadable(errParent)
	}
	e := &entry{spec: r.Spec, info: info, objects: make([]object, p.count)}
	for i, o := range p.objects[:p.count] {
		e.objects[i] = object{public: bytes.Clone(o.public), private: bytes.Clone(o.private)}
	}
	if info.Symmetric() {
		return e, nil
	}
	pub, err := keyenc.ParseSPKI(r.Public)
	if err != nil {
		return nil, unreadable(err)
	}
	if k, ok := pub.(*ecdsa.PublicKey); ok && info.Family == backend.FamilyECDH {
		if pub, err = k.ECDH(); err != nil {
			return nil, unreadable(err)
		}
	}
	e.pub = pub
	return e, nil
}
