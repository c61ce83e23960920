package envelope

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Sealers: who can open a sealed blob, and how. Numbers are never reused.
const (
	// SealerSoftware is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under a 32-byte key derived from the software root:
	// 24-byte random nonces need no counter to be safe for any number of blobs.
	SealerSoftware uint16 = 1
)

const (
	sealedMagic   = "KWSB" // Keywright sealed blob
	sealedVersion = 1
	sealedFixed   = 4 + 1 + 2 + 1 + 4
)

// Sealed is a parsed sealed blob. Its slices alias the parsed input.
type Sealed struct {
	Sealer     uint16
	Nonce      []byte
	Ciphertext []byte // with its tag, never empty
}

var (
	errSealed = fault.New(fault.KeyMaterial, "the stored material is not a well-formed sealed blob")
	errOpen   = fault.New(fault.KeyMaterial, "the stored material does not open")
)

// SealedSize is the exact size in bytes of a sealed blob; ciphertextSize counts the tag.
func SealedSize(nonceSize, ciphertextSize int) int { return sealedFixed + nonceSize + ciphertextSize }

// AppendSealed appends a sealed blob. A zero sealer, an empty ciphertext or sizes beyond the format's limits are faults
// of the program and panic.
func AppendSealed(dst []byte, sealer uint16, nonce, ciphertext []byte) []byte {
	dst = appendSealedHeader(dst, sealer, len(nonce), len(ciphertext))
	dst = append(dst, nonce...)
	return append(dst, ciphertext...)
}

func appendSealedHeader(dst []byte, sealer uint16, nonceSize, ciphertextSize int) []byte {
	if ciphertextSize < 1 || uint64(ciphertextSize) > MaxBody {
		panic("envelope: sealed size out of range")
	}
	dst = appendSealedBound(dst, sealer, nonceSize)
	return binary.BigEndian.AppendUint32(dst, uint32(ciphertextSize))
}

func appendSealedBound(dst []byte, sealer uint16, nonceSize int) []byte {
	if sealer == 0 || nonceSize < 0 || nonceSize > MaxNonce {
		panic("envelope: sealed header out of range")
	}
	dst = append(dst, sealedMagic...)
	dst = append(dst, sealedVersion)
	dst = binary.BigEndian.AppendUint16(dst, sealer)
	return append(dst, byte(nonceSize))
}

// AppendSealedAAD appends the additional authenticated data of a sealed blob: its first bytes up to and with the nonce
// size, then the binding. The binding must be of one unambiguous form for each use of the sealing key.
func AppendSealedAAD(dst []byte, sealer uint16, nonceSize int, binding []byte) []byte {
	return append(appendSealedBound(dst, sealer, nonceSize), binding...)
}

// ParseSealed reads one sealed blob that fills b exactly, without allocating. Every failure is the same fault.KeyMaterial.
func ParseSealed(b []byte) (Sealed, error) {
	if len(b) <= sealedFixed || string(b[:4]) != sealedMagic || b[4] != sealedVersion {
		return Sealed{}, errSealed
	}
	s := Sealed{Sealer: binary.BigEndian.Uint16(b[5:7])}
	nonce, size, rest := int(b[7]), uint64(binary.BigEndian.Uint32(b[8:12])), b[sealedFixed:]
	if s.Sealer == 0 || size == 0 || uint64(len(rest)) != uint64(nonce)+size {
		return Sealed{}, errSealed
	}
	s.Nonce, s.Ciphertext = rest[:nonce:nonce], rest[nonce:len(rest):len(rest)]
	return s, nil
}

// SealSoftware seals plaintext for SealerSoftware under a 32-byte key with a fresh random nonce. The error is a key of
// another size.
func SealSoftware(key, plaintext, binding []byte) ([]byte, error) {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce) // never fails (crypto/rand, since Go 1.24)
	return sealSoftware(key, nonce, plaintext, binding)
}

func sealSoftware(key, nonce, plaintext, binding []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	size := len(plaintext) + aead.Overhead()
	out := make([]byte, 0, SealedSize(len(nonce), size))
	out = appendSealedHeader(out, SealerSoftware, len(nonce), size)
	out = append(out, nonce...)
	return aead.Seal(out, nonce, plaintext, AppendSealedAAD(nil, SealerSoftware, len(nonce), binding)), nil
}

// OpenSoftware opens what SealSoftware made. A malformed blob, another sealer, a wrong key and a wrong binding are all
// fault.KeyMaterial. The caller wipes the result.
func OpenSoftware(key, blob, binding []byte) (secret.Bytes, error) {
	s, err := ParseSealed(blob)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	if s.Sealer != SealerSoftware || len(s.Nonce) != aead.NonceSize() || len(s.Ciphertext) < aead.Overhead() {
		return nil, errOpen
	}
	out := make([]byte, 0, len(s.Ciphertext)-aead.Overhead())
	out, err = aead.Open(out, s.Nonce, s.Ciphertext, AppendSealedAAD(nil, s.Sealer, len(s.Nonce), binding))
	if err != nil {
		return nil, errOpen // the cause says nothing more than this
	}
	return out, nil
}
