// Package verify does what needs a public key alone: it checks signatures and encrypts by RSA-OAEP, the same for keys of every
// backend and for keys of which only the public part is here.
//
// It trusts the public key to belong to the key version that the caller looked up. It trusts neither the signature nor the
// input: every malformed signature is an invalid one, never an error and never a panic.
package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // linked in for crypto.Hash.New and Available
	_ "crypto/sha512"
	"math/big"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Signature reports whether sig is a signature by the private part of pub. Safe for concurrent use.
//
// For RSA and ECDSA input is the digest by opts.Hash, one of SHA-256, SHA-384 and SHA-512; for Ed25519 and Ed448 it is the
// message, and opts is the zero value. RSA signatures are checked by RFC 8017 section 8.2.2 (PKCS#1 v1.5, the one encoding with
// NULL parameters) or 8.1.2 (PSS with MGF1 of the same hash and a salt exactly as long as the hash). ECDSA signatures
// are the strict DER of SEC 1 section C.5, or with p1363 r ‖ s, both exactly as long as the field: 64, 96 or 132 bytes. Ed25519 and
// Ed448 are checked by RFC 8032 sections 5.1.7 and 5.2.7 with an empty context.
//
// ML-DSA, SLH-DSA and composites take the message, the digest of HashML-DSA or its mu, as backend.SignOpts says.
//
// A signature that does not fit is false and no error. Errors: fault.BadAlgorithm when alg does not sign; fault.BadField for a
// hash or padding that alg does not have; fault.BadSize when input is not as long as the hash; fault.KeyMaterial when pub is not a
// key of alg.
func Signature(pub crypto.PublicKey, alg backend.Algorithm, input []byte, opts backend.SignOpts, p1363 bool, sig []byte) (bool, error) {
	info, ok := backend.Lookup(alg)
	if !ok || !info.Allows(backend.PurposeSigning) {
		return false, fault.New(fault.BadAlgorithm, "this algorithm does not sign")
	}
	if err := checkInput(info.Family, input, opts, p1363); err != nil {
		return false, err
	}
	switch info.Family {
	case backend.FamilyMLDSA, backend.FamilySLHDSA, backend.FamilyComposite:
		return pqSignature(pub, &info, input, opts, sig)
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k == nil || k.N == nil || info.Family != backend.FamilyRSA || k.N.BitLen() != info.KeyBits {
			break
		}
		return rsaSignature(k, input, opts, sig), nil
	case *ecdsa.PublicKey:
		if k == nil || k.Curve == nil || info.Family != backend.FamilyECDSA || k.Curve.Params().BitSize != info.KeyBits {
			break
		}
		if p1363 {
			return ecdsaP1363(k, input, sig), nil
		}
		return ecdsa.VerifyASN1(k, input, sig), nil
	case ed25519.PublicKey:
		if alg != backend.Ed25519 || len(k) != ed25519.PublicKeySize {
			break
		}
		return ed25519.Verify(k, input, sig), nil
	case ed448.PublicKey:
		if alg != backend.Ed448 || len(k) != ed448.PublicKeySize {
			break
		}
		return ed448.Verify(k, input, sig, ""), nil
	}
	return false, errNotOfAlgorithm
}

// checkInput refuses what the caller chose wrongly, before any key is looked at.
func checkInput(f backend.Family, input []byte, opts backend.SignOpts, p1363 bool) error {
	if p1363 && f != backend.FamilyECDSA {
		return fault.New(fault.BadField, "only ECDSA signatures have the P1363 encoding")
	}
	switch f {
	case backend.FamilyMLDSA, backend.FamilySLHDSA, backend.FamilyComposite:
		return checkPQ(opts)
	}
	if err := opts.Classical(); err != nil {
		return err
	}
	if f == backend.FamilyEdDSA {
		if opts != (backend.SignOpts{}) {
			return fault.New(fault.BadField, "Ed25519 and Ed448 take the message itself, without hash or padding")
		}
		return nil
	}
	switch opts.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return fault.New(fault.BadField, "the hash of a signature is SHA-256, SHA-384 or SHA-512")
	}
	switch {
	case f != backend.FamilyRSA && opts.Padding != "":
		return fault.New(fault.BadField, "only RSA signatures have a padding")
	case f == backend.FamilyRSA && opts.Padding != backend.PaddingPSS && opts.Padding != backend.PaddingPKCS1v15:
		return fault.New(fault.BadField, "the padding of an RSA signature is pss or pkcs1v15")
	}
	if len(input) != opts.Hash.Size() {
		return fault.New(fault.BadSize, "the digest is not as long as its hash")
	}
	return nil
}

func rsaSignature(k *rsa.PublicKey, digest []byte, opts backend.SignOpts, sig []byte) bool {
	if opts.Padding == backend.PaddingPKCS1v15 {
		return rsa.VerifyPKCS1v15(k, opts.Hash, digest, sig) == nil
	}
	// The salt length is fixed: to accept any would let one signature have several meanings of its strength.
	return rsa.VerifyPSS(k, opts.Hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
}

func ecdsaP1363(k *ecdsa.PublicKey, digest, sig []byte) bool {
	n := (k.Curve.Params().BitSize + 7) / 8
	if len(sig) != 2*n {
		return false
	}
	r, s := new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])
	return ecdsa.Verify(k, digest, r, s) // refuses 0 and what is not below the order
}
