// Package keyenc reads and writes the encodings of keys and signatures that cross the border of the program: SPKI, PEM,
// JWK and raw public keys, PKCS#8 private keys, DER and IEEE P1363 signatures, and wrapped key material (RFC 5649 and the
// RSA_AES_KEY_WRAP form of PKCS#11).
//
// It trusts nobody: everything it parses may come from outside. Parsers are strict. They take exactly one encoding of a
// key, refuse trailing bytes, and check that the parts of a key fit each other. Errors say what kind of thing is wrong and
// never carry a value. Every function is safe for concurrent use.
//
// Key types: *rsa.PublicKey, *ecdsa.PublicKey (P-256, P-384, P-521), ed25519.PublicKey, circl's ed448.PublicKey,
// *ecdh.PublicKey (X25519 and, for writing only, the P curves), X448PublicKey and *pqc.PublicKey (ML-KEM, X-Wing, ML-DSA, SLH-DSA and
// composites; not the KEMs of RFC 9180, whose keys are those of their curves), and the private keys that belong to them. ECDH keys on the P curves have the same object identifier as ECDSA keys (RFC 5480 section 2.1.1), so parsers give
// *ecdsa.PublicKey or *ecdsa.PrivateKey for both, and the caller who knows better converts.
package keyenc

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"

	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/pqc"
)

// The errors of this package. They carry no values of the input.
var (
	ErrMalformed   = errors.New("keyenc: malformed encoding")
	ErrUnsupported = errors.New("keyenc: not a key of a supported kind")
	ErrUnwrap      = errors.New("keyenc: wrapped material does not open")
	ErrSize        = errors.New("keyenc: size out of range")
)

// maxRSABits bounds the work that a foreign public key can cause. Which sizes a key may have is the caller's table.
const maxRSABits = 16384

// X448PublicKey is the u-coordinate of an X448 public key (RFC 7748 section 5), little-endian, 56 bytes.
type X448PublicKey [x448.Size]byte

// Equal reports whether x is the same key.
func (k X448PublicKey) Equal(x crypto.PublicKey) bool {
	o, ok := x.(X448PublicKey)
	return ok && k == o
}

// X448PrivateKey is an X448 secret as RFC 7748 section 5 has it before clamping, 56 bytes.
type X448PrivateKey [x448.Size]byte

// Public computes the public key.
func (k *X448PrivateKey) Public() crypto.PublicKey {
	var pub, sec x448.Key
	copy(sec[:], k[:])
	x448.KeyGen(&pub, &sec)
	clear(sec[:])
	return X448PublicKey(pub)
}

// ECDH computes the raw shared secret of 56 bytes. A peer of low order, whose result would be all zeros, is an error
// (RFC 7748 section 6.2).
func (k *X448PrivateKey) ECDH(peer X448PublicKey) ([]byte, error) {
	var sec, shared x448.Key
	pub := x448.Key(peer)
	copy(sec[:], k[:])
	ok := x448.Shared(&shared, &sec, &pub)
	clear(sec[:])
	if !ok {
		return nil, ErrMalformed
	}
	out := make([]byte, len(shared))
	copy(out, shared[:])
	clear(shared[:])
	return out, nil
}

// Wipe overwrites the secret.
func (k *X448PrivateKey) Wipe() { clear(k[:]) }

// String keeps the secret out of formatted output.
func (*X448PrivateKey) String() string { return "[redacted]" }

// GoString keeps the secret out of formatted output.
func (*X448PrivateKey) GoString() string { return "[redacted]" }

// PublicOf gives the public key of a private key that ParsePKCS8 can give, or of an *ecdh.PrivateKey.
func PublicOf(priv crypto.PrivateKey) (crypto.PublicKey, error) {
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		return &k.PublicKey, nil
	case *ecdsa.PrivateKey:
		return &k.PublicKey, nil
	case ed25519.PrivateKey:
		if len(k) != ed25519.PrivateKeySize {
			return nil, ErrUnsupported
		}
		return k.Public(), nil
	case ed448.PrivateKey:
		if len(k) != ed448.PrivateKeySize {
			return nil, ErrUnsupported
		}
		return k.Public(), nil
	case *ecdh.PrivateKey:
		return k.PublicKey(), nil
	case *X448PrivateKey:
		return k.Public(), nil
	case *pqc.PrivateKey:
		return k.PublicKey(), nil
	}
	return nil, ErrUnsupported
}
