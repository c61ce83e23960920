package pqc

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"log/slog"
	"sync"
	"weak"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// PublicKey is a public key in its standard's encoding, checked, and expanded while it is in use. Immutable.
type PublicKey struct {
	alg *Algorithm
	raw []byte

	mu   sync.Mutex // guards what follows
	last weak.Pointer[expansion]
}

// expansion is a key as its scheme has it.
type expansion struct{ impl publicImpl }

// expanded gives the key as its scheme has it. Those of ML-DSA take up to 60 kB, and whoever keeps many public keys seldom uses them all: so
// the collector may take an expansion that nobody is using, and the next use, some 50 µs longer, makes another.
func (p *PublicKey) expanded() (publicImpl, error) {
	p.mu.Lock()
	e := p.last.Value()
	p.mu.Unlock()
	if e != nil {
		return e.impl, nil
	}
	impl, err := p.alg.scheme.public(p.raw)
	if err != nil {
		return nil, errPublic // without the cause: it has nothing to say but that
	}
	e = &expansion{impl}
	p.mu.Lock()
	p.last = weak.Make(e)
	p.mu.Unlock()
	return impl, nil
}

// ParsePublicKey reads an encoded public key: the size, and what the standard wants checked (the modulus check of FIPS 203 section
// 7.2 for ML-KEM and X-Wing, the point of the P curves on its curve). Anything else is fault.BadImport. It keeps a copy of raw.
func (a *Algorithm) ParsePublicKey(raw []byte) (*PublicKey, error) {
	if len(raw) != a.info.PublicKeySize {
		return nil, errPublic
	}
	p := &PublicKey{alg: a, raw: bytes.Clone(raw)}
	if _, err := p.expanded(); err != nil {
		return nil, err
	}
	return p, nil
}

var errPublic = fault.New(fault.BadImport, "the public key is not one of this algorithm")

// Algorithm is the row of the table that the key belongs to.
func (p *PublicKey) Algorithm() *Algorithm { return p.alg }

// Bytes is a copy of the encoded key.
func (p *PublicKey) Bytes() []byte { return bytes.Clone(p.raw) }

// Equal reports whether x is a *PublicKey of the same algorithm and encoding.
func (p *PublicKey) Equal(x crypto.PublicKey) bool {
	o, ok := x.(*PublicKey)
	return ok && o != nil && p.alg.info.Name == o.alg.info.Name && bytes.Equal(p.raw, o.raw)
}

// Encapsulate makes a fresh shared secret of SharedKeySize bytes and the ciphertext that carries it to the holder of the private key.
// The caller wipes the secret. fault.OperationNotAllowed for a signature algorithm; fault.BadImport for a key with which no secret can
// be agreed (X25519 and X448 of low order, RFC 9180 section 7.1.4).
func (p *PublicKey) Encapsulate() (ciphertext []byte, shared secret.Bytes, err error) {
	impl, err := p.expanded()
	if err != nil {
		return nil, nil, err
	}
	k, ok := impl.(kemPublic)
	if !ok {
		return nil, nil, errNotKEM
	}
	ciphertext, ss, err := k.encapsulate(nil)
	if err != nil {
		return nil, nil, errPublic
	}
	return ciphertext, ss, nil
}

// Verify reports whether signature is one over message under the options. A signature that does not fit, whatever the reason, is
// false and no error. Errors: fault.OperationNotAllowed for a KEM, and those of the options (see SignOptions). Deterministic is ignored.
func (p *PublicKey) Verify(message, signature []byte, o SignOptions) (bool, error) {
	impl, err := p.expanded()
	if err != nil {
		return false, err
	}
	k, ok := impl.(signPublic)
	if !ok {
		return false, errNotSignature
	}
	if err := o.check(message); err != nil {
		return false, err
	}
	return k.verify(message, signature, &o)
}

var (
	errNotKEM       = fault.New(fault.OperationNotAllowed, "this algorithm does not encapsulate")
	errNotSignature = fault.New(fault.OperationNotAllowed, "this algorithm does not sign")
	errWiped        = fault.New(fault.Internal, "the private key was wiped")
	errSeed         = fault.New(fault.BadImport, "the material is not a private key of this algorithm")
	errCiphertext   = fault.New(fault.DecryptionFailed, "the ciphertext does not open")
)

// PrivateKey is an expanded private key. It never prints.
type PrivateKey struct {
	alg    *Algorithm
	public *PublicKey
	size   func() int // of impl, in bytes, at this moment; nil where the sizes of the algorithm say enough

	mu    sync.Mutex // guards what follows
	seed  secret.Bytes
	impl  privateImpl
	users int  // operations under way
	wiped bool // no more operations; the last one under way wipes
}

// NewPrivateKey expands a seed of SeedSize bytes. It keeps a copy and does not wipe the caller's. A seed that is not one of the algorithm is
// fault.BadImport. For SLH-DSA this computes a tree: milliseconds for the fast sets, a tenth of a second for the small ones.
func (a *Algorithm) NewPrivateKey(seed []byte) (*PrivateKey, error) { return a.newPrivate(seed, nil) }

// OpenPrivateKey is NewPrivateKey for a seed whose encoded public key is known. Where the public key is cheap to compute it is
// compared, and a difference is fault.BadImport. For SLH-DSA, whose root is costly, PK.seed is compared and PK.root taken from public:
// so public must come from a record that is authenticated together with the seed.
func (a *Algorithm) OpenPrivateKey(seed, public []byte) (*PrivateKey, error) {
	if len(public) != a.info.PublicKeySize {
		return nil, errPublic
	}
	return a.newPrivate(seed, public)
}

func (a *Algorithm) newPrivate(seed, public []byte) (*PrivateKey, error) {
	if len(seed) != a.info.SeedSize {
		return nil, errSeed
	}
	own := bytes.Clone(seed)
	impl, raw, err := a.scheme.private(own, public)
	if err != nil {
		clear(own)
		return nil, errSeed // without the cause, which is about secret bytes
	}
	if public != nil && subtle.ConstantTimeCompare(public, raw) != 1 {
		clear(own)
		impl.wipe()
		return nil, errSeed
	}
	k := &PrivateKey{alg: a, public: &PublicKey{alg: a, raw: raw}, seed: own, impl: impl}
	if x, ok := impl.(interface{ footprint() int }); ok {
		k.size = x.footprint
	}
	return k, nil
}

// Algorithm is the row of the table that the key belongs to.
func (k *PrivateKey) Algorithm() *Algorithm { return k.alg }

// Public is the key's *PublicKey. It stays usable after Wipe.
func (k *PrivateKey) Public() crypto.PublicKey { return k.public }

// PublicKey is Public with its type.
func (k *PrivateKey) PublicKey() *PublicKey { return k.public }

// Footprint is about how much memory the key takes, in bytes: 70 kB for ML-DSA-65, and more from its first signature by a message representative
// or a digest on, which needs another form of the key. It does not wait for operations under way.
func (k *PrivateKey) Footprint() int {
	n := len(k.public.raw) + k.alg.info.SeedSize + 512
	if k.size != nil {
		return n + k.size()
	}
	// What circl has of a KEM's key is the matrix of its public key, four to seven times as long as that encoded, and less beside it.
	return n + 10*len(k.public.raw)
}

// Seed is a copy of the seed; the caller wipes it. Nil after Wipe.
func (k *PrivateKey) Seed() secret.Bytes {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wiped {
		return nil
	}
	return bytes.Clone(k.seed)
}

// Equal reports whether x is a *PrivateKey of the same algorithm and seed, in time that does not depend on the seeds. A wiped key equals none.
func (k *PrivateKey) Equal(x crypto.PrivateKey) bool {
	o, ok := x.(*PrivateKey)
	if !ok || o == nil || k.alg.info.Name != o.alg.info.Name {
		return false
	}
	a, b := k.Seed(), o.Seed()
	defer a.Wipe()
	defer b.Wipe()
	return a != nil && subtle.ConstantTimeCompare(a, b) == 1
}

// Expanded is the private key in the standard's expanded form: dk of FIPS 203 section 7.1, sk of FIPS 204 algorithm 24. The caller wipes it.
// fault.Unsupported for algorithms that have none. Nothing here takes a key in this form: it is for comparing.
func (k *PrivateKey) Expanded() (secret.Bytes, error) {
	impl, err := k.acquire()
	if err != nil {
		return nil, err
	}
	defer k.release()
	if x, ok := impl.(interface{ expanded() ([]byte, error) }); ok {
		raw, err := x.expanded()
		if err == nil && len(raw) > k.alg.info.SeedSize {
			return raw, nil
		}
		clear(raw)
	}
	return nil, fault.New(fault.Unsupported, "this algorithm has no expanded private key")
}

// Decapsulate recovers the shared secret of a ciphertext; the caller wipes it. A ciphertext of the wrong size, and for the DH KEMs one
// that is not a point to agree with, is fault.DecryptionFailed. A changed ciphertext of ML-KEM or X-Wing gives another secret and no error
// (implicit rejection, FIPS 203 section 6.3), in the same time. fault.OperationNotAllowed for a signature key.
func (k *PrivateKey) Decapsulate(ciphertext []byte) (secret.Bytes, error) {
	impl, err := k.acquire()
	if err != nil {
		return nil, err
	}
	defer k.release()
	kem, ok := impl.(kemPrivate)
	if !ok {
		return nil, errNotKEM
	}
	if len(ciphertext) != k.alg.info.CiphertextSize {
		return nil, errCiphertext
	}
	shared, err := kem.decapsulate(ciphertext)
	if err != nil {
		return nil, errCiphertext
	}
	return shared, nil
}

// Sign signs message under the options: hedged with fresh randomness unless they say deterministic. Errors: fault.OperationNotAllowed
// for a KEM key, and those of the options. An algorithm that is Slow belongs in a Pool.
func (k *PrivateKey) Sign(message []byte, o SignOptions) ([]byte, error) {
	impl, err := k.acquire()
	if err != nil {
		return nil, err
	}
	defer k.release()
	s, ok := impl.(signPrivate)
	if !ok {
		return nil, errNotSignature
	}
	if err := o.check(message); err != nil {
		return nil, err
	}
	return s.sign(message, &o)
}

// Wipe ends the use of the key and overwrites its seed and expanded form as far as the modules that hold them allow. Operations under way
// finish first, on their own; Wipe does not wait for them. A second Wipe does nothing.
func (k *PrivateKey) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wiped {
		return
	}
	k.wiped = true
	if k.users == 0 {
		k.erase()
	}
}

func (k *PrivateKey) acquire() (privateImpl, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wiped {
		return nil, errWiped
	}
	k.users++
	return k.impl, nil
}

func (k *PrivateKey) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.users--
	if k.wiped && k.users == 0 {
		k.erase()
	}
}

// erase is called under mu, when nobody uses the key any more.
func (k *PrivateKey) erase() {
	k.seed.Wipe()
	k.impl.wipe()
	k.impl = nil
}

// String keeps the key out of formatted output; so do the methods after it.
func (*PrivateKey) String() string { return "[redacted]" }

// GoString is String.
func (*PrivateKey) GoString() string { return "[redacted]" }

// LogValue is String.
func (*PrivateKey) LogValue() slog.Value { return slog.StringValue("[redacted]") }
