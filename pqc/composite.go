package pqc

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"

	"github.com/keywright/keywright/fault"
)

// compositeDraft is what composites follow.
const compositeDraft = "draft-ietf-lamps-pq-composite-sigs-19"

// compositePrefix is the same for all composites (section 2.2 of the draft).
const compositePrefix = "CompositeAlgorithmSignatures2025"

// composite is ML-DSA-65 together with a classical signature, both over the same message representative, by the LAMPS draft.
//
//	M' = prefix ‖ label ‖ |ctx| ‖ ctx ‖ SHA-512(M)
//	signature = ML-DSA-65(M', context = label) ‖ classical(M')
//	public key = ML-DSA-65 key ‖ classical key
//
// The seed of this package is the ML-DSA seed ‖ the classical private key, 32 bytes each; package keyenc has the draft's encoding of it.
type composite struct {
	label string
	trad  traditional
}

// traditional is the classical part. Its private keys have 32 bytes.
type traditional interface {
	publicSize() int
	maxSignature() int
	fixSeed(seed []byte) bool
	private(seed []byte) (crypto.Signer, []byte, error)
	public(raw []byte) (crypto.PublicKey, error)
	sign(k crypto.Signer, m []byte) ([]byte, error)
	verify(k crypto.PublicKey, m, sig []byte) bool
}

func (c *composite) fixSeed(seed []byte) bool { return c.trad.fixSeed(seed[mldsaSeed:]) }

type compositePrivate struct {
	set   *composite
	mldsa *mldsaPrivate[mldsa65.PublicKey, mldsa65.PrivateKey]
	trad  crypto.Signer
}

func (c *composite) private(seed, _ []byte) (privateImpl, []byte, error) {
	trad, tradPublic, err := c.trad.private(seed[mldsaSeed:])
	if err != nil {
		return nil, nil, err
	}
	impl, raw, err := mldsa65Set.private(seed[:mldsaSeed], nil)
	if err != nil {
		return nil, nil, err
	}
	p := impl.(*mldsaPrivate[mldsa65.PublicKey, mldsa65.PrivateKey])
	return &compositePrivate{c, p, trad}, append(raw, tradPublic...), nil
}

func (p *compositePrivate) sign(message []byte, o *SignOptions) ([]byte, error) {
	if err := compositeOptions(o); err != nil {
		return nil, err
	}
	m := p.set.representative(message, o.Context)
	inner := SignOptions{Context: []byte(p.set.label), Deterministic: o.Deterministic}
	sig, err := p.mldsa.sign(m, &inner)
	if err != nil {
		return nil, err
	}
	trad, err := p.set.trad.sign(p.trad, m)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the signature could not be computed", err)
	}
	return append(sig, trad...), nil
}

func (p *compositePrivate) footprint() int { return p.mldsa.footprint() + 1024 }

func (p *compositePrivate) wipe() {
	p.mldsa.wipe()
	if k, ok := p.trad.(ed25519.PrivateKey); ok {
		clear(k)
	}
	p.trad = nil // an ECDSA scalar is immutable: the garbage collector has it
}

type compositePublic struct {
	set   *composite
	mldsa signPublic
	trad  crypto.PublicKey
}

func (c *composite) public(raw []byte) (publicImpl, error) {
	pq, err := mldsa65Set.public(raw[:mldsa65.PublicKeySize])
	if err != nil {
		return nil, err
	}
	trad, err := c.trad.public(raw[mldsa65.PublicKeySize:])
	if err != nil {
		return nil, err
	}
	return &compositePublic{c, pq.(signPublic), trad}, nil
}

func (p *compositePublic) verify(message, signature []byte, o *SignOptions) (bool, error) {
	if err := compositeOptions(o); err != nil {
		return false, err
	}
	if len(signature) <= mldsa65.SignatureSize || len(signature) > mldsa65.SignatureSize+p.set.trad.maxSignature() {
		return false, nil
	}
	m := p.set.representative(message, o.Context)
	ok, err := p.mldsa.verify(m, signature[:mldsa65.SignatureSize], &SignOptions{Context: []byte(p.set.label)})
	if err != nil {
		return false, err
	}
	return p.set.trad.verify(p.trad, m, signature[mldsa65.SignatureSize:]) && ok, nil
}

func compositeOptions(o *SignOptions) error {
	if o.PreHash != "" {
		return fault.New(fault.BadField, "a composite signature hashes by itself and takes no pre-hash function")
	}
	return o.noMu()
}

func (c *composite) representative(message, context []byte) []byte {
	digest := sha512.Sum512(message)
	m := make([]byte, 0, len(compositePrefix)+len(c.label)+1+len(context)+len(digest))
	m = append(append(m, compositePrefix...), c.label...)
	m = append(append(m, byte(len(context))), context...)
	return append(m, digest[:]...)
}

// tradP256 is ECDSA on P-256 with SHA-256; public keys are uncompressed points, signatures DER.
type tradP256 struct{}

func (tradP256) publicSize() int          { return 65 }
func (tradP256) maxSignature() int        { return 72 }
func (tradP256) fixSeed(seed []byte) bool { return scalarOf(ecdh.P256(), 0xff)(seed) }

func (tradP256) private(seed []byte) (crypto.Signer, []byte, error) {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed)
	if err != nil {
		return nil, nil, err
	}
	raw, err := k.PublicKey.Bytes()
	return k, raw, err
}

func (tradP256) public(raw []byte) (crypto.PublicKey, error) {
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
}

func (tradP256) sign(k crypto.Signer, m []byte) ([]byte, error) {
	digest := sha256.Sum256(m)
	return k.Sign(rand.Reader, digest[:], crypto.SHA256)
}

func (tradP256) verify(k crypto.PublicKey, m, sig []byte) bool {
	pub, ok := k.(*ecdsa.PublicKey)
	digest := sha256.Sum256(m)
	return ok && ecdsa.VerifyASN1(pub, digest[:], sig)
}

// tradEd25519 is Ed25519 (RFC 8032) without context.
type tradEd25519 struct{}

func (tradEd25519) publicSize() int     { return ed25519.PublicKeySize }
func (tradEd25519) maxSignature() int   { return ed25519.SignatureSize }
func (tradEd25519) fixSeed([]byte) bool { return true }

func (tradEd25519) private(seed []byte) (crypto.Signer, []byte, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, nil, errors.New("pqc: seed size")
	}
	k := ed25519.NewKeyFromSeed(seed)
	return k, append([]byte(nil), k[ed25519.SeedSize:]...), nil
}

func (tradEd25519) public(raw []byte) (crypto.PublicKey, error) { return ed25519.PublicKey(raw), nil }

func (tradEd25519) sign(k crypto.Signer, m []byte) ([]byte, error) {
	return k.Sign(nil, m, crypto.Hash(0))
}

func (tradEd25519) verify(k crypto.PublicKey, m, sig []byte) bool {
	pub, ok := k.(ed25519.PublicKey)
	return ok && ed25519.Verify(pub, m, sig)
}

func compositeAlgorithm(name, label string, t traditional) *Algorithm {
	return newAlgorithm(Info{Name: name, Kind: KindSignature, Standard: compositeDraft, Category: 3, SeedSize: 2 * mldsaSeed,
		PublicKeySize: mldsa65.PublicKeySize + t.publicSize(), SignatureSize: mldsa65.SignatureSize + t.maxSignature()},
		&composite{label, t}, testComposite)
}

func composites() []*Algorithm {
	return []*Algorithm{
		compositeAlgorithm(MLDSA65P256, "COMPSIG-MLDSA65-ECDSA-P256-SHA512", tradP256{}),
		compositeAlgorithm(MLDSA65Ed25519, "COMPSIG-MLDSA65-Ed25519-SHA512", tradEd25519{}),
	}
}
