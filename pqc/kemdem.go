package pqc

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// MinKEMDEMSalt is the least salt of SealKEMDEMDeterministic, in bytes.
const MinKEMDEMSalt = 32

// Labels of the two derivations of the bare KEM-DEM form. docs/formats/qpher.md has the whole of it.
const (
	kemDEMLabel         = "keywright kem-dem v1"
	kemDEMDeterministic = "keywright kem-dem deterministic v1"
)

// coinsSize is how many random bytes an encapsulation takes, 0 for what does not encapsulate.
func (a *Algorithm) coinsSize() int {
	if c, ok := a.scheme.(circlKEM); ok {
		return c.EncapsulationSeedSize()
	}
	return 0
}

// EncapsulateDerand is Encapsulate with the randomness given: 32 bytes for ML-KEM (m of ML-KEM.Encaps_internal, FIPS 203 section 6.2),
// 64 for X-Wing (eseed of EncapsulateDerand, draft-connolly-cfrg-xwing-kem-10 section 5.4.1). FIPS 203 wants it fresh from a random bit
// generator, so this is for known answers and for a construction that derives it. Other sizes are fault.BadSize; otherwise the errors
// are those of Encapsulate. The caller wipes coins and secret.
func (p *PublicKey) EncapsulateDerand(coins []byte) (ciphertext []byte, shared secret.Bytes, err error) {
	impl, err := p.expanded()
	if err != nil {
		return nil, nil, err
	}
	k, ok := impl.(kemPublic)
	if !ok {
		return nil, nil, errNotKEM
	}
	if len(coins) != p.alg.coinsSize() || len(coins) == 0 {
		return nil, nil, fault.New(fault.BadSize, "the randomness of an encapsulation has the size that its standard gives it")
	}
	ciphertext, ss, err := k.encapsulate(coins)
	if err != nil {
		return nil, nil, errPublic
	}
	return ciphertext, ss, nil
}

// SealKEMDEM encrypts plaintext to the public key: KEM ciphertext ‖ nonce (12) ‖ AES-256-GCM ciphertext ‖ tag (16). The errors are those of
// Encapsulate.
func (p *PublicKey) SealKEMDEM(plaintext []byte) ([]byte, error) {
	kem, shared, err := p.Encapsulate()
	if err != nil {
		return nil, err
	}
	defer shared.Wipe()
	var nonce [EnvelopeNonce]byte
	rand.Read(nonce[:]) // never fails (crypto/rand, since Go 1.24)
	return p.sealKEMDEM(kem, shared, nonce[:], plaintext)
}

// SealKEMDEMDeterministic is SealKEMDEM with everything random derived from the plaintext, the salt and the public key: the same three
// give the same bytes. Whoever sees two results sees whether they are equal, and whoever knows the salt can test guesses of the plaintext:
// docs/formats/qpher.md says when that is tolerable. A salt below MinKEMDEMSalt bytes is fault.BadSize.
func (p *PublicKey) SealKEMDEMDeterministic(plaintext, salt []byte) ([]byte, error) {
	if len(salt) < MinKEMDEMSalt {
		return nil, fault.New(fault.BadSize, "the salt of deterministic encryption has at least 32 bytes")
	}
	n := p.alg.coinsSize()
	if n == 0 {
		return nil, errNotKEM
	}
	// The salt goes in by its hash, which has one length, so that no two salts are one HMAC key (RFC 2104 pads the short and hashes the long).
	key := sha256.Sum256(salt)
	defer clear(key[:])
	prk, err := hkdf.Extract(sha256.New, plaintext, key[:])
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the key could not be derived", err)
	}
	defer clear(prk)
	pk := sha256.Sum256(p.raw)
	okm, err := hkdf.Expand(sha256.New, prk, string(p.alg.appendInfo(kemDEMDeterministic, pk[:])), n+EnvelopeNonce)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the key could not be derived", err)
	}
	defer clear(okm)
	kem, shared, err := p.EncapsulateDerand(okm[:n])
	if err != nil {
		return nil, err
	}
	defer shared.Wipe()
	return p.sealKEMDEM(kem, shared, okm[n:], plaintext)
}

func (p *PublicKey) sealKEMDEM(kem []byte, shared secret.Bytes, nonce, plaintext []byte) ([]byte, error) {
	key, err := boundKey(kemDEMLabel, p.alg, p.raw, kem, shared)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(kem)+EnvelopeNonce+len(plaintext)+EnvelopeTag)
	out = append(append(out, kem...), nonce...)
	return key.aead.Seal(out, nonce, plaintext, nil), nil
}

// OpenKEMDEM opens what SealKEMDEM and SealKEMDEMDeterministic give, with the secret that its KEM ciphertext carried. The caller wipes
// secret and plaintext. Every failure is the same fault.DecryptionFailed.
func (p *PublicKey) OpenKEMDEM(blob []byte, shared secret.Bytes) ([]byte, error) {
	if p.alg.info.Kind != KindKEM {
		return nil, errNotKEM
	}
	n := p.alg.info.CiphertextSize
	if len(blob) < n+EnvelopeNonce+EnvelopeTag || len(shared) != p.alg.info.SharedKeySize {
		return nil, errCiphertext
	}
	key, err := boundKey(kemDEMLabel, p.alg, p.raw, blob[:n], shared)
	if err != nil {
		return nil, err
	}
	return key.Open(nil, blob[n:], nil)
}
