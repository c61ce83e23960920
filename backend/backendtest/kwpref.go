package backendtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// kwpWrap is RFC 5649 section 4.1, written for clearness alone: the judge of backends that wrap.
func kwpWrap(key, material []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	padded := append(bytes.Clone(material), make([]byte, (8-len(material)%8)%8)...)
	return kwpBlocks(block, kwpHeader(uint32(len(material))), padded), nil
}

// kwpHeader is the alternative initial value of section 3.
func kwpHeader(length uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0xA6, 0x59, 0x59, 0xA6}, length)
}

// kwpBlocks is the encryption of section 4.1 with whatever header and padding it is given.
func kwpBlocks(block cipher.Block, a, padded []byte) []byte {
	if len(padded) == 8 {
		out := append(a, padded...)
		block.Encrypt(out, out)
		return out
	}
	n := len(padded) / 8
	r := append(make([]byte, 8), padded...) // R[1..n]; R[0] is A's place in the result
	var b [16]byte
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[:8], a)
			copy(b[8:], r[8*i:])
			block.Encrypt(b[:], b[:])
			t := uint64(n*j + i)
			binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(b[:8])^t)
			copy(r[8*i:], b[8:])
		}
	}
	copy(r, a)
	return r
}

// kwpMalformed gives wrapped data that decrypts under key, but is not well-formed inside (section 3: the checks of an unwrap).
func kwpMalformed(key []byte) (map[string][]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, n := range []int{1, 3} { // one block, and several
		size := 8 * n
		for what, length := range map[string]int{"zero": 0, "a block short": size - 8, "a byte long": size + 1, "huge": math.MaxUint32} {
			out[fmt.Sprintf("%d blocks, length %s", n, what)] = kwpBlocks(block, kwpHeader(uint32(length)), make([]byte, size))
		}
		padded := make([]byte, size)
		padded[size-1] = 1
		out[fmt.Sprintf("%d blocks, padding not zero", n)] = kwpBlocks(block, kwpHeader(uint32(size-3)), padded)
		header := kwpHeader(uint32(size))
		header[3] ^= 1
		out[fmt.Sprintf("%d blocks, other constant", n)] = kwpBlocks(block, header, make([]byte, size))
		rfc3394 := bytes.Repeat([]byte{0xA6}, 8)
		out[fmt.Sprintf("%d blocks, header of RFC 3394", n)] = kwpBlocks(block, rfc3394, make([]byte, size))
	}
	return out, nil
}

var errKWP = errors.New("does not unwrap")

// kwpUnwrap is RFC 5649 section 4.2.
func kwpUnwrap(key, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if len(wrapped) < 16 || len(wrapped)%8 != 0 {
		return nil, errKWP
	}
	n := len(wrapped)/8 - 1
	r := bytes.Clone(wrapped)
	if n == 1 {
		block.Decrypt(r, r)
	} else {
		var b [16]byte
		for j := 5; j >= 0; j-- {
			for i := n; i >= 1; i-- {
				binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(r)^uint64(n*j+i))
				copy(b[8:], r[8*i:])
				block.Decrypt(b[:], b[:])
				copy(r, b[:8])
				copy(r[8*i:], b[8:])
			}
		}
	}
	mli := int(binary.BigEndian.Uint32(r[4:]))
	if !bytes.Equal(r[:4], []byte{0xA6, 0x59, 0x59, 0xA6}) || mli <= 8*(n-1) || mli > 8*n {
		return nil, errKWP
	}
	for _, pad := range r[8+mli:] {
		if pad != 0 {
			return nil, errKWP
		}
	}
	return r[8 : 8+mli], nil
}
