package hsm

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/secret"
)

// errMu: PKCS#11 3.2 has no mechanism for it.
var errMu = fault.New(fault.Unsupported, "a token does not sign the message representative of ML-DSA")

// acceptablePQ checks input and choices of a post-quantum signature. What one token lacks it refuses itself, with fault.Unsupported.
func acceptablePQ(info backend.AlgorithmInfo, input []byte, opts backend.SignOpts) error {
	switch {
	case opts.Padding != "":
		return errPadding
	case opts.Hash != 0 && !keyenc.SignatureHash(opts.Hash):
		return errHash
	case len(opts.Context) > pqc.MaxContext:
		return fault.New(fault.BadSize, "the context is longer than 255 bytes")
	case opts.ExternalMu && (info.Family != backend.FamilyMLDSA || opts.Hash != 0 || opts.Context != ""):
		return fault.New(fault.BadField, "an external mu is ML-DSA's, and has context and hash in it already")
	case opts.ExternalMu && len(input) != pqc.MuSize:
		return fault.New(fault.BadSize, "an external mu is 64 bytes")
	case opts.ExternalMu:
		return errMu
	case opts.Hash != 0 && info.Family == backend.FamilyMLDSA && len(input) != opts.Hash.Size():
		return errDigest
	}
	return nil
}

type decapsulatorKey struct{ handle }

// Decapsulate has the token recover the shared secret, which then leaves it: that is what the operation is for. The private key stays.
func (k *decapsulatorKey) Decapsulate(ctx context.Context, ciphertext []byte) (secret.Bytes, error) {
	if err := k.begin(ctx); err != nil {
		return nil, err
	}
	defer k.b.gate.Leave()
	alg, ok := pqc.Lookup(string(k.e.spec.Algorithm))
	if !ok {
		return nil, errUnsupported
	}
	if len(ciphertext) != alg.Info().CiphertextSize {
		return nil, errDecrypt
	}
	return k.use(ctx, opDecapsulate, token.Call{Op: token.Decapsulate, Input: ciphertext})
}
