package keyenc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"math"
)

// kwpIV is the constant half of the alternative initial value (RFC 5649 section 3).
const kwpIV = 0xA65959A6

// KWP wraps key material with AES Key Wrap with Padding (RFC 5649, KWP-AE and KWP-AD of SP 800-38F section 6.3). It is
// safe for concurrent use. The expanded key inside it cannot be wiped; drop the reference.
type KWP struct{ block cipher.Block }

// NewKWP takes a key-encryption key of 16, 24 or 32 bytes, which the caller may wipe afterwards.
func NewKWP(kek []byte) (*KWP, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, ErrSize
	}
	return &KWP{block}, nil
}

// KWPWrap is NewKWP and Wrap.
func KWPWrap(kek, material []byte) ([]byte, error) {
	w, err := NewKWP(kek)
	if err != nil {
		return nil, err
	}
	return w.Wrap(material)
}

// KWPUnwrap is NewKWP and Unwrap.
func KWPUnwrap(kek, wrapped []byte) ([]byte, error) {
	w, err := NewKWP(kek)
	if err != nil {
		return nil, err
	}
	return w.Unwrap(wrapped)
}

// KWPSize is the size in bytes of n bytes of material when wrapped.
func KWPSize(n int) int { return (n+7)/8*8 + 8 }

// Wrap gives the wrapped material, KWPSize bytes. Material must have 1 to 2^32-1 bytes, else ErrSize.
func (w *KWP) Wrap(material []byte) ([]byte, error) {
	if len(material) == 0 || uint64(len(material)) > math.MaxUint32 {
		return nil, ErrSize
	}
	out := make([]byte, KWPSize(len(material)))
	binary.BigEndian.PutUint32(out, kwpIV)
	binary.BigEndian.PutUint32(out[4:], uint32(len(material)))
	copy(out[8:], material)
	if len(out) == aes.BlockSize {
		w.block.Encrypt(out, out) // RFC 5649 section 4.1: up to 8 bytes are one block of ECB
		return out, nil
	}
	w.wrap(out)
	return out, nil
}

// Unwrap gives the material. Everything that is wrong with wrapped, its size included, is ErrUnwrap, and takes a time that
// depends on the size alone. The caller wipes the result.
func (w *KWP) Unwrap(wrapped []byte) ([]byte, error) {
	if len(wrapped) < aes.BlockSize || len(wrapped)%8 != 0 || uint64(len(wrapped)) > math.MaxUint32 {
		return nil, ErrUnwrap
	}
	out := make([]byte, len(wrapped))
	copy(out, wrapped)
	if len(out) == aes.BlockSize {
		w.block.Decrypt(out, out)
	} else {
		w.unwrap(out)
	}
	// Constant, length and padding are all looked at, whatever the first of them says (RFC 5649 section 3).
	iv, size := binary.BigEndian.Uint32(out), binary.BigEndian.Uint32(out[4:])
	padded := len(out) - 8
	ok := subtle.ConstantTimeEq(int32(iv^kwpIV), 0)
	pad := uint64(padded) - uint64(size) // wraps around when the length is too large
	ok &= subtle.ConstantTimeEq(int32(pad>>3), 0) & subtle.ConstantTimeEq(int32(pad>>35), 0)
	var bad byte
	for i := range 8 {
		// Byte i from the end is padding when i < pad.
		inPad := byte(0) - byte(subtle.ConstantTimeLessOrEq(i+1, int(pad&7)))
		bad |= out[len(out)-1-i] & inPad
	}
	ok &= subtle.ConstantTimeByteEq(bad, 0)
	if ok != 1 {
		clear(out)
		return nil, ErrUnwrap
	}
	return out[8 : 8+int(size) : 8+int(size)], nil
}

// wrap is W of SP 800-38F section 6.1 in place: b is A ‖ R1 … Rn, n at least 2.
func (w *KWP) wrap(b []byte) {
	var x [aes.BlockSize]byte
	copy(x[:8], b)
	t := uint64(0)
	for range 6 {
		for i := 8; i < len(b); i += 8 {
			copy(x[8:], b[i:i+8])
			w.block.Encrypt(x[:], x[:])
			t++
			binary.BigEndian.PutUint64(x[:], binary.BigEndian.Uint64(x[:])^t)
			copy(b[i:], x[8:])
		}
	}
	copy(b, x[:8])
	clear(x[:])
}

// unwrap is the inverse of W.
func (w *KWP) unwrap(b []byte) {
	var x [aes.BlockSize]byte
	copy(x[:8], b)
	t := uint64(6 * (len(b)/8 - 1))
	for range 6 {
		for i := len(b) - 8; i >= 8; i -= 8 {
			binary.BigEndian.PutUint64(x[:], binary.BigEndian.Uint64(x[:])^t)
			t--
			copy(x[8:], b[i:i+8])
			w.block.Decrypt(x[:], x[:])
			copy(b[i:], x[8:])
		}
	}
	copy(b, x[:8])
	clear(x[:])
}
