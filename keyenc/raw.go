package keyenc

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/pqc"
)

// MarshalRaw gives the bare public key: the uncompressed point (SEC 1 section 2.3.3; 65, 97 or 133 bytes) of a P curve, the
// bytes of RFC 8032 and RFC 7748 of the others (32, 57 or 56), PKCS#1 DER (RFC 8017 appendix A.1.1) for RSA, and
// the encoding of its standard for a post-quantum key.
func MarshalRaw(pub crypto.PublicKey) ([]byte, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N == nil || k.N.Sign() <= 0 || k.N.BitLen() > maxRSABits {
			return nil, ErrUnsupported
		}
		return x509.MarshalPKCS1PublicKey(k), nil
	case *ecdsa.PublicKey:
		if curveOID(k.Curve) == nil {
			return nil, ErrUnsupported
		}
		raw, err := k.Bytes()
		if err != nil {
			return nil, ErrUnsupported
		}
		return raw, nil
	case *ecdh.PublicKey:
		return k.Bytes(), nil
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return bytes.Clone(k), nil
		}
	case ed448.PublicKey:
		if len(k) == ed448.PublicKeySize {
			return bytes.Clone(k), nil
		}
	case X448PublicKey:
		return bytes.Clone(k[:]), nil
	case *pqc.PublicKey:
		return k.Bytes(), nil
	}
	return nil, ErrUnsupported
}
