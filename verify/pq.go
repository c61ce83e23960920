package verify

import (
	"crypto"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/secret"
)

var errNotOfAlgorithm = fault.New(fault.KeyMaterial, "the public key is not one of this algorithm")

// pqPublic gives a public key as package pqc has it: those of RFC 9180's KEMs come as the keys of their curves.
func pqPublic(pub crypto.PublicKey, name backend.Algorithm) (*pqc.PublicKey, error) {
	alg, ok := pqc.Lookup(string(name))
	if !ok {
		return nil, fault.New(fault.BadAlgorithm, "this algorithm does not encapsulate")
	}
	if k, ok := pub.(*pqc.PublicKey); ok && k != nil && k.Algorithm() == alg {
		return k, nil
	}
	if info, ok := backend.Lookup(name); !ok || info.Family != backend.FamilyKEM || info.PostQuantum {
		return nil, errNotOfAlgorithm
	}
	raw, err := keyenc.MarshalRaw(pub)
	if err != nil {
		return nil, errNotOfAlgorithm
	}
	k, err := alg.ParsePublicKey(raw)
	if err != nil {
		return nil, errNotOfAlgorithm
	}
	return k, nil
}

// Encapsulate makes a fresh shared secret and the ciphertext that carries it to the holder of the private part of pub (SP 800-227 section
// 3.2; FIPS 203 section 7.2; RFC 9180 section 4.1). The caller wipes the secret. Safe for concurrent use.
//
// Errors: fault.BadAlgorithm when alg is no KEM; fault.KeyMaterial when pub is not a key of alg.
func Encapsulate(pub crypto.PublicKey, alg backend.Algorithm) (ciphertext []byte, shared secret.Bytes, err error) {
	k, err := pqPublic(pub, alg)
	if err != nil {
		return nil, nil, err
	}
	ciphertext, shared, err = k.Encapsulate()
	switch {
	case fault.Has(err, fault.OperationNotAllowed):
		return nil, nil, fault.New(fault.BadAlgorithm, "this algorithm does not encapsulate")
	case err != nil:
		return nil, nil, fault.Wrap(fault.KeyMaterial, errNotOfAlgorithm.Message, err)
	}
	return ciphertext, shared, nil
}

// pqSignature checks a signature of ML-DSA, SLH-DSA or a composite.
func pqSignature(pub crypto.PublicKey, info *backend.AlgorithmInfo, input []byte, opts backend.SignOpts, sig []byte) (bool, error) {
	k, ok := pub.(*pqc.PublicKey)
	if !ok || k == nil || k.Algorithm().Name() != string(info.Name) {
		return false, errNotOfAlgorithm
	}
	o := pqc.SignOptions{Context: []byte(opts.Context), ExternalMu: opts.ExternalMu}
	if opts.Hash != 0 {
		o.PreHash, _ = pqc.PreHashOf(opts.Hash)
		o.Digest = info.Family == backend.FamilyMLDSA
	}
	return k.Verify(input, sig, o)
}

// checkPQ refuses what the caller chose wrongly. Sizes and what one algorithm does not have are package pqc's to refuse.
func checkPQ(opts backend.SignOpts) error {
	if opts.Padding != "" {
		return fault.New(fault.BadField, "only RSA signatures have a padding")
	}
	if opts.Hash != 0 && !keyenc.SignatureHash(opts.Hash) {
		return fault.New(fault.BadField, "the hash of a signature is SHA-256, SHA-384 or SHA-512")
	}
	return nil
}
