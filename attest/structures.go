package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of names and signatures
	_ "crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// parsed reads a TPM structure and demands that it is written in no other way: the parser reads on past lengths and leaves trailing bytes.
func parsed[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](b []byte, what string) (out *T, err error) {
	// The parser meets untrusted bytes here, and its marshaller panics on unions that it cannot write.
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, refuse("the %s is malformed", what)
		}
	}()
	if len(b) == 0 || len(b) > maxPart {
		return nil, refuse("the %s is missing or too large", what)
	}
	v, err := tpm2.Unmarshal[T, P](b)
	if err != nil || !bytes.Equal(tpm2.Marshal(*v), b) {
		return nil, refuse("the %s is malformed", what)
	}
	return v, nil
}

// hashOf gives the hash functions that names and signatures may use: SHA-1 is for nobody's (SP 800-131A section 3).
func hashOf(alg tpm2.TPMIAlgHash) (crypto.Hash, bool) {
	switch alg {
	case tpm2.TPMAlgSHA256:
		return crypto.SHA256, true
	case tpm2.TPMAlgSHA384:
		return crypto.SHA384, true
	case tpm2.TPMAlgSHA512:
		return crypto.SHA512, true
	}
	return 0, false
}

func sum(h crypto.Hash, parts ...[]byte) []byte {
	w := h.New()
	for _, p := range parts {
		w.Write(p) // a hash never fails
	}
	return w.Sum(nil)
}

// object is a parsed public area.
type object struct {
	tpm2.TPMTPublic
	hash crypto.Hash
	name []byte // TPM2B_NAME's bytes (TPM 2.0 part 1 section 16)
	key  crypto.PublicKey
}

func parsePublic(b []byte, what string) (*object, error) {
	p, err := parsed[tpm2.TPMTPublic](b, what)
	if err != nil {
		return nil, err
	}
	h, ok := hashOf(p.NameAlg)
	if !ok {
		return nil, refuse("the name of the %s is by a hash that is not accepted", what)
	}
	o := &object{TPMTPublic: *p, hash: h, name: append(binary.BigEndian.AppendUint16(nil, uint16(p.NameAlg)), sum(h, b)...)}
	switch p.Type {
	case tpm2.TPMAlgRSA:
		o.key, err = rsaKey(p)
	case tpm2.TPMAlgECC:
		o.key, err = eccKey(p)
	}
	if err != nil {
		return nil, refuse("the %s: %v", what, err)
	}
	return o, nil
}

func rsaKey(p *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	params, err := p.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	n, err := p.Unique.RSA()
	if err != nil {
		return nil, err
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n.Buffer), E: int(params.Exponent)}
	if k.E == 0 {
		k.E = 1<<16 + 1 // TPM 2.0 part 2 section 12.2.3.5
	}
	if k.N.BitLen() != int(params.KeyBits) || k.N.BitLen() < 2048 || k.N.BitLen() > 4096 || k.E < 1<<16+1 || k.E%2 == 0 {
		return nil, fmt.Errorf("not an RSA key of 2048 to 4096 bits")
	}
	return k, nil
}

func eccKey(p *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	params, err := p.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	point, err := p.Unique.ECC()
	if err != nil {
		return nil, err
	}
	var curve elliptic.Curve
	switch params.CurveID {
	case tpm2.TPMECCNistP256:
		curve = elliptic.P256()
	case tpm2.TPMECCNistP384:
		curve = elliptic.P384()
	case tpm2.TPMECCNistP521:
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("the curve is not P-256, P-384 or P-521")
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return nil, fmt.Errorf("the point is not on its curve")
	}
	// SEC 1 section 2.3.4, uncompressed; the coordinates of some TPMs come without leading zeros.
	raw := make([]byte, 1+2*size)
	raw[0] = 4
	copy(raw[1+size-len(point.X.Buffer):], point.X.Buffer)
	copy(raw[1+2*size-len(point.Y.Buffer):], point.Y.Buffer)
	k, err := ecdsa.ParseUncompressedPublicKey(curve, raw)
	if err != nil {
		return nil, fmt.Errorf("the point is not on its curve")
	}
	return k, nil
}

// fixed reports whether the object can be given to no other TPM or parent (TPM 2.0 part 2 section 8.3.3).
func (o *object) fixed() bool { return o.ObjectAttributes.FixedTPM && o.ObjectAttributes.FixedParent }

// generated reports whether this TPM made the secret. Of an object that is not fixed sensitiveDataOrigin says that some TPM did, since
// TPM2_Import leaves it as it was.
func (o *object) generated() bool { return o.fixed() && o.ObjectAttributes.SensitiveDataOrigin }

// signing is an attestation key with its one scheme.
type signing struct {
	*object
	scheme tpm2.TPMAlgID
	digest crypto.Hash
}

// attestationKey reads an AK. It must be restricted: such a key signs what the TPM itself made and nothing that looks like it
// (TPM 2.0 part 1 section 25.3.2).
func attestationKey(b []byte) (*signing, error) {
	o, err := parsePublic(b, "attestation key")
	if err != nil {
		return nil, err
	}
	a := o.ObjectAttributes
	if !a.Restricted || !a.SignEncrypt || a.Decrypt || !o.generated() {
		return nil, refuse("the attestation key is not a restricted signing key made by its TPM")
	}
	k := &signing{object: o}
	var hash tpm2.TPMIAlgHash
	switch o.Type {
	case tpm2.TPMAlgRSA:
		p, err := o.Parameters.RSADetail()
		if err != nil {
			return nil, refuse("the attestation key is malformed")
		}
		k.scheme = p.Scheme.Scheme
		switch k.scheme {
		case tpm2.TPMAlgRSASSA:
			if s, err := p.Scheme.Details.RSASSA(); err == nil {
				hash = s.HashAlg
			}
		case tpm2.TPMAlgRSAPSS:
			if s, err := p.Scheme.Details.RSAPSS(); err == nil {
				hash = s.HashAlg
			}
		}
	case tpm2.TPMAlgECC:
		p, err := o.Parameters.ECCDetail()
		if err != nil {
			return nil, refuse("the attestation key is malformed")
		}
		k.scheme = p.Scheme.Scheme
		if k.scheme == tpm2.TPMAlgECDSA {
			if s, err := p.Scheme.Details.ECDSA(); err == nil {
				hash = s.HashAlg
			}
		}
	}
	digest, ok := hashOf(hash)
	if !ok {
		return nil, refuse("the attestation key has a signature scheme that is not accepted")
	}
	k.digest = digest
	return k, nil
}

// qualifiedName is that of a primary key of the endorsement hierarchy (TPM 2.0 part 1 section 16.4).
func (k *signing) qualifiedName() []byte {
	hierarchy := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement))
	return append(binary.BigEndian.AppendUint16(nil, uint16(k.NameAlg)), sum(k.hash, hierarchy, k.name)...)
}

// verify checks a TPMT_SIGNATURE over a structure.
func (k *signing) verify(signed, signature []byte, what string) error {
	s, err := parsed[tpm2.TPMTSignature](signature, "signature of the "+what)
	if err != nil {
		return err
	}
	bad := refuse("the signature of the %s is wrong", what)
	if s.SigAlg != k.scheme {
		return bad
	}
	digest := sum(k.digest, signed)
	switch k.scheme {
	case tpm2.TPMAlgECDSA:
		e, err := s.Signature.ECDSA()
		if err != nil || !sameHash(e.Hash, k.digest) {
			return bad
		}
		pub, ok := k.key.(*ecdsa.PublicKey)
		if !ok || !ecdsa.Verify(pub, digest, new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)) {
			return bad
		}
		return nil
	case tpm2.TPMAlgRSASSA:
		e, err := s.Signature.RSASSA()
		if err != nil || !sameHash(e.Hash, k.digest) {
			return bad
		}
		pub, ok := k.key.(*rsa.PublicKey)
		if !ok || rsa.VerifyPKCS1v15(pub, k.digest, digest, e.Sig.Buffer) != nil {
			return bad
		}
		return nil
	case tpm2.TPMAlgRSAPSS:
		e, err := s.Signature.RSAPSS()
		if err != nil || !sameHash(e.Hash, k.digest) {
			return bad
		}
		pub, ok := k.key.(*rsa.PublicKey)
		if !ok || rsa.VerifyPSS(pub, k.digest, digest, e.Sig.Buffer, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) != nil {
			return bad
		}
		return nil
	}
	return bad
}

func sameHash(alg tpm2.TPMIAlgHash, h crypto.Hash) bool {
	got, ok := hashOf(alg)
	return ok && got == h
}

// attested reads a TPMS_ATTEST that the key signed for this binding, and gives what is the same in all structures of one boot.
func (k *signing) attested(structure, signature, binding []byte, kind tpm2.TPMST, what string) (*tpm2.TPMSAttest, error) {
	a, err := parsed[tpm2.TPMSAttest](structure, what)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Magic != tpm2.TPMGeneratedValue:
		return nil, refuse("the %s was not made by a TPM", what)
	case a.Type != kind:
		return nil, refuse("the %s is of another kind", what)
	case !bytes.Equal(a.ExtraData.Buffer, binding):
		return nil, refuse("the %s is of another request", what)
	case !bytes.Equal(a.QualifiedSigner.Buffer, k.qualifiedName()):
		return nil, refuse("the %s was signed by another key, or one outside of the endorsement hierarchy", what)
	}
	return a, k.verify(structure, signature, what)
}

func hexed(b []byte) string { return hex.EncodeToString(b) }
