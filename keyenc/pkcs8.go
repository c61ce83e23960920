package keyenc

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keywright/keywright/pqc"
)

// pkcs8Overhead is more than everything around the private key octets of any supported key, so that buffers are made once
// and no copy of a secret is left behind by growing them.
const pkcs8Overhead = 256

var (
	tagAttributes = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagPublicKey  = cbasn1.Tag(1).ContextSpecific() // IMPLICIT BIT STRING
	tagECParams   = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagECPublic   = cbasn1.Tag(1).ContextSpecific().Constructed()
)

// MarshalPKCS8 gives the PKCS#8 DER of a private key: version 1 of RFC 5958 section 2 without attributes, for the curves of
// RFC 8410 section 7 without the public key, for the P curves with the public key inside (RFC 5915 section 3). The caller
// wipes the result. Post-quantum keys are written by their seed: RFC 9935 and RFC 9881 section 6, RFC 9909 section 6 (which adds the root), and
// the drafts of X-Wing and composite ML-DSA.
func MarshalPKCS8(priv crypto.PrivateKey) ([]byte, error) {
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		if len(k.Primes) != 2 || k.N.BitLen() > maxRSABits {
			return nil, ErrUnsupported
		}
		inner := x509.MarshalPKCS1PrivateKey(k)
		defer clear(inner)
		return wrapPKCS8(len(inner), func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidRSA)
			b.AddASN1NULL()
		}, func(b *cryptobyte.Builder) { b.AddBytes(inner) })
	case *ecdsa.PrivateKey:
		if curveOID(k.Curve) == nil {
			return nil, ErrUnsupported
		}
		scalar, err := k.Bytes()
		if err != nil {
			return nil, ErrUnsupported
		}
		defer clear(scalar)
		point, err := k.PublicKey.Bytes()
		if err != nil {
			return nil, ErrUnsupported
		}
		return marshalEC(curveOID(k.Curve), scalar, point)
	case *ecdh.PrivateKey:
		secret := k.Bytes()
		defer clear(secret)
		switch k.Curve() {
		case ecdh.X25519():
			return marshalSeed(oidX25519, secret)
		case ecdh.P256():
			return marshalEC(oidP256, secret, k.PublicKey().Bytes())
		case ecdh.P384():
			return marshalEC(oidP384, secret, k.PublicKey().Bytes())
		case ecdh.P521():
			return marshalEC(oidP521, secret, k.PublicKey().Bytes())
		}
	case ed25519.PrivateKey:
		if len(k) == ed25519.PrivateKeySize {
			return marshalSeed(oidEd25519, k[:ed25519.SeedSize])
		}
	case ed448.PrivateKey:
		if len(k) == ed448.PrivateKeySize {
			return marshalSeed(oidEd448, k[:ed448.SeedSize])
		}
	case *X448PrivateKey:
		return marshalSeed(oidX448, k[:])
	case *pqc.PrivateKey:
		return marshalPQ(k)
	}
	return nil, ErrUnsupported
}

func wrapPKCS8(size int, alg, key func(*cryptobyte.Builder)) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, size+pkcs8Overhead))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddASN1(cbasn1.SEQUENCE, alg)
		b.AddASN1(cbasn1.OCTET_STRING, key)
	})
	return b.Bytes()
}

func marshalSeed(oid asn1.ObjectIdentifier, seed []byte) ([]byte, error) {
	return wrapPKCS8(len(seed), func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) },
		func(b *cryptobyte.Builder) { b.AddASN1OctetString(seed) })
}

func marshalEC(curve asn1.ObjectIdentifier, scalar, point []byte) ([]byte, error) {
	return wrapPKCS8(len(scalar)+len(point), func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidEC)
		b.AddASN1ObjectIdentifier(curve)
	}, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(1)
			b.AddASN1OctetString(scalar)
			b.AddASN1(tagECPublic, func(b *cryptobyte.Builder) { b.AddASN1BitString(point) })
		})
	})
}

// ParsePKCS8 reads a private key in PKCS#8 DER (RFC 5208, RFC 5958) that fills der exactly. Attributes are read over. Where
// a public key stands beside the private one it must be its own. Gives *rsa.PrivateKey (two primes, checked and
// precomputed), *ecdsa.PrivateKey, ed25519.PrivateKey, ed448.PrivateKey, *ecdh.PrivateKey (X25519), *X448PrivateKey or *pqc.PrivateKey.
//
// Of ML-KEM and ML-DSA it reads the forms that have a seed; one that has the expanded key beside it must have the seed's own. The
// expanded form alone is ErrNoSeed. SLH-DSA's root is computed and compared, which takes a tenth of a second for the small parameter sets.
func ParsePKCS8(der []byte) (crypto.PrivateKey, error) {
	var outer, alg, key cryptobyte.String
	var oid asn1.ObjectIdentifier
	var version int64
	in := cryptobyte.String(der)
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() ||
		!outer.ReadASN1Integer(&version) || version < 0 || version > 1 ||
		!outer.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) ||
		!outer.ReadASN1(&key, cbasn1.OCTET_STRING) || !outer.SkipOptionalASN1(tagAttributes) {
		return nil, ErrMalformed
	}
	var bits cryptobyte.String
	var hasPublic bool
	if !outer.ReadOptionalASN1(&bits, &hasPublic, tagPublicKey) || !outer.Empty() || hasPublic && version != 1 {
		return nil, ErrMalformed // a public key needs version 2, whose number is 1 (RFC 5958 section 2)
	}
	var public []byte
	if hasPublic {
		var unused uint8
		if !bits.ReadUint8(&unused) || unused != 0 || bits.Empty() {
			return nil, ErrMalformed
		}
		public = bits
	}
	switch {
	case oid.Equal(oidRSA):
		return parseRSA(alg, key, public)
	case oid.Equal(oidEC):
		return parseEC(alg, key, public)
	case !alg.Empty(): // RFC 8410 section 3: parameters are absent
		return nil, ErrMalformed
	case oid.Equal(oidEd25519):
		seed, err := readSeed(key, ed25519.SeedSize)
		if err != nil {
			return nil, err
		}
		k := ed25519.NewKeyFromSeed(seed)
		return ifOwn(k, public, k[ed25519.SeedSize:])
	case oid.Equal(oidEd448):
		seed, err := readSeed(key, ed448.SeedSize)
		if err != nil {
			return nil, err
		}
		k := ed448.NewKeyFromSeed(seed)
		return ifOwn(k, public, k[ed448.SeedSize:])
	case oid.Equal(oidX25519):
		seed, err := readSeed(key, 32)
		if err != nil {
			return nil, err
		}
		k, err := ecdh.X25519().NewPrivateKey(seed)
		if err != nil {
			return nil, ErrMalformed
		}
		return ifOwn(k, public, k.PublicKey().Bytes())
	case oid.Equal(oidX448):
		seed, err := readSeed(key, x448.Size)
		if err != nil {
			return nil, err
		}
		k := X448PrivateKey(seed)
		own := k.Public().(X448PublicKey)
		return ifOwn(&k, public, own[:])
	}
	if e, pq := pqByOID(oid); e != nil {
		return parsePQ(e, pq, key, public)
	}
	return nil, ErrUnsupported
}

func readSeed(key cryptobyte.String, size int) ([]byte, error) {
	var seed cryptobyte.String
	if !key.ReadASN1(&seed, cbasn1.OCTET_STRING) || !key.Empty() || len(seed) != size {
		return nil, ErrMalformed
	}
	return seed, nil
}

// ifOwn gives the key when the optional public key beside it is the one computed from it.
func ifOwn(k crypto.PrivateKey, given, own []byte) (crypto.PrivateKey, error) {
	if given != nil && subtle.ConstantTimeCompare(given, own) != 1 {
		return nil, ErrMalformed
	}
	return k, nil
}

func parseRSA(alg, key cryptobyte.String, public []byte) (crypto.PrivateKey, error) {
	var null cryptobyte.String
	if !alg.ReadASN1(&null, cbasn1.NULL) || !null.Empty() || !alg.Empty() || len(key) > maxRSABits {
		return nil, ErrMalformed
	}
	k, err := x509.ParsePKCS1PrivateKey(key) // refuses trailing data, validates and precomputes
	if err != nil || len(k.Primes) != 2 || k.N.BitLen() > maxRSABits {
		return nil, ErrMalformed
	}
	// Two primes are version 0, and the numbers of the Chinese remainder theorem follow from the others (RFC 8017 appendix
	// A.1.2): so there is one encoding of a key, and anything else has something wrong in it.
	again := x509.MarshalPKCS1PrivateKey(k)
	defer clear(again)
	if subtle.ConstantTimeCompare(again, key) != 1 {
		return nil, ErrMalformed
	}
	return ifOwn(k, public, x509.MarshalPKCS1PublicKey(&k.PublicKey))
}

// parseEC reads RFC 5915's ECPrivateKey. The scalar has exactly the size of the curve's order, as its section 3 wants.
func parseEC(alg, key cryptobyte.String, public []byte) (crypto.PrivateKey, error) {
	var curve asn1.ObjectIdentifier
	if !alg.ReadASN1ObjectIdentifier(&curve) || !alg.Empty() {
		return nil, ErrMalformed
	}
	c := curveByOID(curve)
	if c == nil {
		return nil, ErrUnsupported
	}
	var seq, scalar cryptobyte.String
	var version int64
	if !key.ReadASN1(&seq, cbasn1.SEQUENCE) || !key.Empty() || !seq.ReadASN1Integer(&version) || version != 1 ||
		!seq.ReadASN1(&scalar, cbasn1.OCTET_STRING) || len(scalar) != fieldSize(c) {
		return nil, ErrMalformed
	}
	var params, point cryptobyte.String
	var hasParams, hasPoint bool
	if !seq.ReadOptionalASN1(&params, &hasParams, tagECParams) ||
		!seq.ReadOptionalASN1(&point, &hasPoint, tagECPublic) || !seq.Empty() {
		return nil, ErrMalformed
	}
	if hasParams {
		var named asn1.ObjectIdentifier
		if !params.ReadASN1ObjectIdentifier(&named) || !params.Empty() || !named.Equal(curve) {
			return nil, ErrMalformed
		}
	}
	k, err := ecdsa.ParseRawPrivateKey(c, scalar)
	if err != nil {
		return nil, ErrMalformed
	}
	own, err := k.PublicKey.Bytes()
	if err != nil {
		return nil, ErrMalformed
	}
	if hasPoint {
		var given []byte
		if !point.ReadASN1BitStringAsBytes(&given) || !point.Empty() || !samePoint(c, given, own) {
			return nil, ErrMalformed
		}
	}
	if public != nil && !samePoint(c, public, own) {
		return nil, ErrMalformed
	}
	return k, nil
}

// samePoint compares a point in uncompressed or compressed form (SEC 1 section 2.3.3) with an uncompressed one.
func samePoint(c elliptic.Curve, given, own []byte) bool {
	if len(given) == 1+fieldSize(c) {
		n := fieldSize(c)
		return given[0] == 2|own[len(own)-1]&1 && subtle.ConstantTimeCompare(given[1:], own[1:1+n]) == 1
	}
	return subtle.ConstantTimeCompare(given, own) == 1
}
