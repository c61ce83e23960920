package pqc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// envelopeLabel begins the info of the key derivation. docs/formats/kem-envelope.md has the whole of it.
const envelopeLabel = "keywright kem envelope v1"

// Sizes of what Seal adds to a plaintext, in bytes.
const (
	EnvelopeNonce = 12
	EnvelopeTag   = 16
)

// EnvelopeKey is the AES-256-GCM key of one KEM envelope.
type EnvelopeKey struct{ aead cipher.AEAD }

// SealingKey encapsulates to the public key and derives the envelope's key. kem is the ciphertext for the envelope's header. The errors
// are those of Encapsulate.
func (p *PublicKey) SealingKey() (kem []byte, key *EnvelopeKey, err error) {
	kem, shared, err := p.Encapsulate()
	if err != nil {
		return nil, nil, err
	}
	defer shared.Wipe()
	key, err = envelopeKey(p.alg, p.raw, kem, shared)
	return kem, key, err
}

// OpeningKey recovers the key of the envelope that has kem in its header. The errors are those of Decapsulate; a changed kem of ML-KEM or
// X-Wing gives a key that opens nothing.
func (k *PrivateKey) OpeningKey(kem []byte) (*EnvelopeKey, error) {
	shared, err := k.Decapsulate(kem)
	if err != nil {
		return nil, err
	}
	defer shared.Wipe()
	return envelopeKey(k.alg, k.public.raw, kem, shared)
}

// OpeningKeyOf is OpeningKey for a shared secret that something else decapsulated. The caller wipes the secret.
func (p *PublicKey) OpeningKeyOf(kem []byte, shared secret.Bytes) (*EnvelopeKey, error) {
	if p.alg.info.Kind != KindKEM {
		return nil, errNotKEM
	}
	if len(kem) != p.alg.info.CiphertextSize || len(shared) != p.alg.info.SharedKeySize {
		return nil, errCiphertext
	}
	return envelopeKey(p.alg, p.raw, kem, shared)
}

// envelopeKey is the key of an envelope.
func envelopeKey(a *Algorithm, public, kem []byte, shared secret.Bytes) (*EnvelopeKey, error) {
	return boundKey(envelopeLabel, a, public, kem, shared)
}

// appendInfo gives the info of a derivation: what it is for, the algorithm's name behind its length, and a hash of what it is bound to.
func (a *Algorithm) appendInfo(label string, bound []byte) []byte {
	info := make([]byte, 0, len(label)+1+len(a.info.Name)+len(bound))
	info = append(info, label...)
	info = append(info, byte(len(a.info.Name)))
	info = append(info, a.info.Name...)
	return append(info, bound...)
}

// boundKey is HKDF-SHA256 (RFC 5869) over the shared secret. The info binds the algorithm, and by their hash the ciphertext and the public
// key, so that a key is for this encapsulation alone whatever the KEM itself binds.
func boundKey(label string, a *Algorithm, public, kem []byte, shared secret.Bytes) (*EnvelopeKey, error) {
	h := sha256.New()
	h.Write(kem) // of a fixed size for the algorithm, so the two need no lengths
	h.Write(public)
	var bound [sha256.Size]byte
	info := a.appendInfo(label, h.Sum(bound[:0]))
	okm, err := hkdf.Key(sha256.New, shared, nil, string(info), 32)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the key could not be derived", err)
	}
	defer clear(okm)
	block, err := aes.NewCipher(okm)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the key could not be derived", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the key could not be derived", err)
	}
	return &EnvelopeKey{aead}, nil
}

// Seal appends nonce ‖ ciphertext ‖ tag to dst, EnvelopeNonce and EnvelopeTag bytes more than plaintext, which dst's free room must not
// overlap. The nonce is random, although the key is fresh for every envelope, so that nothing depends on its being used once.
func (k *EnvelopeKey) Seal(dst, plaintext, aad []byte) []byte {
	var nonce [EnvelopeNonce]byte
	rand.Read(nonce[:]) // never fails (crypto/rand, since Go 1.24)
	return k.aead.Seal(append(dst, nonce[:]...), nonce[:], plaintext, aad)
}

// Open appends the plaintext of a Seal result to dst. Every failure is the same fault.DecryptionFailed.
func (k *EnvelopeKey) Open(dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < EnvelopeNonce+EnvelopeTag {
		return nil, errCiphertext
	}
	out, err := k.aead.Open(dst, sealed[:EnvelopeNonce], sealed[EnvelopeNonce:], aad)
	if err != nil {
		return nil, errCiphertext
	}
	return out, nil
}
