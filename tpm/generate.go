package tpm

import (
	"bytes"
	"context"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// resolve checks a Spec against what the backend can do and fills in the custody.
func (b *Backend) resolve(s backend.Spec) (backend.Spec, backend.AlgorithmInfo, error) {
	info, ok := backend.Lookup(s.Algorithm)
	c, can := b.can[s.Algorithm]
	if !ok || !can || !info.Allows(s.Purpose) {
		return s, info, errUnsupported
	}
	if !slices.ContainsFunc(backend.OperationsOf(info, s.Purpose), func(op backend.Operation) bool { return slices.Contains(c.Operations, op) }) {
		return s, info, errUnsupported
	}
	if s.Custody == "" {
		s.Custody = c.Custody
	}
	switch {
	case s.Custody == backend.CustodySealed:
	case s.Custody != backend.CustodyDevice || c.Custody != backend.CustodyDevice:
		return s, info, errCustody
	case s.Exportable:
		return s, info, errExport
	}
	if s.KeyID == uuid.Nil || s.Version == 0 {
		return s, info, fault.New(fault.BadField, "a key version needs a key id and a number from 1")
	}
	return s, info, nil
}

// Generate has the TPM make a key, or makes one in sealed custody where the Spec asks for that or the TPM lacks the algorithm and the options
// allow it. Nothing stays on the TPM: a call that fails leaves nothing behind. It is never repeated here.
func (b *Backend) Generate(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	if err := b.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer b.gate.Leave()
	s, info, err := b.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if s.Custody == backend.CustodySealed {
		return sealedRef(b.engine.Generate(ctx, s))
	}
	auth, err := b.auth(&s, info.ID)
	if err != nil {
		return backend.Ref{}, err
	}
	defer auth.Wipe()
	areas := templates(info, s.Purpose, policyOf(&s, info.ID), false)
	var objects []object
	err = b.dev.Do(ctx, "create", func(tx *device.Tx) error {
		objects = objects[:0]
		for _, public := range areas {
			o, err := create(tx, public, auth, nil)
			if err != nil {
				return err
			}
			objects = append(objects, o)
		}
		return nil
	})
	if err != nil {
		return backend.Ref{}, refused(err)
	}
	return b.ref(s, info, areas, objects)
}

// create makes an object under the parent: a key, or with data one that holds these bytes. Auth value and data go to the TPM encrypted.
func create(tx *device.Tx, public tpm2.TPMTPublic, auth, data secret.Bytes) (object, error) {
	sensitive := &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth}}
	if data != nil {
		sensitive.Data = tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: data})
	}
	rsp, err := tpm2.Create{
		ParentHandle: tx.Auth(tx.Parent(), nil, device.In),
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: sensitive},
		InPublic:     tpm2.New2B(public),
	}.Execute(tx)
	if err != nil {
		return object{}, err
	}
	return object{public: bytes.Clone(rsp.OutPublic.Bytes()), private: bytes.Clone(rsp.OutPrivate.Buffer)}, nil
}

// ref makes the Ref of new objects. The TPM is held to what it was asked for.
func (b *Backend) ref(s backend.Spec, info backend.AlgorithmInfo, areas []tpm2.TPMTPublic, objects []object) (backend.Ref, error) {
	var spki []byte
	for i, o := range objects {
		public, err := tpm2.Unmarshal[tpm2.TPMTPublic](o.public)
		if err != nil || len(o.public) > maxPart || len(o.private) > maxPart || !fits(public, &areas[i]) {
			return backend.Ref{}, errOtherKey
		}
		if _, spki, err = publicOf(info, public); err != nil {
			return backend.Ref{}, errOtherKey
		}
	}
	body := appendBody(b.parent, objects...)
	err := b.withSecrets(func(k *secrets) error {
		body = append(body, k.tagOf(&s, info.ID, spki, body)...)
		return nil
	})
	if err != nil {
		return backend.Ref{}, err
	}
	return backend.Ref{Spec: s, Public: spki, Blob: body}, nil
}

// fits reports whether a public area is of a template: all but its unique part is the same.
func fits(public, template *tpm2.TPMTPublic) bool {
	p, t := *public, *template
	p.Unique, t.Unique = emptyUnique(p.Type), emptyUnique(t.Type)
	return bytes.Equal(tpm2.Marshal(p), tpm2.Marshal(t))
}

func emptyUnique(t tpm2.TPMAlgID) tpm2.TPMUPublicID {
	switch t {
	case tpm2.TPMAlgRSA:
		return tpm2.NewTPMUPublicID(t, &tpm2.TPM2BPublicKeyRSA{})
	case tpm2.TPMAlgECC:
		return tpm2.NewTPMUPublicID(t, &tpm2.TPMSECCPoint{})
	case tpm2.TPMAlgSymCipher:
		return tpm2.NewTPMUPublicID(tpm2.TPMAlgSymCipher, &tpm2.TPM2BDigest{})
	}
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{})
}

// sealedRef makes a Ref of ours of an engine's.
func sealedRef(r backend.Ref, err error) (backend.Ref, error) {
	if err != nil {
		return backend.Ref{}, err
	}
	r.Blob = append([]byte{blobVersion, byte(placeSealed)}, r.Blob...)
	return r, nil
}

// Destroy drops what is cached here, and the object that may still be loaded in the TPM: the Ref's bytes are all there is of a key, and the caller's to erase. It needs no root. A Ref
// that does not parse is fault.KeyMaterial; one that is not authentic has nothing loaded.
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
		r.Blob = p.sealed
		return b.engine.Destroy(ctx, r)
	}
	err := b.dev.Do(ctx, "flush", func(tx *device.Tx) error {
		for _, o := range p.objects[:p.count] {
			if err := tx.Forget(tpm2.TPM2BPrivate{Buffer: o.private}); err != nil {
				return err
			}
		}
		return nil
	})
	if fault.Has(err, fault.BackendUnavailable) {
		return nil // a TPM that is away, or was reset, has nothing loaded when it comes back
	}
	return refused(err)
}
