package keyenc

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keywright/keywright/pqc"
)

// Object identifiers of RFC 8410 section 3, RFC 3279 section 2.3.1 and RFC 5480 section 2.1.1.
var (
	oidX25519  = asn1.ObjectIdentifier{1, 3, 101, 110}
	oidX448    = asn1.ObjectIdentifier{1, 3, 101, 111}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidEd448   = asn1.ObjectIdentifier{1, 3, 101, 113}
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidP256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384    = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidP521    = asn1.ObjectIdentifier{1, 3, 132, 0, 35}
)

const pemPublic = "PUBLIC KEY"

// MarshalSPKI gives the DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7, RFC 8410 section 4, RFC 9935,
// RFC 9881 and RFC 9909) of a public key.
func MarshalSPKI(pub crypto.PublicKey) ([]byte, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N == nil || k.N.Sign() <= 0 || k.N.BitLen() > maxRSABits {
			return nil, ErrUnsupported
		}
		return marshalStandard(k)
	case *ecdsa.PublicKey:
		if curveOID(k.Curve) == nil {
			return nil, ErrUnsupported
		}
		return marshalStandard(k)
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, ErrUnsupported
		}
		return marshalStandard(k)
	case *ecdh.PublicKey:
		return marshalStandard(k)
	case ed448.PublicKey:
		if len(k) != ed448.PublicKeySize {
			return nil, ErrUnsupported
		}
		return marshalRFC8410(oidEd448, k)
	case X448PublicKey:
		return marshalRFC8410(oidX448, k[:])
	case *pqc.PublicKey:
		if e := pqByName(k.Algorithm().Name()); e != nil {
			return marshalRFC8410(e.oid, k.Bytes())
		}
	}
	return nil, ErrUnsupported
}

func marshalStandard(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, ErrUnsupported
	}
	return der, nil
}

func marshalRFC8410(oid asn1.ObjectIdentifier, key []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) })
		b.AddASN1BitString(key)
	})
	return b.Bytes()
}

// ParseSPKI reads a DER SubjectPublicKeyInfo that fills der exactly and is encoded just as MarshalSPKI would. Points of
// the P curves must be uncompressed and on their curve; keys of the other curves are taken as they are, since every byte
// string of the right size is one (RFC 7748 section 5) or is refused by verification (RFC 8032 section 5.1.7).
func ParseSPKI(der []byte) (crypto.PublicKey, error) {
	pub, err := parseSPKI(der)
	if err != nil {
		return nil, err
	}
	again, err := MarshalSPKI(pub)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, der) {
		return nil, ErrMalformed
	}
	return pub, nil
}

func parseSPKI(der []byte) (crypto.PublicKey, error) {
	var outer, alg cryptobyte.String
	var oid asn1.ObjectIdentifier
	var key []byte
	in := cryptobyte.String(der)
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() ||
		!outer.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) ||
		!outer.ReadASN1BitStringAsBytes(&key) || !outer.Empty() {
		return nil, ErrMalformed
	}
	switch {
	case oid.Equal(oidEd448):
		if len(key) != ed448.PublicKeySize || !alg.Empty() {
			return nil, ErrMalformed
		}
		return ed448.PublicKey(bytes.Clone(key)), nil
	case oid.Equal(oidX448):
		if len(key) != x448.Size || !alg.Empty() {
			return nil, ErrMalformed
		}
		return X448PublicKey(key), nil
	case oid.Equal(oidRSA), oid.Equal(oidEC), oid.Equal(oidEd25519), oid.Equal(oidX25519):
	default:
		e, pq := pqByOID(oid)
		if e == nil {
			return nil, ErrUnsupported
		}
		if !alg.Empty() { // RFC 9935, RFC 9881 and RFC 9909, section 3 or 4: parameters are absent
			return nil, ErrMalformed
		}
		return pqPublic(pq, key)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, ErrMalformed // the cause may quote the input
	}
	return pub, nil
}

// MarshalPublicPEM gives the SPKI in a PEM block "PUBLIC KEY" (RFC 7468 section 13).
func MarshalPublicPEM(pub crypto.PublicKey) ([]byte, error) {
	der, err := MarshalSPKI(pub)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

// ParsePublicPEM reads one PEM block "PUBLIC KEY" without headers. Nothing but white space may stand around it.
func ParsePublicPEM(text []byte) (crypto.PublicKey, error) {
	text = bytes.TrimSpace(text)
	if !bytes.HasPrefix(text, []byte("-----BEGIN "+pemPublic+"-----")) {
		return nil, ErrMalformed // pem.Decode would skip text before the block
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemPublic || len(block.Headers) != 0 || len(rest) != 0 {
		return nil, ErrMalformed
	}
	return ParseSPKI(block.Bytes)
}

func curveOID(c elliptic.Curve) asn1.ObjectIdentifier {
	switch c {
	case elliptic.P256():
		return oidP256
	case elliptic.P384():
		return oidP384
	case elliptic.P521():
		return oidP521
	}
	return nil
}

func curveByOID(oid asn1.ObjectIdentifier) elliptic.Curve {
	switch {
	case oid.Equal(oidP256):
		return elliptic.P256()
	case oid.Equal(oidP384):
		return elliptic.P384()
	case oid.Equal(oidP521):
		return elliptic.P521()
	}
	return nil
}

// fieldSize is the size in bytes of a coordinate and of a scalar: for these curves it is the same.
func fieldSize(c elliptic.Curve) int { return (c.Params().BitSize + 7) / 8 }
