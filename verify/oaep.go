package verify

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // OAEP needs no collision resistance of its hash, and much hardware knows no other

	"github.com/keywright/keywright/fault"
)

// EncryptOAEP encrypts by RSAES-OAEP (RFC 8017 section 7.1.1) with MGF1 of the same hash, one of SHA-1, SHA-256, SHA-384 and
// SHA-512. The result is as long as the modulus. Safe for concurrent use.
//
// Errors: fault.BadField for another hash; fault.BadSize when plaintext is longer than MaxOAEP; fault.KeyMaterial when pub is not an
// RSA key of 2048 to 4096 bits.
func EncryptOAEP(pub crypto.PublicKey, hash crypto.Hash, label, plaintext []byte) ([]byte, error) {
	limit, err := MaxOAEP(pub, hash)
	if err != nil {
		return nil, err
	}
	if len(plaintext) > limit {
		return nil, fault.New(fault.BadSize, "the plaintext is too long for this key and hash")
	}
	k := pub.(*rsa.PublicKey) // MaxOAEP has looked
	ct, err := rsa.EncryptOAEP(hash.New(), rand.Reader, k, plaintext, label)
	if err != nil {
		return nil, fault.Wrap(fault.KeyMaterial, "the public key cannot encrypt", err)
	}
	return ct, nil
}

// MaxOAEP gives the longest plaintext, in bytes, that EncryptOAEP takes: the modulus less two hashes and two bytes. It has the
// errors of EncryptOAEP.
func MaxOAEP(pub crypto.PublicKey, hash crypto.Hash) (int, error) {
	k, ok := pub.(*rsa.PublicKey)
	if !ok || k == nil || k.N == nil || k.N.BitLen() < 2048 || k.N.BitLen() > 4096 {
		return 0, fault.New(fault.KeyMaterial, "the public key is not an RSA key of 2048 to 4096 bits")
	}
	switch hash {
	case crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512:
		return k.Size() - 2*hash.Size() - 2, nil
	}
	return 0, fault.New(fault.BadField, "the hash of RSA-OAEP is SHA-1, SHA-256, SHA-384 or SHA-512")
}
