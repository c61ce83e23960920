package pqc

import (
	"crypto"

	"github.com/keywright/keywright/fault"
)

// Sizes of what comes with a message, in bytes.
const (
	MaxContext = 255 // FIPS 204 section 5.2, FIPS 205 section 10.2
	MuSize     = 64  // FIPS 204 section 6.2
)

// SignOptions are the choices of a signature. The zero value is the pure, hedged form with an empty context.
type SignOptions struct {
	// Context is the context string, up to MaxContext bytes. Longer is fault.BadSize.
	Context []byte
	// Deterministic leaves out the fresh randomness (FIPS 204 section 3.4, FIPS 205 section 9.2). For composites it makes the ML-DSA part
	// deterministic; Ed25519 is so always and ECDSA never.
	Deterministic bool
	// PreHash makes the pre-hash variant: HashML-DSA (FIPS 204 section 5.4) or HashSLH-DSA (FIPS 205 section 10.2.2). The message is the
	// message itself, and is hashed here. Composites hash by themselves and take none (fault.BadField).
	PreHash PreHash
	// Digest says that the message is already what PreHash gives, of its exact size (else fault.BadSize). ML-DSA only.
	Digest bool
	// ExternalMu says that the message is the 64-byte message representative of ML-DSA (FIPS 204 section 6.2, algorithm 7 line 6). It has
	// Context and PreHash in it already, so these are zero (else fault.BadField). ML-DSA only.
	ExternalMu bool
}

// check refuses what no algorithm has. What one algorithm does not have is refused by its own code.
func (o *SignOptions) check(message []byte) error {
	if len(o.Context) > MaxContext {
		return fault.New(fault.BadSize, "the context is longer than 255 bytes")
	}
	if o.PreHash != "" && !o.PreHash.known() {
		return fault.New(fault.BadField, "the pre-hash function is not one of FIPS 204 section 5.4")
	}
	if o.Digest && o.PreHash == "" {
		return fault.New(fault.BadField, "a digest needs the name of its hash function")
	}
	if o.Digest && len(message) != o.PreHash.Size() {
		return fault.New(fault.BadSize, "the digest is not as long as its hash function's")
	}
	if o.ExternalMu {
		if o.PreHash != "" || len(o.Context) != 0 {
			return fault.New(fault.BadField, "an external mu has context and hash in it already")
		}
		if len(message) != MuSize {
			return fault.New(fault.BadSize, "an external mu is 64 bytes")
		}
	}
	return nil
}

// noMu refuses the options that are ML-DSA's alone.
func (o *SignOptions) noMu() error {
	if o.ExternalMu || o.Digest {
		return fault.New(fault.BadField, "only ML-DSA takes a digest or an external mu")
	}
	return nil
}

// PreHash names a pre-hash function as NIST's test vectors write it; "" is none. The twelve are those whose object identifiers FIPS 204
// section 5.4 and FIPS 205 section 10.2.2 allow. A function whose collision strength is below the parameter set's category lowers
// the signature's; which to allow is the caller's policy.
type PreHash string

const (
	SHA2x224     PreHash = "SHA2-224"
	SHA2x256     PreHash = "SHA2-256"
	SHA2x384     PreHash = "SHA2-384"
	SHA2x512     PreHash = "SHA2-512"
	SHA2x512_224 PreHash = "SHA2-512/224"
	SHA2x512_256 PreHash = "SHA2-512/256"
	SHA3x224     PreHash = "SHA3-224"
	SHA3x256     PreHash = "SHA3-256"
	SHA3x384     PreHash = "SHA3-384"
	SHA3x512     PreHash = "SHA3-512"
	SHAKE128     PreHash = "SHAKE-128" // 256 bits of output
	SHAKE256     PreHash = "SHAKE-256" // 512 bits of output
)

// preHashOf gives the pre-hash function that crypto.Hash has a number for.
func preHashOf(h crypto.Hash) (PreHash, bool) {
	for p, f := range preHashes {
		if f.hash == h && h != 0 {
			return p, true
		}
	}
	return "", false
}

// PreHashOf gives the pre-hash function with the number h; false for any other.
func PreHashOf(h crypto.Hash) (PreHash, bool) { return preHashOf(h) }
