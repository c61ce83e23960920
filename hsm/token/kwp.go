package token

import (
	"crypto/subtle"
	"encoding/binary"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// kwpWay is how a token does AES-KWP (RFC 5649) of bytes.
type kwpWay uint8

const (
	kwpNone   kwpWay = iota
	kwpNative        // C_Encrypt with a KWP mechanism
	kwpECB           // RFC 5649 section 4 here, each AES block on the token
)

func (kwpWay) usages() []uint { return []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT} }

// maxKWP is the most material that is wrapped, in bytes (see backend.Wrapper).
const maxKWP = 4096

func (s *session) kwpWrap(key pkcs11.ObjectHandle, material []byte) ([]byte, error) {
	if len(material) == 0 || len(material) > maxKWP {
		return nil, fault.New(fault.BadSize, "the material to wrap must have 1 to 4,096 bytes")
	}
	size := keyenc.KWPSize(len(material))
	if s.d.kwp == kwpNative {
		out := make([]byte, size+16)
		n, err := s.d.lib.operate(encrypting, s.SessionHandle, s.d.kwpMech, nil, key, material, out)
		if err == nil && n != size {
			err = errLength
		}
		if err != nil {
			return nil, err
		}
		return out[:n], nil
	}
	out := make([]byte, size)
	copy(out[8:], material)
	aiv(out, len(material))
	err := s.d.lib.ecb(encrypting, s.SessionHandle, key, func(block func(*[16]byte) error) error { return wrapW(out, block) })
	if err != nil {
		clear(out)
		return nil, err
	}
	return out, nil
}

// aiv writes the alternative initial value (RFC 5649 section 3).
func aiv(out []byte, n int) {
	binary.BigEndian.PutUint32(out, 0xA65959A6)
	binary.BigEndian.PutUint32(out[4:], uint32(n))
}

// wrapW is the wrapping process of RFC 5649 section 4.1 on A ‖ R[1] ‖ … ‖ R[n], in place.
func wrapW(b []byte, block func(*[16]byte) error) error {
	var x [16]byte
	defer clear(x[:])
	n := len(b)/8 - 1
	if n == 1 {
		copy(x[:], b)
		err := block(&x)
		copy(b, x[:])
		return err
	}
	copy(x[:8], b)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(x[8:], b[8*i:8*i+8])
			if err := block(&x); err != nil {
				return err
			}
			binary.BigEndian.PutUint64(x[:], binary.BigEndian.Uint64(x[:])^uint64(n*j+i))
			copy(b[8*i:], x[8:])
		}
	}
	copy(b, x[:8])
	return nil
}

// unwrapW is the inverse (section 4.2).
func unwrapW(b []byte, block func(*[16]byte) error) error {
	var x [16]byte
	defer clear(x[:])
	n := len(b)/8 - 1
	if n == 1 {
		copy(x[:], b)
		err := block(&x)
		copy(b, x[:])
		return err
	}
	copy(x[:8], b)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(x[:], binary.BigEndian.Uint64(x[:])^uint64(n*j+i))
			copy(x[8:], b[8*i:8*i+8])
			if err := block(&x); err != nil {
				return err
			}
			copy(b[8*i:], x[8:])
		}
	}
	copy(b, x[:8])
	return nil
}

func (s *session) kwpUnwrap(key pkcs11.ObjectHandle, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 16 || len(wrapped)%8 != 0 || len(wrapped) > keyenc.KWPSize(maxKWP) {
		return nil, errDecrypt
	}
	if s.d.kwp == kwpNative {
		out := make([]byte, len(wrapped)+16)
		n, err := s.d.lib.operate(decrypting, s.SessionHandle, s.d.kwpMech, nil, key, wrapped, out)
		if err == nil && n > len(wrapped)-8 {
			err = errLength
		}
		if err != nil {
			clear(out)
			return nil, err
		}
		return out[:n], nil
	}
	b := append([]byte(nil), wrapped...)
	err := s.d.lib.ecb(decrypting, s.SessionHandle, key, func(block func(*[16]byte) error) error { return unwrapW(b, block) })
	if err != nil {
		clear(b)
		return nil, err
	}
	n, ok := checkAIV(b)
	if !ok {
		clear(b)
		return nil, errDecrypt
	}
	return b[8 : 8+n], nil
}

// checkAIV verifies the initial value, the length and the padding (RFC 5649 section 3) in a time that depends on the size alone.
func checkAIV(b []byte) (int, bool) {
	size := len(b) - 8
	n := int(binary.BigEndian.Uint32(b[4:]))
	good := subtle.ConstantTimeEq(int32(binary.BigEndian.Uint32(b)), int32(-0x59a6a65a))
	good &= subtle.ConstantTimeLessOrEq(size-7, n) & subtle.ConstantTimeLessOrEq(n, size)
	var pad byte
	for i := 1; i <= 7; i++ { // the last byte of the first semiblock can be no padding
		in := subtle.ConstantTimeLessOrEq(n+1, size-i+1)
		pad |= b[len(b)-i] & byte(-in)
	}
	good &= subtle.ConstantTimeByteEq(pad, 0)
	return n, good == 1
}
