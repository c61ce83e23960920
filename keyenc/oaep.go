package keyenc

import (
	"crypto"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// ErrOAEP is the one answer for everything that does not decode.
var ErrOAEP = errors.New("keyenc: the OAEP encoding is not valid")

// DecodeOAEP is EME-OAEP decoding (RFC 8017 section 7.1.2 step 3, MGF1 with the same hash) of what a device's bare RSA private operation gave, for
// devices that take no label or not this hash. em is as long as the modulus in bytes and is overwritten; the result is a copy. Neither answer
// nor time tells which of its conditions failed: the difference would decrypt ciphertexts (Manger, CRYPTO 2001).
func DecodeOAEP(em []byte, h crypto.Hash, label []byte) ([]byte, error) {
	if !OAEPHash(h) || len(em) < 2*h.Size()+2 {
		return nil, ErrOAEP
	}
	hLen := h.Size()
	f := h.New()
	f.Write(label)
	want := f.Sum(nil)

	seed, db := em[1:1+hLen], em[1+hLen:]
	MaskMGF1(seed, h, db)
	MaskMGF1(db, h, seed)

	good := subtle.ConstantTimeByteEq(em[0], 0)
	good &= subtle.ConstantTimeCompare(db[:hLen], want)
	// The first byte after the zeros must be 1; index remembers it, looking goes to 0 there and stays.
	looking, index := 1, 0
	rest := db[hLen:]
	for i, b := range rest {
		zero, one := subtle.ConstantTimeByteEq(b, 0), subtle.ConstantTimeByteEq(b, 1)
		index = subtle.ConstantTimeSelect(looking&one, i, index)
		good &= subtle.ConstantTimeSelect(looking, zero|one, 1)
		looking &= 1 ^ one
	}
	if good&(1^looking) != 1 {
		return nil, ErrOAEP
	}
	return append([]byte{}, rest[index+1:]...), nil
}

// MaskMGF1 masks out with MGF1 of seed (RFC 8017 appendix B.2.1).
func MaskMGF1(out []byte, h crypto.Hash, seed []byte) {
	var counter [4]byte
	f := h.New()
	var sum []byte
	for n := uint32(0); len(out) > 0; n++ {
		binary.BigEndian.PutUint32(counter[:], n)
		f.Reset()
		f.Write(seed)
		f.Write(counter[:])
		sum = f.Sum(sum[:0])
		out = out[subtle.XORBytes(out, out, sum):]
	}
	clear(sum)
}
