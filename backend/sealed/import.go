package sealed

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"io"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// Import seals raw symmetric bytes of exactly the algorithm's size, or PKCS#8 DER of a key of the algorithm. What is sealed
// is our own encoding of the key, not the bytes that came in. Other material is fault.BadImport.
func (e *Engine) Import(ctx context.Context, s backend.Spec, raw []byte) (backend.Ref, error) {
	if err := e.enter(ctx); err != nil {
		return backend.Ref{}, err
	}
	defer e.gate.Leave()
	return e.importRaw(ctx, s, raw)
}

func (e *Engine) importRaw(ctx context.Context, s backend.Spec, raw []byte) (backend.Ref, error) {
	s, info, err := e.resolve(s)
	if err != nil {
		return backend.Ref{}, err
	}
	if err := checkNew(&s); err != nil {
		return backend.Ref{}, err
	}
	if info.Symmetric() {
		if len(raw) != info.KeySize {
			return backend.Ref{}, errImport
		}
		return e.seal(ctx, s, info, raw, nil)
	}
	if pqFamily(info.Family) {
		return e.importPQ(ctx, s, info, raw)
	}
	priv, err := parsePrivate(info, raw)
	if err != nil {
		return backend.Ref{}, err
	}
	defer wipePrivate(priv)
	return e.sealPrivate(ctx, s, info, priv)
}

// ImportWrapped opens an RSA_AES_KEY_WRAP blob (PKCS#11 2.40 current mechanisms section 2.1.21) with the RSA encryption key
// of with and imports what is in it. A blob that does not open and material that does not fit are the same fault.BadImport.
func (e *Engine) ImportWrapped(ctx context.Context, s backend.Spec, with backend.Ref, hash crypto.Hash, wrapped []byte) (backend.Ref, error) {
	key, err := e.Load(ctx, with)
	if err != nil {
		return backend.Ref{}, err
	}
	defer func() { _ = key.Close() }() // a handle's Close never fails
	return ImportWrapped(ctx, key, hash, wrapped, e.rand, func(raw []byte) (backend.Ref, error) { return e.Import(ctx, s, raw) })
}

// ImportWrapped is for backends that open wrapped material here: key, a loaded RSA encryption key, opens the AES key of the blob, this process opens
// the material with it, take imports it, and it is wiped. Whatever is wrong with blob or material is the same fault.BadImport; fault.Unsupported
// when key does not decrypt.
func ImportWrapped(ctx context.Context, key backend.Key, hash crypto.Hash, wrapped []byte, random io.Reader, take func(raw []byte) (backend.Ref, error)) (backend.Ref, error) {
	opener, ok := key.(backend.Decrypter)
	if !ok {
		return backend.Ref{}, fault.New(fault.Unsupported, "the wrapping key is not an RSA encryption key")
	}
	if !keyenc.OAEPHash(hash) {
		return backend.Ref{}, errHash
	}
	pub, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return backend.Ref{}, errUnreadable
	}
	raw, err := keyenc.UnwrapRSAAES(random, pub.Size(), wrapped, func(head []byte) ([]byte, error) {
		return opener.Decrypt(ctx, head, backend.OAEPOpts{Hash: hash})
	}, func(err error) bool { return !fault.Has(err, fault.DecryptionFailed) })
	if errors.Is(err, keyenc.ErrUnwrap) {
		return backend.Ref{}, errImport
	}
	if err != nil {
		return backend.Ref{}, err // the deadline, or the backend is gone: nothing about the data
	}
	defer clear(raw)
	ref, err := take(raw)
	if fault.Has(err, fault.BadImport) {
		return backend.Ref{}, errImport
	}
	return ref, err
}
