package token

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// maxAttribute bounds what is read of an attribute: an RSA modulus of 16,384 bits fits.
const maxAttribute = 2048

// public reads a public key object. The result is checked: on its curve, of the right size, with a public exponent that is ours.
func (s *session) public(k kind, h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	if k.Family == backend.FamilyRSA {
		n, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_MODULUS, maxAttribute)
		if err != nil {
			return nil, err
		}
		e, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_PUBLIC_EXPONENT, maxAttribute)
		if err != nil {
			return nil, err
		}
		return rsaPublic(k, n, e)
	}
	if k.set != 0 {
		return s.pqPublic(k, h)
	}
	point, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_EC_POINT, maxAttribute)
	if err != nil {
		return nil, err
	}
	pub, _, err := decodePoint(k, point)
	return pub, err
}

func rsaPublic(k kind, n, e []byte) (crypto.PublicKey, error) {
	exp := new(big.Int).SetBytes(e)
	pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
	if !exp.IsInt64() || exp.Int64() > 1<<31-1 || exp.Bit(0) == 0 || exp.Int64() < 3 || pub.N.BitLen() != k.KeyBits {
		return nil, fault.New(fault.KeyMaterial, "the token's RSA key has another size or exponent than its record")
	}
	pub.E = int(exp.Int64())
	return pub, nil
}

// pointForm is how a token writes CKA_EC_POINT. PKCS#11 2.20 left it open, 2.40 says OCTET STRING, 3.0 says so for Weierstrass
// curves and allows bare octets for the others.
type pointForm string

const (
	pointOctets pointForm = "OCTET STRING"
	pointBits   pointForm = "BIT STRING"
	pointRaw    pointForm = "raw"
)

// decodePoint takes a point in any of the forms. A form is right only if all bytes are used and the point is one of the curve.
func decodePoint(k kind, der []byte) (crypto.PublicKey, pointForm, error) {
	var octets []byte
	if rest, err := asn1.Unmarshal(der, &octets); err == nil && len(rest) == 0 {
		if pub, err := pointKey(k, octets); err == nil {
			return pub, pointOctets, nil
		}
	}
	var bits asn1.BitString
	if rest, err := asn1.Unmarshal(der, &bits); err == nil && len(rest) == 0 && bits.BitLength == 8*len(bits.Bytes) {
		if pub, err := pointKey(k, bits.Bytes); err == nil {
			return pub, pointBits, nil
		}
	}
	if pub, err := pointKey(k, der); err == nil {
		return pub, pointRaw, nil
	}
	return nil, "", fault.New(fault.KeyMaterial, "the token's public key is not a point of its curve")
}

func pointKey(k kind, raw []byte) (crypto.PublicKey, error) {
	switch k.Name {
	case backend.Ed25519:
		if len(raw) == ed25519.PublicKeySize {
			return ed25519.PublicKey(raw), nil
		}
	case backend.Ed448:
		if len(raw) == ed448.PublicKeySize {
			return ed448.PublicKey(raw), nil
		}
	case backend.X25519:
		return ecdh.X25519().NewPublicKey(raw)
	case backend.X448:
		if len(raw) == len(keyenc.X448PublicKey{}) {
			return keyenc.X448PublicKey(raw), nil
		}
	default:
		pub, err := ecdsa.ParseUncompressedPublicKey(k.curve, raw)
		if err != nil {
			return nil, err
		}
		if k.Family == backend.FamilyECDH {
			return pub.ECDH()
		}
		return pub, nil
	}
	return nil, fmt.Errorf("a point of %d bytes", len(raw))
}

// wrapPoint is the inverse of decodePoint.
func wrapPoint(form pointForm, raw []byte) ([]byte, error) {
	switch form {
	case pointBits:
		return asn1.Marshal(asn1.BitString{Bytes: raw, BitLength: 8 * len(raw)})
	case pointRaw:
		return raw, nil
	}
	return asn1.Marshal(raw)
}

// spki is the form in which public keys leave.
func spki(pub crypto.PublicKey) ([]byte, error) {
	der, err := keyenc.MarshalSPKI(pub)
	if err != nil {
		return nil, fault.Wrap(fault.KeyMaterial, "the token's public key cannot be encoded", err)
	}
	return der, nil
}
