package keyenc_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"

	"github.com/keywright/keywright/keyenc"
)

// The structures of RFC 5958 and RFC 5915, so that tests can write what MarshalPKCS8 never writes.
type (
	algorithmID struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	pkcs8Key struct {
		Version int
		Alg     algorithmID
		Key     []byte
		Public  asn1.BitString `asn1:"optional,tag:1"`
	}
	ecKey struct {
		Version int
		Key     []byte
		Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
		Public  asn1.BitString        `asn1:"optional,explicit,tag:1"`
	}
)

var (
	ecOID   = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	rsaOID  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	p256OID = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	p384OID = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	p224OID = asn1.ObjectIdentifier{1, 3, 132, 0, 33}
)

func der(t *testing.T, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bits(b []byte) asn1.BitString { return asn1.BitString{Bytes: b, BitLength: 8 * len(b)} }

func ecPKCS8(t *testing.T, curve asn1.ObjectIdentifier, key ecKey, outer []byte) []byte {
	t.Helper()
	k := pkcs8Key{Alg: algorithmID{ecOID, asn1.RawValue{FullBytes: der(t, curve)}}, Key: der(t, key)}
	if outer != nil {
		k.Version, k.Public = 1, bits(outer)
	}
	return der(t, k)
}

func TestECPrivateKeysAreStrict(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err1 := k.Bytes()
	point, err2 := k.PublicKey.Bytes()
	foreign, err3 := other.PublicKey.Bytes()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	compressed := elliptic.MarshalCompressed(elliptic.P256(), k.X, k.Y)
	order := elliptic.P256().Params().N
	good := ecKey{Version: 1, Key: scalar}
	with := func(f func(*ecKey)) ecKey { k := good; f(&k); return k }
	for what, b := range map[string][]byte{
		"bare":               ecPKCS8(t, p256OID, good, nil),
		"with curve":         ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Curve = p256OID }), nil),
		"with point":         ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = bits(point) }), nil),
		"with both":          ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Curve, k.Public = p256OID, bits(point) }), nil),
		"compressed point":   ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = bits(compressed) }), nil),
		"outer point":        ecPKCS8(t, p256OID, good, point),
		"outer, compressed":  ecPKCS8(t, p256OID, good, compressed),
		"point in and about": ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = bits(point) }), point),
	} {
		if got, err := keyenc.ParsePKCS8(b); err != nil || !k.Equal(got) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, b := range map[string][]byte{
		"another inner curve":     ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Curve = p384OID }), nil),
		"another outer curve":     ecPKCS8(t, p384OID, good, nil),
		"an unsupported curve":    ecPKCS8(t, p224OID, with(func(k *ecKey) { k.Key = scalar[:28] }), nil),
		"another's point":         ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = bits(foreign) }), nil),
		"another's outer point":   ecPKCS8(t, p256OID, good, foreign),
		"the negated point":       ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = bits(flip(compressed, 0)) }), nil),
		"an empty point":          ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = asn1.BitString{Bytes: []byte{}, BitLength: 0} }), []byte{4}),
		"a bare coordinate":       ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Public = bits(point[1:]) }), nil),
		"a short scalar":          ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Key = scalar[1:] }), nil),
		"a padded scalar":         ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Key = append([]byte{0}, scalar...) }), nil),
		"a scalar of zero":        ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Key = make([]byte, 32) }), nil),
		"the order as scalar":     ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Key = order.Bytes() }), nil),
		"a scalar over the order": ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Key = bytes.Repeat([]byte{0xff}, 32) }), nil),
		"another version":         ecPKCS8(t, p256OID, with(func(k *ecKey) { k.Version = 2 }), nil),
		"bytes after the key":     der(t, pkcs8Key{Alg: algorithmID{ecOID, asn1.RawValue{FullBytes: der(t, p256OID)}}, Key: append(der(t, good), 0)}),
		"no curve":                der(t, pkcs8Key{Alg: algorithmID{OID: ecOID}, Key: der(t, good)}),
		"SEC 1 without PKCS#8":    der(t, with(func(k *ecKey) { k.Curve = p256OID })),
	} {
		if got, err := keyenc.ParsePKCS8(b); err == nil {
			t.Errorf("%s is taken as %T", what, got)
		}
	}
}

func TestRSAPrivateKeysAreStrict(t *testing.T) {
	k := rsaKey()
	inner := x509.MarshalPKCS1PrivateKey(k)
	null := asn1.RawValue{FullBytes: []byte{5, 0}}
	make8 := func(params asn1.RawValue, key []byte) []byte {
		return der(t, pkcs8Key{Alg: algorithmID{rsaOID, params}, Key: key})
	}
	if got, err := keyenc.ParsePKCS8(make8(null, inner)); err != nil || !k.Equal(got) {
		t.Fatalf("the good key: %v", err)
	}
	public := pkcs8Key{Version: 1, Alg: algorithmID{rsaOID, null}, Key: inner, Public: bits(x509.MarshalPKCS1PublicKey(&k.PublicKey))}
	if got, err := keyenc.ParsePKCS8(der(t, public)); err != nil || !k.Equal(got) {
		t.Fatalf("with its public key: %v", err)
	}
	foreign := public
	foreign.Public = bits(flip(public.Public.Bytes, 100))
	type numbers struct {
		V                     int
		N                     *big.Int
		E                     int
		D, P, Q, Dp, Dq, Qinv *big.Int
	}
	n := numbers{0, k.N, k.E, k.D, k.Primes[0], k.Primes[1], k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv}
	change := func(f func(*numbers)) []byte { m := n; f(&m); return make8(null, der(t, m)) }
	add := func(x *big.Int, d int64) *big.Int { return new(big.Int).Add(x, big.NewInt(d)) }
	for what, b := range map[string][]byte{
		"no parameters":         make8(asn1.RawValue{}, inner),
		"other parameters":      make8(asn1.RawValue{FullBytes: der(t, p256OID)}, inner),
		"bytes after the key":   make8(null, append(bytes.Clone(inner), 0)),
		"another's public key":  der(t, foreign),
		"another modulus":       change(func(n *numbers) { n.N = add(n.N, 2) }),
		"another exponent":      change(func(n *numbers) { n.D = add(n.D, 2) }),
		"another prime":         change(func(n *numbers) { n.P = add(n.P, 2) }),
		"an even exponent":      change(func(n *numbers) { n.E++ }),
		"a negative prime":      change(func(n *numbers) { n.P = new(big.Int).Neg(n.P) }),
		"another coefficient":   change(func(n *numbers) { n.Qinv = add(n.Qinv, 1) }),
		"another CRT exponent":  change(func(n *numbers) { n.Dp = add(n.Dp, 2) }),
		"one and the modulus":   change(func(n *numbers) { n.P, n.Q = big.NewInt(1), n.N }),
		"several primes":        change(func(n *numbers) { n.V = 1 }),
		"PKCS#1 without PKCS#8": inner,
	} {
		if got, err := keyenc.ParsePKCS8(b); err == nil {
			t.Errorf("%s is taken as %T", what, got)
		}
	}
}
