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
	sealedMagic = "KWSB" // Keywright sealed blob
	// Version 1 is of generation 1 and does not say so; version 2 says its generation, which is 2 or more. So each blob has one form.
	sealedFirst      = 1
	sealedGeneration = 2
	sealedShared     = 4 + 1 + 2 + 1 // what the versions have in common: magic, version, sealer, size of the nonce
	generationSize   = 4
	sizeSize         = 4
)

// Sealed is a parsed sealed blob. Its slices alias the parsed input.
type Sealed struct {
	Sealer     uint16
	Generation uint32 // of the key, from 1; 0 is taken for 1 when a blob is made
	Nonce      []byte
	Ciphertext []byte // with its tag, never empty
}

var (
	errSealed = fault.New(fault.KeyMaterial, "the stored material is not a well-formed sealed blob")
	errOpen   = fault.New(fault.KeyMaterial, "the stored material does not open")
)

// Size is the exact size in bytes of the blob.
func (s *Sealed) Size() int {
	n := sealedShared + sizeSize + len(s.Nonce) + len(s.Ciphertext)
	if s.Generation > 1 {
		n += generationSize
	}
	return n
}

// Append appends the blob. A zero sealer, an empty ciphertext or sizes beyond the format's limits are faults of the program and panic.
func (s *Sealed) Append(dst []byte) []byte {
	dst = s.appendHeader(dst, len(s.Ciphertext))
	return append(dst, s.Ciphertext...)
}

// appendHeader appends everything before the ciphertext.
func (s *Sealed) appendHeader(dst []byte, ciphertextSize int) []byte {
	if ciphertextSize < 1 || uint64(ciphertextSize) > MaxBody {
		panic("envelope: sealed size out of range")
	}
	dst = s.appendBound(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(ciphertextSize))
	return append(dst, s.Nonce...)
}

func (s *Sealed) appendBound(dst []byte) []byte {
	if s.Sealer == 0 || len(s.Nonce) > MaxNonce {
		panic("envelope: sealed header out of range")
	}
	version := byte(sealedFirst)
	if s.Generation > 1 {
		version = sealedGeneration
	}
	dst = append(dst, sealedMagic...)
	dst = append(dst, version)
	dst = binary.BigEndian.AppendUint16(dst, s.Sealer)
	dst = append(dst, byte(len(s.Nonce)))
	if s.Generation > 1 {
		dst = binary.BigEndian.AppendUint32(dst, s.Generation)
	}
	return dst
}

// AppendAAD appends the additional authenticated data of the blob: its first bytes up to and with the nonce size, and the generation
// where the blob says it, then the binding. The binding must be of one unambiguous form for each use of the sealing key.
func (s *Sealed) AppendAAD(dst, binding []byte) []byte {
	return append(s.appendBound(dst), binding...)
}

// ParseSealed reads one sealed blob that fills b exactly, without allocating. Every failure is the same fault.KeyMaterial.
func ParseSealed(b []byte) (Sealed, error) {
	if len(b) <= sealedShared+sizeSize || string(b[:4]) != sealedMagic {
		return Sealed{}, errSealed
	}
	s := Sealed{Sealer: binary.BigEndian.Uint16(b[5:7]), Generation: 1}
	nonce, rest := int(b[7]), b[sealedShared:]
	switch b[4] {
	case sealedFirst:
	case sealedGeneration:
		s.Generation, rest = binary.BigEndian.Uint32(rest), rest[generationSize:]
		if s.Generation < 2 || len(rest) <= sizeSize {
			return Sealed{}, errSealed
		}
	default:
		return Sealed{}, errSealed
	}
	size := uint64(binary.BigEndian.Uint32(rest))
	rest = rest[sizeSize:]
	if s.Sealer == 0 || size == 0 || uint64(len(rest)) != uint64(nonce)+size {
		return Sealed{}, errSealed
	}
	s.Nonce, s.Ciphertext = rest[:nonce:nonce], rest[nonce:len(rest):len(rest)]
	return s, nil
}

// SealSoftware seals plaintext for SealerSoftware under a 32-byte key that has no generations, with a fresh random nonce. The error is a
// key of another size.
func SealSoftware(key, plaintext, binding []byte) ([]byte, error) {
	return SealGeneration(key, 1, plaintext, binding)
}

// SealGeneration is SealSoftware under the key of a generation, which the blob says, authenticated. Generations count from 1; 0 is an
// error.
func SealGeneration(key []byte, generation uint32, plaintext, binding []byte) ([]byte, error) {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce) // never fails (crypto/rand, since Go 1.24)
	return sealSoftware(key, generation, nonce, plaintext, binding)
}

func sealSoftware(key []byte, generation uint32, nonce, plaintext, binding []byte) ([]byte, error) {
	if generation == 0 {
		return nil, fault.New(fault.Internal, "a sealing key has no generation")
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	size := len(plaintext) + aead.Overhead()
	s := Sealed{Sealer: SealerSoftware, Generation: generation, Nonce: nonce}
	out := s.appendHeader(make([]byte, 0, s.Size()+size), size)
	return aead.Seal(out, nonce, plaintext, s.AppendAAD(nil, binding)), nil
}

// OpenSoftware opens what SealSoftware made. A malformed blob, another sealer, a generation other than the first, a wrong key and a wrong
// binding are all fault.KeyMaterial. The caller wipes the result.
func OpenSoftware(key, blob, binding []byte) (secret.Bytes, error) {
	return OpenGeneration(key, 1, blob, binding)
}

// OpenGeneration opens what SealGeneration made under the key of this generation; errors are those of OpenSoftware. Which generation a blob
// is of, ParseSealed tells.
func OpenGeneration(key []byte, generation uint32, blob, binding []byte) (secret.Bytes, error) {
	s, err := ParseSealed(blob)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	if s.Sealer != SealerSoftware || s.Generation != generation || len(s.Nonce) != aead.NonceSize() || len(s.Ciphertext) < aead.Overhead() {
		return nil, errOpen
	}
	out := make([]byte, 0, len(s.Ciphertext)-aead.Overhead())
	out, err = aead.Open(out, s.Nonce, s.Ciphertext, s.AppendAAD(nil, binding))
	if err != nil {
		return nil, errOpen // the cause says nothing more than this
	}
	return out, nil
}
