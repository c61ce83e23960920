package qpher

import (
	"context"
	"crypto"
	_ "crypto/sha256" // linked in for crypto.Hash.Size
	_ "crypto/sha512"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// hashContext begins the context string of a composite's signature over a digest; the hash's name is the rest of it.
const hashContext = "keywright qpher sign-hash "

// signature finds the version that a request is for.
func signature(name string, version int64) (algorithm, keys.Target, error) {
	a, err := find(name, signatures())
	if err != nil {
		return a, keys.Target{}, err
	}
	t, err := a.target(version)
	return a, t, err
}

// Sign is POST /signature/sign: the message itself, hedged, with an empty context string.
func (q *API) Sign(ctx context.Context, c keys.Caller, r *Sign) (*Answer, error) {
	if r.Message == nil {
		return nil, missing("message")
	}
	a, t, err := signature(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Sign(ctx, c, t, keys.SignOpts{}, []keys.SignItem{{Message: r.Message}}, true)
	return answer(a, "signature", false, out, err)
}

// Verify is POST /signature/verify.
func (q *API) Verify(ctx context.Context, c keys.Caller, r *Verify) (*Answer, error) {
	switch {
	case r.Message == nil:
		return nil, missing("message")
	case r.Signature == nil:
		return nil, missing("signature")
	}
	a, t, err := signature(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Verify(ctx, c, t, keys.SignOpts{}, []keys.VerifyItem{{Message: r.Message, Signature: r.Signature}}, true)
	return verdict(a, "", out, err)
}

// SignHash is POST /signature/sign-hash.
func (q *API) SignHash(ctx context.Context, c keys.Caller, r *SignHash) (*Answer, error) {
	a, t, d, err := prehashed(r.Algorithm, r.KeyVersion, r.HashAlgorithm, r.Hash)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Sign(ctx, c, t, d.opts, []keys.SignItem{{Message: d.message, Digest: d.digest}}, true)
	s, err := answer(a, "signature", false, out, err)
	if err == nil {
		s.tail = d.tail + `,"signature_type":"detached"`
	}
	return s, err
}

// VerifyHash is POST /signature/verify-hash.
func (q *API) VerifyHash(ctx context.Context, c keys.Caller, r *VerifyHash) (*Answer, error) {
	if r.Signature == nil {
		return nil, missing("signature")
	}
	a, t, d, err := prehashed(r.Algorithm, r.KeyVersion, r.HashAlgorithm, r.Hash)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Verify(ctx, c, t, d.opts, []keys.VerifyItem{{Message: d.message, Digest: d.digest, Signature: r.Signature}}, true)
	return verdict(a, d.tail, out, err)
}

// digested is what is signed in the place of a digest.
type digested struct {
	opts            keys.SignOpts
	message, digest []byte
	tail            string // of the answer
}

// prehashed reads a digest. Dilithium3 signs it as HashML-DSA (FIPS 204 section 5.4). A composite has no such variant: it signs the bytes of the
// digest as a message, under a context string that names the hash, so that the signature is none over a message of the same bytes.
func prehashed(name string, version int64, hash string, digest []byte) (algorithm, keys.Target, digested, error) {
	var d digested
	switch {
	case digest == nil:
		return algorithm{}, keys.Target{}, d, missing("hash")
	case hash == "":
		return algorithm{}, keys.Target{}, d, missing("hash_algorithm")
	}
	a, t, err := signature(name, version)
	if err != nil {
		return a, t, d, err
	}
	var h crypto.Hash
	switch hash {
	case "SHA-256":
		h = crypto.SHA256
	case "SHA-384":
		h = crypto.SHA384
	case "SHA-512":
		h = crypto.SHA512
	default:
		return a, t, d, fault.New(fault.BadField, "the hash algorithm is SHA-256, SHA-384 or SHA-512")
	}
	if len(digest) != h.Size() {
		return a, t, d, fault.New(fault.BadSize, "the hash is not as long as its algorithm's")
	}
	d.tail = `,"hash_algorithm":"` + hash + `"`
	if a.native == backend.MLDSA65 {
		d.opts, d.digest = keys.SignOpts{Hash: h}, digest
	} else {
		d.opts, d.message = keys.SignOpts{Context: []byte(hashContext + hash)}, digest
	}
	return a, t, d, nil
}

func verdict(a algorithm, tail string, out []keys.VerifyResult, err error) (*Answer, error) {
	if err != nil {
		return nil, err
	}
	return &Answer{algorithm: a.name, used: out[0].Used, isVerdict: true, valid: out[0].Valid, tail: tail}, nil
}
