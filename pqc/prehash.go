package pqc

import (
	"crypto"
	_ "crypto/sha256" // linked in for crypto.Hash.New
	"crypto/sha3"
	_ "crypto/sha512"
)

// preHash is a row of the pre-hash functions. oid is the last byte of 2.16.840.1.101.3.4.2.x (FIPS 204 algorithm 4 lines 10 to 22).
type preHash struct {
	oid  byte
	size int
	hash crypto.Hash
}

// preHashes is read-only. The SHAKE functions have no number in package crypto.
var preHashes = map[PreHash]preHash{
	SHA2x256:     {1, 32, crypto.SHA256},
	SHA2x384:     {2, 48, crypto.SHA384},
	SHA2x512:     {3, 64, crypto.SHA512},
	SHA2x224:     {4, 28, crypto.SHA224},
	SHA2x512_224: {5, 28, crypto.SHA512_224},
	SHA2x512_256: {6, 32, crypto.SHA512_256},
	SHA3x224:     {7, 28, crypto.SHA3_224},
	SHA3x256:     {8, 32, crypto.SHA3_256},
	SHA3x384:     {9, 48, crypto.SHA3_384},
	SHA3x512:     {10, 64, crypto.SHA3_512},
	SHAKE128:     {11, 32, 0},
	SHAKE256:     {12, 64, 0},
}

func (p PreHash) known() bool {
	_, ok := preHashes[p]
	return ok
}

// Size is the size of the digest in bytes, 0 for none and for names that are not functions.
func (p PreHash) Size() int { return preHashes[p].size }

// Sum gives the digest of message, nil for none and for names that are not functions.
func (p PreHash) Sum(message []byte) []byte {
	switch p {
	case SHAKE128:
		return sha3.SumSHAKE128(message, 32)
	case SHAKE256:
		return sha3.SumSHAKE256(message, 64)
	}
	f, ok := preHashes[p]
	if !ok {
		return nil
	}
	h := f.hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// der is the DER encoding of the function's object identifier, as it stands in front of the digest.
func (p PreHash) der() []byte {
	return []byte{0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, preHashes[p].oid}
}
