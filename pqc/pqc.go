// Package pqc is the post-quantum algorithms of the service behind one table: key encapsulation (ML-KEM of FIPS 203, X-Wing, and the
// classical KEMs of RFC 9180), signatures (ML-DSA of FIPS 204, SLH-DSA of FIPS 205, and composites of ML-DSA with a classical
// signature), public-key encryption by HPKE (RFC 9180), and the KEM envelope of docs/formats/kem-envelope.md.
//
// Private keys are seeds. A seed is what is generated, sealed and stored; PrivateKey is its expanded form, for as long as it is in use.
//
// It trusts the process's own memory, the operating system's random generator and the modules that compute (circl, the standard
// library, and filippo.io/mldsa where the message representative of ML-DSA comes from outside). It trusts no input: every size is
// checked before any arithmetic, and a self-test (Algorithm.SelfTest) from published vectors says whether the code computes
// what the standard says. Nothing here does I/O, and nothing but a Pool blocks. Everything is safe for concurrent use.
package pqc

import (
	"crypto/rand"
	"io"
	"slices"
	"sync"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Kind is what keys of an algorithm do.
type Kind uint8

const (
	KindKEM       Kind = iota + 1 // encapsulate and decapsulate
	KindSignature                 // sign and verify
)

// Names of the algorithms, as the rest of the program and the outside write them.
const (
	MLKEM512  = "ML-KEM-512"
	MLKEM768  = "ML-KEM-768"
	MLKEM1024 = "ML-KEM-1024"
	XWing     = "X-Wing"

	DHKEMP256   = "DHKEM-P256"
	DHKEMP384   = "DHKEM-P384"
	DHKEMP521   = "DHKEM-P521"
	DHKEMX25519 = "DHKEM-X25519"
	DHKEMX448   = "DHKEM-X448"

	MLDSA44 = "ML-DSA-44"
	MLDSA65 = "ML-DSA-65"
	MLDSA87 = "ML-DSA-87"

	SLHDSASHA2128s  = "SLH-DSA-SHA2-128s"
	SLHDSASHA2128f  = "SLH-DSA-SHA2-128f"
	SLHDSASHA2192s  = "SLH-DSA-SHA2-192s"
	SLHDSASHA2192f  = "SLH-DSA-SHA2-192f"
	SLHDSASHA2256s  = "SLH-DSA-SHA2-256s"
	SLHDSASHA2256f  = "SLH-DSA-SHA2-256f"
	SLHDSASHAKE128s = "SLH-DSA-SHAKE-128s"
	SLHDSASHAKE128f = "SLH-DSA-SHAKE-128f"
	SLHDSASHAKE192s = "SLH-DSA-SHAKE-192s"
	SLHDSASHAKE192f = "SLH-DSA-SHAKE-192f"
	SLHDSASHAKE256s = "SLH-DSA-SHAKE-256s"
	SLHDSASHAKE256f = "SLH-DSA-SHAKE-256f"

	MLDSA65P256    = "MLDSA65-ECDSA-P256-SHA512"
	MLDSA65Ed25519 = "MLDSA65-Ed25519-SHA512"
)

// Info describes an algorithm. Sizes are in bytes; those that an algorithm does not have are 0.
type Info struct {
	Name           string
	Kind           Kind
	Standard       string
	Category       int  // NIST security category of the post-quantum part, 1 to 5; 0 for the classical KEMs
	Slow           bool // a private operation takes tens of milliseconds to seconds: it belongs in a Pool
	SeedSize       int
	PublicKeySize  int
	CiphertextSize int // KEMs: what Encapsulate gives
	SharedKeySize  int // KEMs
	SignatureSize  int // signatures: exact, but for composites with ECDSA, where it is the greatest
}

// Algorithm is a row of the table: what it is and the code that does it. Immutable.
type Algorithm struct {
	info     Info
	scheme   scheme
	selfTest func() error
}

// scheme is the code of one algorithm. Sizes of seeds and public keys are checked before it is called.
type scheme interface {
	// fixSeed makes SeedSize random bytes a valid seed in place; false asks for others.
	fixSeed(seed []byte) bool
	// private expands a seed. public, when not nil, is the key's encoded public part, trusted to be its own: what is costly to
	// compute may be taken from it. Gives the encoded public key.
	private(seed, public []byte) (privateImpl, []byte, error)
	// public checks and expands an encoded public key.
	public(raw []byte) (publicImpl, error)
}

// privateImpl is one of kemPrivate and signPrivate, publicImpl one of kemPublic and signPublic.
type (
	privateImpl interface{ wipe() }
	publicImpl  interface{}

	kemPrivate interface {
		privateImpl
		decapsulate(ciphertext []byte) ([]byte, error)
	}
	kemPublic interface {
		// encapsulate takes the randomness of a known-answer test, or nil for fresh one.
		encapsulate(coins []byte) (ciphertext, shared []byte, err error)
	}
	signPrivate interface {
		privateImpl
		sign(message []byte, o *SignOptions) ([]byte, error)
	}
	signPublic interface {
		verify(message, signature []byte, o *SignOptions) (bool, error)
	}
)

// Algorithms gives the whole table, in the order of the documentation.
func Algorithms() []*Algorithm { return slices.Clone(table) }

// Lookup finds an algorithm by its name, exactly as written.
func Lookup(name string) (*Algorithm, bool) {
	for _, a := range table {
		if a.info.Name == name {
			return a, true
		}
	}
	return nil, false
}

// Info describes the algorithm.
func (a *Algorithm) Info() Info { return a.info }

// Name is the algorithm's name.
func (a *Algorithm) Name() string { return a.info.Name }

// SelfTest computes known answers from published vectors and compares. It runs once in a process, at the first call; later calls give
// the same result. A failure is fault.Internal and means that the algorithm must not be offered. Milliseconds, at most some tens.
func (a *Algorithm) SelfTest() error { return a.selfTest() }

// GenerateSeed makes a private key: SeedSize bytes of random, or of crypto/rand when random is nil. The caller wipes it. It reads
// more than once where not every byte string is a key (the P curves).
func (a *Algorithm) GenerateSeed(random io.Reader) (secret.Bytes, error) {
	if random == nil {
		random = rand.Reader
	}
	seed := make([]byte, a.info.SeedSize)
	for range 64 { // each try fails with a probability below 2^-31
		if _, err := io.ReadFull(random, seed); err != nil {
			clear(seed)
			return nil, fault.Wrap(fault.Internal, "no random bytes", err)
		}
		if a.scheme.fixSeed(seed) {
			return seed, nil
		}
	}
	clear(seed)
	return nil, fault.New(fault.Internal, "the random generator gives no usable bytes")
}

func newAlgorithm(i Info, s scheme, test func(*Algorithm) error) *Algorithm {
	a := &Algorithm{info: i, scheme: s}
	a.selfTest = sync.OnceValue(func() error { return runTest(a, test) })
	return a
}

// anySeed is for schemes where every byte string of the right size is a seed.
type anySeed struct{}

func (anySeed) fixSeed([]byte) bool { return true }
