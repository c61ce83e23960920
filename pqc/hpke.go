package pqc

import (
	"crypto/ecdh"
	"crypto/rand"

	stdhpke "crypto/hpke"

	"github.com/cloudflare/circl/hpke"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// HPKEAEAD is the number of an AEAD in RFC 9180 section 7.3.
type HPKEAEAD uint16

const (
	HPKEAES256GCM        HPKEAEAD = 0x0002
	HPKEChaCha20Poly1305 HPKEAEAD = 0x0003
)

// HPKE is a cipher suite in base mode (RFC 9180 section 5.1.1): a KEM of the table, HKDF-SHA256, and an AEAD.
type HPKE struct {
	alg   *Algorithm
	id    hpke.KEM
	aead  HPKEAEAD
	suite hpke.Suite
}

// NewHPKE makes the suite of a KEM: X-Wing (number 0x647a) or one of the DH KEMs. Others are fault.BadAlgorithm.
func NewHPKE(a *Algorithm, aead HPKEAEAD) (*HPKE, error) {
	id, ok := map[string]hpke.KEM{
		XWing:       hpke.KEM_XWING,
		DHKEMP256:   hpke.KEM_P256_HKDF_SHA256,
		DHKEMP384:   hpke.KEM_P384_HKDF_SHA384,
		DHKEMP521:   hpke.KEM_P521_HKDF_SHA512,
		DHKEMX25519: hpke.KEM_X25519_HKDF_SHA256,
		DHKEMX448:   hpke.KEM_X448_HKDF_SHA512,
	}[a.info.Name]
	if !ok || aead != HPKEAES256GCM && aead != HPKEChaCha20Poly1305 {
		return nil, fault.New(fault.BadAlgorithm, "there is no HPKE suite of this KEM and AEAD")
	}
	return &HPKE{a, id, aead, hpke.NewSuite(id, hpke.KDF_HKDF_SHA256, hpke.AEAD(aead))}, nil
}

// IDs are the numbers of KEM, KDF and AEAD (RFC 9180 section 7).
func (h *HPKE) IDs() (kem, kdf, aead uint16) {
	return uint16(h.id), uint16(hpke.KDF_HKDF_SHA256), uint16(h.aead)
}

// HPKEOverhead is what the AEADs add to a plaintext, in bytes.
const HPKEOverhead = 16

// Seal encrypts once to a public key (RFC 9180 section 6.1). enc has CiphertextSize bytes of the KEM; ciphertext is HPKEOverhead longer
// than plaintext. info names the use and both sides know it, aad is authenticated; either may be nil. fault.KeyMaterial for a key of
// another algorithm.
func (h *HPKE) Seal(to *PublicKey, info, aad, plaintext []byte) (enc, ciphertext []byte, err error) {
	k, ok := to.impl.(circlKEMPublic)
	if !ok || to.alg.info.Name != h.alg.info.Name {
		return nil, nil, errSuite
	}
	sender, err := h.suite.NewSender(k.key, info)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, "the message could not be encrypted", err)
	}
	enc, sealer, err := sender.Setup(rand.Reader)
	if err != nil {
		return nil, nil, errPublic // a key of low order
	}
	ciphertext, err = sealer.Seal(plaintext, aad)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, "the message could not be encrypted", err)
	}
	return enc, ciphertext, nil
}

var errSuite = fault.New(fault.KeyMaterial, "the key is not one of this HPKE suite")

// Open decrypts what Seal gave. Every failure of the data is the same fault.DecryptionFailed; fault.KeyMaterial for a key of another
// algorithm. The caller wipes the result.
func (h *HPKE) Open(with *PrivateKey, enc, info, aad, ciphertext []byte) (secret.Bytes, error) {
	if with.alg.info.Name != h.alg.info.Name {
		return nil, errSuite
	}
	impl, err := with.acquire()
	if err != nil {
		return nil, err
	}
	defer with.release()
	k, ok := impl.(*circlKEMPrivate)
	if !ok {
		return nil, errSuite
	}
	if len(enc) != h.alg.info.CiphertextSize || len(ciphertext) < HPKEOverhead {
		return nil, errCiphertext
	}
	receiver, err := h.suite.NewReceiver(k.key, info)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the message could not be decrypted", err)
	}
	opener, err := receiver.Setup(enc)
	if err != nil {
		return nil, errCiphertext
	}
	plaintext, err := opener.Open(ciphertext, aad)
	if err != nil {
		return nil, errCiphertext
	}
	return plaintext, nil
}

// OpenExchanger is Open for a private key that somebody else holds, such as a device, and that does nothing but the curve's agreement:
// P-256, P-384, P-521 and X25519. fault.KeyMaterial for another curve than the suite's. Failures of the data and of the device cannot
// be told apart here: an exchanger that has more to say keeps its error.
func (h *HPKE) OpenExchanger(with ecdh.KeyExchanger, enc, info, aad, ciphertext []byte) (secret.Bytes, error) {
	k, err := stdhpke.NewDHKEMPrivateKey(with)
	if err != nil || k.KEM().ID() != uint16(h.id) {
		return nil, errSuite
	}
	if len(enc) != h.alg.info.CiphertextSize || len(ciphertext) < HPKEOverhead {
		return nil, errCiphertext
	}
	aead := stdhpke.AES256GCM()
	if h.aead == HPKEChaCha20Poly1305 {
		aead = stdhpke.ChaCha20Poly1305()
	}
	r, err := stdhpke.NewRecipient(enc, k, stdhpke.HKDFSHA256(), aead, info)
	if err != nil {
		return nil, errCiphertext
	}
	plaintext, err := r.Open(aad, ciphertext)
	if err != nil {
		return nil, errCiphertext
	}
	return plaintext, nil
}
