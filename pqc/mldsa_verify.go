package pqc

import (
	"bytes"
	"crypto/sha3"
)

// This file verifies an ML-DSA signature over a message representative (FIPS 204 algorithm 8 without its line 7), which none of the
// modules that this package uses gives access to. Everything in it is public, so it is plain rather than in constant time, and it
// never signs. Its judges are NIST's vectors and circl's verification, which it must agree with on every signature.

const (
	mldsaN = 256
	mldsaQ = 8380417
	mldsaD = 13
)

// mldsaNumbers is a row of FIPS 204 table 1.
type mldsaNumbers struct {
	k, l, tau, omega int
	gamma1Bits       uint   // γ₁ = 2^gamma1Bits
	gamma2           uint32 // (q-1)/88 or (q-1)/32
	beta             int32  // τη
	lambda           int    // collision strength of c̃, bits
}

var (
	mldsaNumbers44 = mldsaNumbers{k: 4, l: 4, tau: 39, omega: 80, gamma1Bits: 17, gamma2: (mldsaQ - 1) / 88, beta: 39 * 2, lambda: 128}
	mldsaNumbers65 = mldsaNumbers{k: 6, l: 5, tau: 49, omega: 55, gamma1Bits: 19, gamma2: (mldsaQ - 1) / 32, beta: 49 * 4, lambda: 192}
	mldsaNumbers87 = mldsaNumbers{k: 8, l: 7, tau: 60, omega: 75, gamma1Bits: 19, gamma2: (mldsaQ - 1) / 32, beta: 60 * 2, lambda: 256}
)

type mldsaPoly [mldsaN]uint32 // coefficients in [0, q)

// verify is FIPS 204 algorithm 8 from line 8 on. public has the parameter set's size, signature too.
func (n *mldsaNumbers) verify(public, mu, signature []byte) bool {
	cSize, zSize := n.lambda/4, mldsaN*int(n.gamma1Bits+1)/8
	if len(public) != 32+n.k*mldsaN*10/8 || len(signature) != cSize+n.l*zSize+n.omega+n.k {
		return false
	}
	cTilde, rest := signature[:cSize], signature[cSize:]
	z := make([]mldsaPoly, n.l)
	for i := range z { // sigDecode, and the norm of line 13
		if !n.unpackZ(&z[i], rest[i*zSize:(i+1)*zSize]) {
			return false
		}
		z[i].ntt()
	}
	hints := rest[n.l*zSize:]
	h, ok := n.unpackHints(hints)
	if !ok {
		return false
	}
	c := n.sampleInBall(cTilde)
	c.ntt()
	w1 := sha3.NewSHAKE256()
	w1.Write(mu)
	for i := range n.k { // A z − c t₁ 2^d, one row at a time
		var acc mldsaPoly
		for j := range n.l {
			a := rejectNTT(public[:32], byte(j), byte(i))
			for x := range acc {
				acc[x] = mulAdd(acc[x], a[x], z[j][x])
			}
		}
		var t mldsaPoly
		unpack10(&t, public[32+i*320:32+(i+1)*320])
		for x := range t {
			t[x] <<= mldsaD // t₁ < 2^10, so the product is below q
		}
		t.ntt()
		for x := range acc {
			acc[x] = sub(acc[x], mul(c[x], t[x]))
		}
		acc.invNTT()
		w1.Write(n.w1Row(&acc, h[i]))
	}
	got := make([]byte, cSize)
	w1.Read(got)
	return bytes.Equal(got, cTilde)
}

// unpackZ is BitUnpack(·, γ₁-1, γ₁) (FIPS 204 algorithm 19), and says whether every coefficient is below γ₁-β.
func (n *mldsaNumbers) unpackZ(p *mldsaPoly, b []byte) bool {
	bits, gamma1 := n.gamma1Bits+1, int32(1)<<n.gamma1Bits
	var acc uint64
	var have uint
	at := 0
	for i := range p {
		for have < bits {
			acc |= uint64(b[at]) << have
			at++
			have += 8
		}
		v := gamma1 - int32(acc&(1<<bits-1))
		acc >>= bits
		have -= bits
		if v >= gamma1-n.beta || v <= -(gamma1-n.beta) {
			return false
		}
		if v < 0 {
			v += mldsaQ
		}
		p[i] = uint32(v)
	}
	return true
}

// unpackHints is HintBitUnpack (FIPS 204 algorithm 21), which takes one encoding of a hint only.
func (n *mldsaNumbers) unpackHints(y []byte) ([][mldsaN]bool, bool) {
	h := make([][mldsaN]bool, n.k)
	at := 0
	for i := range n.k {
		end := int(y[n.omega+i])
		if end < at || end > n.omega {
			return nil, false
		}
		for first := at; at < end; at++ {
			if at > first && y[at-1] >= y[at] {
				return nil, false
			}
			h[i][y[at]] = true
		}
	}
	for ; at < n.omega; at++ {
		if y[at] != 0 {
			return nil, false
		}
	}
	return h, true
}

// sampleInBall is FIPS 204 algorithm 29.
func (n *mldsaNumbers) sampleInBall(rho []byte) mldsaPoly {
	var c mldsaPoly
	h := sha3.NewSHAKE256()
	h.Write(rho)
	var signs [8]byte
	h.Read(signs[:])
	var j [1]byte
	for i := mldsaN - n.tau; i < mldsaN; i++ {
		for h.Read(j[:]); int(j[0]) > i; h.Read(j[:]) {
		}
		c[i] = c[j[0]]
		c[j[0]] = 1
		if bit := i + n.tau - mldsaN; signs[bit/8]>>(bit%8)&1 == 1 {
			c[j[0]] = mldsaQ - 1
		}
	}
	return c
}

// rejectNTT is RejNTTPoly(ρ ‖ s ‖ r) (FIPS 204 algorithms 14, 30 and 32).
func rejectNTT(rho []byte, s, r byte) (a mldsaPoly) {
	h := sha3.NewSHAKE128()
	h.Write(rho)
	h.Write([]byte{s, r})
	var buf [168]byte // SHAKE128's rate, a multiple of 3
	for i := 0; i < mldsaN; {
		h.Read(buf[:])
		for b := buf[:]; len(b) >= 3 && i < mldsaN; b = b[3:] {
			v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2]&0x7f)<<16
			if v < mldsaQ {
				a[i] = v
				i++
			}
		}
	}
	return a
}

// unpack10 is SimpleBitUnpack(·, 2^10-1) (FIPS 204 algorithm 18).
func unpack10(p *mldsaPoly, b []byte) {
	for i := 0; i < mldsaN; i += 4 {
		v := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32
		for j := range 4 {
			p[i+j] = uint32(v>>(10*j)) & 0x3ff
		}
		b = b[5:]
	}
}

// w1Row is UseHint (FIPS 204 algorithm 40) on one row, packed as w1Encode does (algorithm 28).
func (n *mldsaNumbers) w1Row(w *mldsaPoly, hint [mldsaN]bool) []byte {
	m := (mldsaQ - 1) / (2 * n.gamma2) // 44 or 16
	bits := uint(4)
	if m == 44 {
		bits = 6
	}
	out := make([]byte, 0, mldsaN*bits/8)
	var acc uint32
	var have uint
	for x, r := range w {
		acc |= n.useHint(r, hint[x], m) << have
		for have += bits; have >= 8; have -= 8 {
			out = append(out, byte(acc))
			acc >>= 8
		}
	}
	return out
}

// useHint is FIPS 204 algorithm 40 over Decompose (algorithm 36).
func (n *mldsaNumbers) useHint(r uint32, hint bool, m uint32) uint32 {
	r0 := int32(r % (2 * n.gamma2))
	if r0 > int32(n.gamma2) {
		r0 -= int32(2 * n.gamma2)
	}
	var r1 uint32
	if int32(r)-r0 == mldsaQ-1 {
		r0--
	} else {
		r1 = uint32(int32(r)-r0) / (2 * n.gamma2)
	}
	switch {
	case hint && r0 > 0:
		return (r1 + 1) % m
	case hint:
		return (r1 + m - 1) % m
	}
	return r1
}

func mul(a, b uint32) uint32       { return uint32(uint64(a) * uint64(b) % mldsaQ) }
func mulAdd(s, a, b uint32) uint32 { return uint32((uint64(a)*uint64(b) + uint64(s)) % mldsaQ) }
func sub(a, b uint32) uint32       { return (a + mldsaQ - b) % mldsaQ }

// zetas are ζ^BitRev8(m) mod q for ζ = 1753 (FIPS 204 appendix B). Read-only.
var zetas = func() (z [mldsaN]uint32) {
	power := [mldsaN]uint32{1}
	for i := 1; i < mldsaN; i++ {
		power[i] = mul(power[i-1], 1753)
	}
	for m := range z {
		rev := 0
		for b := range 8 {
			rev |= m >> b & 1 << (7 - b)
		}
		z[m] = power[rev]
	}
	return z
}()

// ntt is FIPS 204 algorithm 41.
func (p *mldsaPoly) ntt() {
	m := 0
	for length := 128; length >= 1; length /= 2 {
		for start := 0; start < mldsaN; start += 2 * length {
			m++
			for j := start; j < start+length; j++ {
				t := mul(zetas[m], p[j+length])
				p[j+length] = sub(p[j], t)
				p[j] = (p[j] + t) % mldsaQ
			}
		}
	}
}

// invNTT is FIPS 204 algorithm 42.
func (p *mldsaPoly) invNTT() {
	m := mldsaN
	for length := 1; length < mldsaN; length *= 2 {
		for start := 0; start < mldsaN; start += 2 * length {
			m--
			for j := start; j < start+length; j++ {
				t := p[j]
				p[j] = (t + p[j+length]) % mldsaQ
				p[j+length] = mul(mldsaQ-zetas[m], sub(t, p[j+length]))
			}
		}
	}
	for j := range p {
		p[j] = mul(p[j], 8347681) // 256⁻¹
	}
}
