// Package filecrypt encrypts files of any size under a data key, in constant memory. The format is described in
// docs/formats/file.md: a header with the encrypted data key, then segments of AES-256-GCM by the STREAM construction, so
// that truncation, reordering, repetition and extension are all detected.
//
// It trusts the data key to be fresh and secret, and nothing about the file: every byte of a header is bound into the key
// derivation, and no byte of a segment is released before the segment is authenticated. A file that was cut is noticed
// only at its end: whoever reads from a Reader must not act on the plaintext before io.EOF, or write it where it can be
// taken back, as Create does.
package filecrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes of the format, in bytes.
const (
	DataKeySize        = 32
	MaxEncryptedKey    = 4096
	DefaultSegmentSize = 64 << 10
	MinSegmentSize     = 1 << minSegmentLog
	MaxSegmentSize     = 1 << maxSegmentLog

	magic         = "KWFE" // Keywright file encryption
	formatVersion = 1
	saltSize      = 32
	fixedSize     = 4 + 1 + 1 + saltSize + 2
	minSegmentLog = 10
	maxSegmentLog = 24

	keySize    = 32
	prefixSize = 7
	nonceSize  = prefixSize + 4 + 1
	tagSize    = 16

	maxSegments = 1 << 32 // the counter has 32 bits: 256 TiB in segments of 64 KiB
	infoLabel   = "keywright/file/v1"
)

var (
	// ErrFormat is wrapped when the input is not an encrypted file, or one of a version that this program does not know.
	ErrFormat = errors.New("not an encrypted file of a known version")
	// ErrDamaged is given when the content does not open: changed, cut, extended, or not under this data key. Which of
	// them is not said.
	ErrDamaged = errors.New("the encrypted file is damaged, incomplete, or not under this key")
	// ErrTooLarge is given for a plaintext that would need more than 2^32 segments.
	ErrTooLarge = errors.New("the file is too large for its segment size")
)

// Header is what stands in clear at the start of a file.
type Header struct {
	SegmentSize  int    // of plaintext, in bytes: a power of two from MinSegmentSize to MaxSegmentSize
	EncryptedKey []byte // the data key, encrypted by the service, 1 to MaxEncryptedKey bytes

	salt [saltSize]byte
	raw  []byte // the header as it stands in the file
}

// Is reports whether b, the first bytes of a file, are those of an encrypted file of any version. It needs 4 bytes.
func Is(b []byte) bool { return len(b) >= len(magic) && string(b[:len(magic)]) == magic }

// ReadHeader reads the header and leaves r at the first segment. Errors: ErrFormat, or those of r.
func ReadHeader(r io.Reader) (*Header, error) {
	var fixed [fixedSize]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, short(err)
	}
	if !Is(fixed[:]) || fixed[4] != formatVersion {
		return nil, ErrFormat
	}
	log := fixed[5]
	n := int(binary.BigEndian.Uint16(fixed[fixedSize-2:]))
	if log < minSegmentLog || log > maxSegmentLog || n < 1 || n > MaxEncryptedKey {
		return nil, fmt.Errorf("%w: malformed header", ErrFormat)
	}
	h := &Header{SegmentSize: 1 << log, raw: make([]byte, fixedSize+n)}
	copy(h.raw, fixed[:])
	copy(h.salt[:], fixed[6:6+saltSize])
	if _, err := io.ReadFull(r, h.raw[fixedSize:]); err != nil {
		return nil, short(err)
	}
	h.EncryptedKey = h.raw[fixedSize:len(h.raw):len(h.raw)]
	return h, nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends within its header", ErrFormat)
	}
	return fmt.Errorf("reading the header: %w", err)
}

// newHeader makes a header with a fresh salt.
func newHeader(segmentSize int, encryptedKey []byte, random io.Reader) (*Header, error) {
	log := 0
	for 1<<log < segmentSize {
		log++
	}
	if 1<<log != segmentSize || log < minSegmentLog || log > maxSegmentLog {
		return nil, errors.New("filecrypt: the segment size must be a power of two from 1 KiB to 16 MiB")
	}
	if len(encryptedKey) < 1 || len(encryptedKey) > MaxEncryptedKey {
		return nil, errors.New("filecrypt: the encrypted data key must have 1 to 4096 bytes")
	}
	h := &Header{SegmentSize: segmentSize}
	if _, err := io.ReadFull(random, h.salt[:]); err != nil {
		return nil, fmt.Errorf("filecrypt: making a salt: %w", err)
	}
	raw := make([]byte, 0, fixedSize+len(encryptedKey))
	raw = append(raw, magic...)
	raw = append(raw, formatVersion, byte(log))
	raw = append(raw, h.salt[:]...)
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(encryptedKey)))
	h.raw = append(raw, encryptedKey...)
	h.EncryptedKey = h.raw[fixedSize:len(h.raw):len(h.raw)]
	return h, nil
}

// stream is the state of both directions: the key, and the nonce of the next segment (prefix ‖ counter ‖ last, as in
// Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
// 2015, section 7).
type stream struct {
	aead    cipher.AEAD
	nonce   [nonceSize]byte
	counter uint64
}

// newStream derives the file's key and nonce prefix with HKDF-SHA-256 (RFC 5869) from the data key, with the header's
// salt, and the whole header as info: a header that was changed gives another key, and no segment opens.
func newStream(h *Header, dataKey []byte) (*stream, error) {
	if len(dataKey) != DataKeySize {
		return nil, errors.New("filecrypt: the data key must have 32 bytes")
	}
	okm, err := hkdf.Key(sha256.New, dataKey, h.salt[:], infoLabel+string(h.raw), keySize+prefixSize)
	if err != nil {
		return nil, fmt.Errorf("filecrypt: deriving the file's key: %w", err)
	}
	defer clear(okm)
	block, err := aes.NewCipher(okm[:keySize])
	if err != nil {
		return nil, fmt.Errorf("filecrypt: %w", err)
	}
	s := &stream{}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return nil, fmt.Errorf("filecrypt: %w", err)
	}
	copy(s.nonce[:], okm[keySize:])
	return s, nil
}

// next sets the nonce of the next segment.
func (s *stream) next(last bool) ([]byte, error) {
	if s.counter == maxSegments {
		return nil, ErrTooLarge
	}
	binary.BigEndian.PutUint32(s.nonce[prefixSize:], uint32(s.counter))
	s.counter++
	s.nonce[nonceSize-1] = 0
	if last {
		s.nonce[nonceSize-1] = 1
	}
	return s.nonce[:], nil
}

// Options of a Writer. The zero value is the default.
type Options struct {
	SegmentSize int       // in bytes; 0: DefaultSegmentSize
	Rand        io.Reader // source of the salt; nil: crypto/rand
}

func (o Options) withDefaults() Options {
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o
}
