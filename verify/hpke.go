package verify

import (
	"crypto"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

// HasHPKE reports whether the algorithm is a KEM that HPKE can stand on: X-Wing and the KEMs of RFC 9180.
func HasHPKE(name backend.Algorithm) bool {
	_, err := hpke(name)
	return err == nil
}

func hpke(name backend.Algorithm) (*pqc.HPKE, error) {
	alg, ok := pqc.Lookup(string(name))
	if !ok {
		return nil, fault.New(fault.BadAlgorithm, "this algorithm has no HPKE")
	}
	return pqc.NewHPKE(alg, pqc.HPKEAES256GCM)
}

// SealHPKE encrypts once to pub in base mode and gives enc ‖ ciphertext ‖ tag (RFC 9180 section 6.1; HKDF-SHA256, AES-256-GCM). info names
// the use and is known to both sides, aad is authenticated; either may be nil. Safe for concurrent use.
//
// Errors: fault.BadAlgorithm when alg has no HPKE; fault.KeyMaterial when pub is not a key of alg.
func SealHPKE(pub crypto.PublicKey, alg backend.Algorithm, info, aad, plaintext []byte) ([]byte, error) {
	suite, err := hpke(alg)
	if err != nil {
		return nil, err
	}
	k, err := pqPublic(pub, alg)
	if err != nil {
		return nil, err
	}
	enc, ct, err := suite.Seal(k, info, aad, plaintext)
	if err != nil {
		return nil, err
	}
	return append(enc, ct...), nil
}

// OpenHPKE opens what SealHPKE gave, with the secret that enc carried, after enc. Every failure of the data is fault.DecryptionFailed. The caller
// wipes secret and plaintext.
func OpenHPKE(alg backend.Algorithm, shared, info, aad, ciphertext []byte) ([]byte, error) {
	suite, err := hpke(alg)
	if err != nil {
		return nil, err
	}
	return suite.OpenShared(shared, info, aad, ciphertext)
}

// SealKEM encapsulates to pub and gives the KEM ciphertext for an envelope's header and the key that seals its one message
// (docs/formats/kem-envelope.md). The errors are those of Encapsulate.
func SealKEM(pub crypto.PublicKey, alg backend.Algorithm) (kem []byte, key *pqc.EnvelopeKey, err error) {
	k, err := pqPublic(pub, alg)
	if err != nil {
		return nil, nil, err
	}
	return k.SealingKey()
}

// OpenKEM derives the key of an envelope from the secret that the private part of pub decapsulated. The caller wipes the secret.
func OpenKEM(pub crypto.PublicKey, alg backend.Algorithm, kem, shared []byte) (*pqc.EnvelopeKey, error) {
	k, err := pqPublic(pub, alg)
	if err != nil {
		return nil, err
	}
	return k.OpeningKeyOf(kem, shared)
}

// SealKEMDEM encrypts to pub in the bare form KEM ciphertext ‖ nonce ‖ AES-256-GCM ciphertext ‖ tag (docs/formats/qpher.md). With a salt the
// result is deterministic; one below 32 bytes is fault.BadSize. The other errors are those of Encapsulate.
func SealKEMDEM(pub crypto.PublicKey, alg backend.Algorithm, plaintext, salt []byte) ([]byte, error) {
	k, err := pqPublic(pub, alg)
	if err != nil {
		return nil, err
	}
	if salt == nil {
		return k.SealKEMDEM(plaintext)
	}
	return k.SealKEMDEMDeterministic(plaintext, salt)
}

// OpenKEMDEM opens what SealKEMDEM gave with the secret that the private part of pub decapsulated. Every failure of the data is
// fault.DecryptionFailed. The caller wipes secret and plaintext.
func OpenKEMDEM(pub crypto.PublicKey, alg backend.Algorithm, shared, blob []byte) ([]byte, error) {
	k, err := pqPublic(pub, alg)
	if err != nil {
		return nil, err
	}
	return k.OpenKEMDEM(blob, shared)
}

// KEMSize is the size of the KEM's ciphertext in bytes, 0 when alg is no KEM.
func KEMSize(alg backend.Algorithm) int {
	if a, ok := pqc.Lookup(string(alg)); ok {
		return a.Info().CiphertextSize
	}
	return 0
}
