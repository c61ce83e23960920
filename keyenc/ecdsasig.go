package keyenc

import (
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxField is the size in bytes of a scalar of P-521, the largest supported curve.
const maxField = 66

// P1363ToDER turns r ‖ s (IEEE P1363, each size bytes big-endian: 32, 48 or 66) into a DER Ecdsa-Sig-Value (RFC 3279
// section 2.2.3). r and s must be positive; whether they are below the order is for verification to say.
func P1363ToDER(sig []byte, size int) ([]byte, error) {
	if size < 1 || size > maxField {
		return nil, ErrSize
	}
	if len(sig) != 2*size {
		return nil, ErrMalformed
	}
	// Each integer has at most one leading zero and two bytes of header, the sequence at most three.
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, 2*size+9))
	ok := true
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		ok = addPositive(b, sig[:size]) && addPositive(b, sig[size:])
	})
	if !ok {
		return nil, ErrMalformed
	}
	return b.Bytes()
}

func addPositive(b *cryptobyte.Builder, n []byte) bool {
	for len(n) > 0 && n[0] == 0 {
		n = n[1:]
	}
	if len(n) == 0 {
		return false
	}
	b.AddASN1(cbasn1.INTEGER, func(b *cryptobyte.Builder) {
		if n[0] >= 0x80 {
			b.AddUint8(0)
		}
		b.AddBytes(n)
	})
	return true
}

// DERToP1363 turns a DER Ecdsa-Sig-Value that fills der exactly into r ‖ s of size bytes each. Integers that are not
// minimally encoded, negative, zero or longer than size are refused.
func DERToP1363(der []byte, size int) ([]byte, error) {
	if size < 1 || size > maxField {
		return nil, ErrSize
	}
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, ErrMalformed
	}
	out := make([]byte, 2*size)
	if !readPositive(&seq, out[:size]) || !readPositive(&seq, out[size:]) || !seq.Empty() {
		return nil, ErrMalformed
	}
	return out, nil
}

// readPositive reads one DER INTEGER greater than zero, right-aligned into out.
func readPositive(in *cryptobyte.String, out []byte) bool {
	var n cryptobyte.String
	if !in.ReadASN1(&n, cbasn1.INTEGER) || len(n) == 0 || n[0] >= 0x80 {
		return false
	}
	if n[0] == 0 {
		if len(n) < 2 || n[1] < 0x80 { // zero itself, or a leading zero that is not needed (X.690 section 8.3.2)
			return false
		}
		n = n[1:]
	}
	if len(n) > len(out) {
		return false
	}
	copy(out[len(out)-len(n):], n)
	return true
}
