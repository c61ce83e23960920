package token

import (
	"bytes"
	"crypto"
	"crypto/subtle"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

// Numbers of PKCS#11 3.2 (OASIS Standard, pkcs11t.h, and sections 6.67 ML-DSA, 6.68 ML-KEM, 6.69 SLH-DSA of the specification).
const (
	ckmMLKEMKeyPairGen  = 0x0000000F
	ckmMLKEM            = 0x00000017
	ckmMLDSAKeyPairGen  = 0x0000001C
	ckmMLDSA            = 0x0000001D
	ckmHashMLDSA        = 0x0000001F
	ckmSLHDSAKeyPairGen = 0x0000002D
	ckmSLHDSA           = 0x0000002E
	ckkMLKEM            = 0x00000049
	ckkMLDSA            = 0x0000004A
	ckkSLHDSA           = 0x0000004B
	ckaParameterSet     = 0x0000061D
	ckaEncapsulate      = 0x00000633
	ckaDecapsulate      = 0x00000634
	ckaSeed             = 0x00000637

	ckfEncapsulate = 0x10000000
	ckfDecapsulate = 0x20000000

	ckhHedgePreferred        = 0
	ckhHedgeRequired         = 1
	ckhDeterministicRequired = 2
)

// pqSets are the parameter sets: CKP_ML_KEM_*, CKP_ML_DSA_* and CKP_SLH_DSA_*. Read-only.
var pqSets = map[backend.Algorithm]uint{
	backend.MLKEM512: 1, backend.MLKEM768: 2, backend.MLKEM1024: 3,
	backend.MLDSA44: 1, backend.MLDSA65: 2, backend.MLDSA87: 3,
	backend.SLHDSASHA2128s: 1, backend.SLHDSASHAKE128s: 2, backend.SLHDSASHA2128f: 3, backend.SLHDSASHAKE128f: 4,
	backend.SLHDSASHA2192s: 5, backend.SLHDSASHAKE192s: 6, backend.SLHDSASHA2192f: 7, backend.SLHDSASHAKE192f: 8,
	backend.SLHDSASHA2256s: 9, backend.SLHDSASHAKE256s: 10, backend.SLHDSASHA2256f: 11, backend.SLHDSASHAKE256f: 12,
}

// pqKind fills in the PKCS#11 side of a post-quantum algorithm. ok is false for those that have none: X-Wing, the KEMs of RFC 9180, composites.
func pqKind(k kind) (kind, bool) {
	if k.set = pqSets[k.Name]; k.set == 0 {
		return kind{}, false
	}
	if k.pq, _ = pqc.Lookup(string(k.Name)); k.pq == nil {
		return kind{}, false
	}
	switch k.Family {
	case backend.FamilyKEM:
		k.keyType, k.generate, k.mech = ckkMLKEM, ckmMLKEMKeyPairGen, ckmMLKEM
	case backend.FamilyMLDSA:
		k.keyType, k.generate, k.mech = ckkMLDSA, ckmMLDSAKeyPairGen, ckmMLDSA
	default:
		k.keyType, k.generate, k.mech = ckkSLHDSA, ckmSLHDSAKeyPairGen, ckmSLHDSA
	}
	return k, true
}

// kemUsage adds the usage that only these keys have: 2.40 does not know the attribute, so that other templates must not say no to it.
func (k kind) kemUsage(class uint, t []*pkcs11.Attribute) []*pkcs11.Attribute {
	switch {
	case k.Family != backend.FamilyKEM:
	case class == pkcs11.CKO_PUBLIC_KEY:
		t = append(t, attr(ckaEncapsulate, true))
	default:
		t = append(t, attr(ckaDecapsulate, true))
	}
	return t
}

// pqForm is what a token can do of an algorithm's signatures.
type pqForm struct {
	hedge         uint // CKH_HEDGE_REQUIRED, or CKH_HEDGE_PREFERRED where the token knows only that
	context       bool
	deterministic bool
	hashes        []crypto.Hash // of HashML-DSA
}

var (
	errContext       = fault.New(fault.Unsupported, "the token signs without a context only")
	errDeterministic = fault.New(fault.Unsupported, "the token does not sign deterministically")
	errPreHash       = fault.New(fault.Unsupported, "the token does not have the pre-hash variant with this hash")
)

// pqSign signs a message, or with HashML-DSA its digest.
func (s *session) pqSign(k kind, key pkcs11.ObjectHandle, c Call) ([]byte, error) {
	f, ok := s.d.pq[k.Name]
	if !ok {
		return nil, fault.New(fault.Unsupported, "the token does not sign with this algorithm")
	}
	mech, hedge := k.mech, f.hedge
	switch {
	case len(c.Context) > pqc.MaxContext:
		return nil, fault.New(fault.BadSize, "the context is longer than 255 bytes")
	case len(c.Context) > 0 && !f.context:
		return nil, errContext
	case c.Deterministic && !f.deterministic:
		return nil, errDeterministic
	case c.Deterministic:
		hedge = ckhDeterministicRequired
	}
	if c.Hash != 0 {
		if !f.hashesWith(c.Hash) {
			return nil, errPreHash
		}
		mech = ckmHashMLDSA
	}
	out := make([]byte, k.pq.Info().SignatureSize)
	n, err := s.d.lib.signContext(s.SessionHandle, mech, key, hedge, c.Context, hashMechanism(c.Hash), c.Input, out)
	if err == nil && n != len(out) {
		err = errLength
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (f pqForm) hashesWith(h crypto.Hash) bool {
	for _, have := range f.hashes {
		if have == h {
			return true
		}
	}
	return false
}

// hashMechanism is the CKM_ number of a hash; 0 for none.
func hashMechanism(h crypto.Hash) uint {
	switch h {
	case crypto.SHA256:
		return pkcs11.CKM_SHA256
	case crypto.SHA384:
		return pkcs11.CKM_SHA384
	case crypto.SHA512:
		return pkcs11.CKM_SHA512
	}
	return 0
}

// decapsulate recovers a shared secret. It becomes an object of the session that may be read, is read, and destroyed: the operation is to give it out.
func (s *session) decapsulate(k kind, key pkcs11.ObjectHandle, ciphertext []byte) ([]byte, error) {
	info := k.pq.Info()
	if len(ciphertext) != info.CiphertextSize {
		return nil, errDecrypt
	}
	shared, err := s.d.lib.decapsulate(s.SessionHandle, k.mech, key, ciphertext, info.SharedKeySize, s.d.kemLength)
	if err != nil {
		return nil, err
	}
	value, err := s.d.lib.attribute(s.SessionHandle, shared, pkcs11.CKA_VALUE, info.SharedKeySize)
	if derr := s.d.lib.DestroyObject(s.SessionHandle, shared); err == nil {
		err = derr
	}
	if err == nil && len(value) != info.SharedKeySize {
		err = errLength
	}
	if err != nil {
		clear(value)
		return nil, err
	}
	return value, nil
}

// pqPublic reads a public key: CKA_VALUE has it in the encoding of its standard.
func (s *session) pqPublic(k kind, h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	raw, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_VALUE, k.pq.Info().PublicKeySize)
	if err != nil {
		return nil, err
	}
	pub, err := k.pq.ParsePublicKey(raw)
	if err != nil {
		return nil, fault.Wrap(fault.KeyMaterial, "the token's public key is not one of its algorithm", err)
	}
	return pub, nil
}

// pqConsistent is the pairwise consistency test of these keys: FIPS 203 section 7.1, and by a signature.
func (s *session) pqConsistent(k kind, key pkcs11.ObjectHandle, pub *pqc.PublicKey) error {
	if k.Family != backend.FamilyKEM {
		message := []byte("keywright pairwise consistency test")
		sig, err := s.pqSign(k, key, Call{Input: message})
		if err != nil {
			return err
		}
		if ok, err := pub.Verify(message, sig, pqc.SignOptions{}); err != nil || !ok {
			return errInconsistent
		}
		return nil
	}
	ct, want, err := pub.Encapsulate()
	if err != nil {
		return errInconsistent
	}
	defer want.Wipe()
	got, err := s.decapsulate(k, key, ct)
	if err != nil {
		return err
	}
	defer clear(got)
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return errInconsistent
	}
	return nil
}

// pqCreate gives the attributes of a private key that C_CreateObject takes: its seed. SLH-DSA has no such attribute.
func (k kind) pqCreate(key *pqc.PrivateKey, t []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	if k.Family == backend.FamilySLHDSA {
		return nil, errMaterial
	}
	return k.kemUsage(k.class, append(t, attr(ckaParameterSet, k.set), attr(ckaSeed, []byte(key.Seed())))), nil
}

// pqPublish gives those of a public key.
func (k kind) pqPublish(raw []byte, t []*pkcs11.Attribute) []*pkcs11.Attribute {
	return k.kemUsage(pkcs11.CKO_PUBLIC_KEY, append(t, attr(ckaParameterSet, k.set), attr(pkcs11.CKA_VALUE, bytes.Clone(raw))))
}
