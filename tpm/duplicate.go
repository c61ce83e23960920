package tpm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/secret"
)

// sensitiveArea writes TPMT_SENSITIVE (part 2, 12.3.2.4) into memory of its own and no other, so that it can be wiped.
func sensitiveArea(kind tpm2.TPMAlgID, auth secret.Bytes, seed, material []byte) secret.Bytes {
	b := make(secret.Bytes, 0, 2+2+len(auth)+2+len(seed)+2+len(material))
	b = binary.BigEndian.AppendUint16(b, uint16(kind))
	for _, part := range [...][]byte{auth, seed, material} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part))) //nolint:gosec // keys of some hundred bytes
		b = append(b, part...)
	}
	return b
}

// duplicate wraps TPMT_SENSITIVE of an object for the parent that holds key (part 1, 23.3.2.3: outer wrapper, no inner one) as tpm2.CreateDuplicate does, which
// leaves a copy of it in memory.
func duplicate(key tpm2.LabeledEncapsulationKey, name []byte, sensitive secret.Bytes) (wrapped, encryptedSeed []byte, err error) {
	hash, err := key.NameAlg().Hash()
	if err != nil {
		return nil, nil, err
	}
	sym := key.SymmetricParameters()
	mode, err := sym.Mode.AES()
	if err != nil || sym.Algorithm != tpm2.TPMAlgAES || *mode != tpm2.TPMAlgCFB {
		return nil, nil, errors.Join(errors.New("the parent does not protect its children by AES-CFB"), err)
	}
	bits, err := sym.KeyBits.AES()
	if err != nil {
		return nil, nil, err
	}
	seed, encryptedSeed, err := key.Encapsulate(rand.Reader, "DUPLICATE")
	if err != nil {
		return nil, nil, fmt.Errorf("encrypting a seed to the parent: %w", err)
	}
	defer clear(seed)

	// HMAC, as TPM2B_DIGEST, before TPM2B_SENSITIVE, which is encrypted in its place.
	out := make([]byte, 2+hash.Size()+2+len(sensitive))
	inner := out[2+hash.Size():]
	binary.BigEndian.PutUint16(inner, uint16(len(sensitive))) //nolint:gosec // some hundred bytes
	copy(inner[2:], sensitive)
	storage := tpm2.KDFa(hash, seed, "STORAGE", name, nil, int(*bits))
	defer clear(storage)
	block, err := aes.NewCipher(storage)
	if err != nil {
		clear(inner)
		return nil, nil, err
	}
	cipher.NewCFBEncrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(inner, inner) //nolint:staticcheck,gosec // each key encrypts once, with IV 0 (part 1, 23.3.2.3); the HMAC authenticates it
	integrity := tpm2.KDFa(hash, seed, "INTEGRITY", nil, nil, 8*hash.Size())
	defer clear(integrity)
	mac := hmac.New(hash.New, integrity)
	mac.Write(inner) // never fails (hash.Hash)
	mac.Write(name)
	binary.BigEndian.PutUint16(out, uint16(hash.Size())) //nolint:gosec // 32 or 48
	mac.Sum(out[2:2])
	return out, encryptedSeed, nil
}
