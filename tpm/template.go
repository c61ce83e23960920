package tpm

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
)

// attributes of a key that the TPM made. No dictionary attack protection (noDA): auth values are 256 bits long and derived, so that there is
// nothing to guess, and a wrong one must not lock the TPM for everybody else. ADMIN actions take the auth value (adminWithPolicy clear); the
// DUP action always takes a policy, and there is none that fits.
func attributes(imported bool) tpm2.TPMAObject {
	return tpm2.TPMAObject{FixedTPM: !imported, FixedParent: !imported, SensitiveDataOrigin: !imported, UserWithAuth: true, NoDA: true}
}

func newPublic(t tpm2.TPMAlgID, a tpm2.TPMAObject, policy []byte, parms tpm2.TPMUPublicParms) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: t, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a, AuthPolicy: tpm2.TPM2BDigest{Buffer: policy}, Parameters: parms}
}

// templates gives the public areas of the objects of a key of an algorithm and purpose, without their unique parts; none for algorithms that no TPM has.
func templates(info backend.AlgorithmInfo, p backend.Purpose, policy []byte, imported bool) []tpm2.TPMTPublic {
	if info.Name == backend.AES256CTRHMACSHA256 {
		return etmTemplates(policy, imported)
	}
	if public, ok := template(info, p, policy, imported); ok {
		return []tpm2.TPMTPublic{public}
	}
	return nil
}

// template gives the one of a key that is one object. Schemes are chosen at use.
func template(info backend.AlgorithmInfo, p backend.Purpose, policy []byte, imported bool) (tpm2.TPMTPublic, bool) {
	a := attributes(imported)
	switch info.Family {
	case backend.FamilyRSA:
		a.SignEncrypt, a.Decrypt = p == backend.PurposeSigning, p == backend.PurposeEncryption
		return newPublic(tpm2.TPMAlgRSA, a, policy, tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(info.KeyBits)})), true
	case backend.FamilyECDSA, backend.FamilyECDH:
		curve, ok := curveOf(info)
		if !ok {
			return tpm2.TPMTPublic{}, false
		}
		a.SignEncrypt, a.Decrypt = info.Family == backend.FamilyECDSA, info.Family == backend.FamilyECDH
		return newPublic(tpm2.TPMAlgECC, a, policy, tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve.id})), true
	case backend.FamilyHMAC:
		a.SignEncrypt = true
		return hmacPublic(a, policy, info.Hash)
	}
	return tpm2.TPMTPublic{}, false
}

func hmacPublic(a tpm2.TPMAObject, policy []byte, h crypto.Hash) (tpm2.TPMTPublic, bool) {
	alg, ok := hashAlg(h)
	return newPublic(tpm2.TPMAlgKeyedHash, a, policy, tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
		Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgHMAC,
			Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: alg})},
	})), ok
}

// dataPublic is of a sealed data object: no signing, no decryption, a scheme of none (TPM 2.0 part 1, section 27.3.4). Without an auth value nothing goes past the policy, the ADMIN
// role neither.
func dataPublic(policy []byte, withAuth bool) tpm2.TPMTPublic {
	a := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: withAuth, AdminWithPolicy: !withAuth, NoDA: true}
	return newPublic(tpm2.TPMAlgKeyedHash, a, policy, tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{}))
}

type curve struct {
	id   tpm2.TPMECCCurve
	ec   elliptic.Curve
	dh   ecdh.Curve
	size int // of a coordinate in bytes
}

func curveOf(info backend.AlgorithmInfo) (curve, bool) {
	switch info.Name {
	case backend.ECDSAP256, backend.ECDHP256:
		return curve{tpm2.TPMECCNistP256, elliptic.P256(), ecdh.P256(), 32}, true
	case backend.ECDSAP384, backend.ECDHP384:
		return curve{tpm2.TPMECCNistP384, elliptic.P384(), ecdh.P384(), 48}, true
	case backend.ECDSAP521, backend.ECDHP521:
		return curve{tpm2.TPMECCNistP521, elliptic.P521(), ecdh.P521(), 66}, true
	}
	return curve{}, false
}

func hashAlg(h crypto.Hash) (tpm2.TPMAlgID, bool) {
	switch h {
	case crypto.SHA1:
		return tpm2.TPMAlgSHA1, true
	case crypto.SHA256:
		return tpm2.TPMAlgSHA256, true
	case crypto.SHA384:
		return tpm2.TPMAlgSHA384, true
	case crypto.SHA512:
		return tpm2.TPMAlgSHA512, true
	}
	return tpm2.TPMAlgNull, false
}

var errPublic = errors.New("the TPM's public area is not of a key of the algorithm")

// publicOf gives the public key of a public area, which must be one of the algorithm, and its SPKI; nil for symmetric keys.
func publicOf(info backend.AlgorithmInfo, pub *tpm2.TPMTPublic) (key crypto.PublicKey, spki []byte, err error) {
	switch info.Family {
	case backend.FamilyRSA:
		parms, err := pub.Parameters.RSADetail()
		if err != nil {
			return nil, nil, errPublic
		}
		n, err := pub.Unique.RSA()
		if err != nil || int(parms.KeyBits) != info.KeyBits {
			return nil, nil, errPublic
		}
		e := int(parms.Exponent)
		if e == 0 {
			e = 65537 // part 2, section 12.2.3.5
		}
		key = &rsa.PublicKey{N: new(big.Int).SetBytes(n.Buffer), E: e}
	case backend.FamilyECDSA, backend.FamilyECDH:
		c, ok := curveOf(info)
		parms, err := pub.Parameters.ECCDetail()
		if err != nil || !ok || parms.CurveID != c.id {
			return nil, nil, errPublic
		}
		p, err := pub.Unique.ECC()
		if err != nil {
			return nil, nil, errPublic
		}
		point, ok := uncompressed(c, p)
		if !ok {
			return nil, nil, errPublic
		}
		if info.Family == backend.FamilyECDH {
			key, err = c.dh.NewPublicKey(point)
		} else {
			key, err = ecdsa.ParseUncompressedPublicKey(c.ec, point)
		}
		if err != nil {
			return nil, nil, errPublic
		}
	default:
		return nil, nil, nil
	}
	if spki, err = keyenc.MarshalSPKI(key); err != nil {
		return nil, nil, err
	}
	if _, err = keyenc.ParseSPKI(spki); err != nil { // sizes, exponents, points: what everybody who reads it will look at
		return nil, nil, err
	}
	return key, spki, nil
}

// uncompressed gives the point of SEC 1 section 2.3.3: TPMs may leave zeros at the front of a coordinate away.
func uncompressed(c curve, p *tpm2.TPMSECCPoint) ([]byte, bool) {
	if len(p.X.Buffer) > c.size || len(p.Y.Buffer) > c.size {
		return nil, false
	}
	out := make([]byte, 1+2*c.size)
	out[0] = 4
	copy(out[1+c.size-len(p.X.Buffer):], p.X.Buffer)
	copy(out[1+2*c.size-len(p.Y.Buffer):], p.Y.Buffer)
	return out, true
}

func pointOf(c curve, uncompressed []byte) *tpm2.TPMSECCPoint {
	return &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: uncompressed[1 : 1+c.size]}, Y: tpm2.TPM2BECCParameter{Buffer: uncompressed[1+c.size:]}}
}
