package pqc

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

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
	id, ok := hpkeKEM(a.info.Name)
	if !ok || aead != HPKEAES256GCM && aead != HPKEChaCha20Poly1305 {
		return nil, fault.New(fault.BadAlgorithm, "there is no HPKE suite of this KEM and AEAD")
	}
	return &HPKE{a, id, aead, hpke.NewSuite(id, hpke.KDF_HKDF_SHA256, hpke.AEAD(aead))}, nil
}

func hpkeKEM(name string) (id hpke.KEM, ok bool) {
	switch name {
	case XWing:
		return hpke.KEM_XWING, true
	case DHKEMP256:
		return hpke.KEM_P256_HKDF_SHA256, true
	case DHKEMP384:
		return hpke.KEM_P384_HKDF_SHA384, true
	case DHKEMP521:
		return hpke.KEM_P521_HKDF_SHA512, true
	case DHKEMX25519:
		return hpke.KEM_X25519_HKDF_SHA256, true
	case DHKEMX448:
		return hpke.KEM_X448_HKDF_SHA512, true
	}
	return 0, false
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
	impl, err := to.expanded()
	if err != nil {
		return nil, nil, err
	}
	k, ok := impl.(circlKEMPublic)
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
	shared, err := with.Decapsulate(enc)
	if err != nil {
		return nil, err
	}
	defer shared.Wipe()
	return h.OpenShared(shared, info, aad, ciphertext)
}

// OpenShared is Open for whoever has decapsulated enc already, in a device for example. The caller wipes shared, of SharedKeySize bytes.
func (h *HPKE) OpenShared(shared secret.Bytes, info, aad, ciphertext []byte) (secret.Bytes, error) {
	if len(shared) != h.alg.info.SharedKeySize || len(ciphertext) < HPKEOverhead {
		return nil, errCiphertext
	}
	aead, nonce, err := h.schedule(shared, info)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the message could not be decrypted", err)
	}
	plaintext, err := aead.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, errCiphertext
	}
	return plaintext, nil
}

// schedule is KeySchedule in base mode (RFC 9180 section 5.1), for the first message: its nonce is base_nonce (section 5.2).
func (h *HPKE) schedule(shared secret.Bytes, info []byte) (cipher.AEAD, []byte, error) {
	var suite [10]byte
	copy(suite[:], "HPKE")
	binary.BigEndian.PutUint16(suite[4:], uint16(h.id))
	binary.BigEndian.PutUint16(suite[6:], uint16(hpke.KDF_HKDF_SHA256))
	binary.BigEndian.PutUint16(suite[8:], uint16(h.aead))
	extract := func(salt []byte, label string, ikm []byte) ([]byte, error) {
		labeled := append(append(append([]byte("HPKE-v1"), suite[:]...), label...), ikm...)
		return hkdf.Extract(sha256.New, labeled, salt)
	}
	pskID, err := extract(nil, "psk_id_hash", nil)
	if err != nil {
		return nil, nil, err
	}
	infoHash, err := extract(nil, "info_hash", info)
	if err != nil {
		return nil, nil, err
	}
	// LabeledExtract(shared_secret, "secret", psk) with the default psk "", so nothing secret is in the labeled input.
	prk, err := extract(shared, "secret", nil)
	if err != nil {
		return nil, nil, err
	}
	defer clear(prk)
	context := append(append([]byte{0}, pskID...), infoHash...) // mode_base
	expand := func(label string, size int) ([]byte, error) {
		labeled := binary.BigEndian.AppendUint16(nil, uint16(size))
		labeled = append(append(append(append(labeled, "HPKE-v1"...), suite[:]...), label...), context...)
		return hkdf.Expand(sha256.New, prk, string(labeled), size)
	}
	key, err := expand("key", 32) // Nk of both AEADs
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	nonce, err := expand("base_nonce", 12)
	if err != nil {
		return nil, nil, err
	}
	aead, err := hpke.AEAD(h.aead).New(key)
	return aead, nonce, err
}
