package keys

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/subtle"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/verify"
)

// same proves that two refs, each in its backend, are of one key: what one does the other undoes or does as well, or the public key of the first
// says that it was the second. fault.KeyMaterial when they are not.
func (s *Service) same(ctx context.Context, from backend.Backend, old backend.Ref, b backend.Backend, fresh backend.Ref) error {
	one, err := from.Load(ctx, old)
	if err != nil {
		return err
	}
	defer func() { _ = one.Close() }() // it says nothing that is not known by then
	two, err := b.Load(ctx, fresh)
	if err != nil {
		return err
	}
	defer func() { _ = two.Close() }() // as above
	message := make(secret.Bytes, 32)
	rand.Read(message) //nolint:errcheck // never fails (crypto/rand, since Go 1.24)
	agrees, err := agree(ctx, one, two, message, &old)
	if err != nil {
		return err
	}
	if !agrees {
		return fault.New(fault.KeyMaterial, "the backend has another key under the identity of this version")
	}
	return nil
}

// agree compares two handles by an operation that both have.
func agree(ctx context.Context, one, two backend.Key, message []byte, old *backend.Ref) (bool, error) {
	alg := old.Spec.Algorithm
	switch a := one.(type) {
	case backend.AEAD:
		b, ok := two.(backend.AEAD)
		if !ok {
			return false, nil
		}
		sealed, err := a.Seal(ctx, nil, message, nil)
		if err != nil {
			return false, err
		}
		return opened(message)(b.Open(ctx, nil, sealed, nil))
	case backend.Wrapper:
		b, ok := two.(backend.Wrapper)
		if !ok {
			return false, nil
		}
		wrapped, err := a.Wrap(ctx, message)
		if err != nil {
			return false, err
		}
		return opened(message)(b.Unwrap(ctx, wrapped))
	case backend.MACer:
		b, ok := two.(backend.MACer)
		if !ok {
			return false, nil
		}
		tag, err := a.MAC(ctx, message)
		if err != nil {
			return false, err
		}
		return opened(tag)(b.MAC(ctx, message))
	case backend.Agreer:
		b, ok := two.(backend.Agreer)
		if !ok {
			return false, nil
		}
		shared, err := a.Agree(ctx, old.Public)
		if err != nil {
			return false, err
		}
		defer shared.Wipe()
		return opened(shared)(b.Agree(ctx, old.Public))
	}
	public, err := keyenc.ParseSPKI(old.Public)
	if err != nil {
		return false, fault.Wrap(fault.StoreCorrupted, "the stored public key is malformed", err)
	}
	switch b := two.(type) {
	case backend.Signer:
		info, _ := backend.Lookup(alg) // the backends have found it
		input, opts := signed(&info, message)
		signature, err := b.Sign(ctx, input, opts)
		if err != nil {
			return false, err
		}
		return verify.Signature(public, alg, input, opts, info.Family == backend.FamilyECDSA, signature)
	case backend.Decrypter:
		ciphertext, err := verify.EncryptOAEP(public, crypto.SHA256, nil, message)
		if err != nil {
			return false, err
		}
		return opened(message)(b.Decrypt(ctx, ciphertext, backend.OAEPOpts{Hash: crypto.SHA256}))
	case backend.Decapsulator:
		ciphertext, shared, err := verify.Encapsulate(public, alg)
		if err != nil {
			return false, err
		}
		defer shared.Wipe()
		return opened(shared)(b.Decapsulate(ctx, ciphertext))
	}
	return false, nil
}

// signed is a message as a Signer of the algorithm takes it.
func signed(info *backend.AlgorithmInfo, message []byte) ([]byte, backend.SignOpts) {
	switch info.Family {
	case backend.FamilyRSA:
		return digest(message), backend.SignOpts{Hash: crypto.SHA256, Padding: backend.PaddingPSS}
	case backend.FamilyECDSA:
		return digest(message), backend.SignOpts{Hash: crypto.SHA256}
	}
	return message, backend.SignOpts{}
}

func digest(message []byte) []byte {
	h := crypto.SHA256.New()
	h.Write(message) // never fails (hash.Hash)
	return h.Sum(nil)
}

// opened compares what came out with what is to come out. What does not open is another key's.
func opened(want []byte) func(got secret.Bytes, err error) (bool, error) {
	return func(got secret.Bytes, err error) (bool, error) {
		defer got.Wipe()
		if fault.Has(err, fault.DecryptionFailed) {
			return false, nil
		}
		return err == nil && subtle.ConstantTimeCompare(got, want) == 1, err
	}
}
