package keyenc_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/keyenc"
)

// pair is a private key of one kind and what the parsers give for it.
type pair struct {
	name string
	priv crypto.PrivateKey
	pub  crypto.PublicKey
	ec   bool // ecdh keys on P curves are parsed as ecdsa keys
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func filled(size int) []byte {
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// pairs makes a fresh key of every kind (the RSA key is shared).
func pairs(t testing.TB) []pair {
	t.Helper()
	ed := ed25519.NewKeyFromSeed(filled(ed25519.SeedSize))
	e4 := ed448.NewKeyFromSeed(filled(ed448.SeedSize))
	x4 := keyenc.X448PrivateKey(filled(56))
	out := []pair{
		{"RSA", rsaKey(), &rsaKey().PublicKey, false},
		{"Ed25519", ed, ed.Public(), false},
		{"Ed448", e4, e4.Public(), false},
		{"X448", &x4, x4.Public(), false},
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, pair{"X25519", x, x.PublicKey(), false})
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pair{c.Params().Name, k, &k.PublicKey, true})
	}
	return out
}

type equaler interface{ Equal(crypto.PublicKey) bool }

func samePublic(a, b crypto.PublicKey) bool {
	e, ok := a.(equaler)
	return ok && e.Equal(b)
}

func samePrivate(a, b crypto.PrivateKey) bool {
	if x, ok := a.(*keyenc.X448PrivateKey); ok {
		y, ok := b.(*keyenc.X448PrivateKey)
		return ok && *x == *y
	}
	e, ok := a.(interface{ Equal(crypto.PrivateKey) bool })
	return ok && e.Equal(b)
}

func TestRoundTrips(t *testing.T) {
	for _, p := range pairs(t) {
		t.Run(p.name, func(t *testing.T) {
			own, err := keyenc.PublicOf(p.priv)
			if err != nil || !samePublic(own, p.pub) {
				t.Fatalf("PublicOf: %v", err)
			}
			spki, err := keyenc.MarshalSPKI(p.pub)
			if err != nil {
				t.Fatal(err)
			}
			if pub, err := keyenc.ParseSPKI(spki); err != nil || !samePublic(pub, p.pub) {
				t.Errorf("SPKI does not come back: %v", err)
			}
			text, err := keyenc.MarshalPublicPEM(p.pub)
			if err != nil {
				t.Fatal(err)
			}
			if pub, err := keyenc.ParsePublicPEM(text); err != nil || !samePublic(pub, p.pub) {
				t.Errorf("PEM does not come back: %v", err)
			}
			jwk, err := keyenc.MarshalJWK(p.pub)
			if err != nil {
				t.Fatal(err)
			}
			if pub, err := keyenc.ParseJWK(jwk); err != nil || !samePublic(pub, p.pub) {
				t.Errorf("JWK does not come back: %v", err)
			}
			der, err := keyenc.MarshalPKCS8(p.priv)
			if err != nil {
				t.Fatal(err)
			}
			if priv, err := keyenc.ParsePKCS8(der); err != nil || !samePrivate(priv, p.priv) {
				t.Errorf("PKCS#8 does not come back: %v", err)
			}
			refuseDamage(t, spki, "SPKI", func(b []byte) error { _, err := keyenc.ParseSPKI(b); return err })
			refuseDamage(t, der, "PKCS#8", func(b []byte) error { _, err := keyenc.ParsePKCS8(b); return err })
			if p.ec {
				checkECDH(t, p.priv.(*ecdsa.PrivateKey), spki, der)
			}
		})
	}
}

// refuseDamage wants every cut and every added byte to be refused.
func refuseDamage(t *testing.T, der []byte, what string, parse func([]byte) error) {
	t.Helper()
	for i := range der {
		if parse(der[:i]) == nil {
			t.Fatalf("%s cut to %d of %d bytes is taken", what, i, len(der))
		}
	}
	for _, tail := range []byte{0, 0x30, 0xff} {
		if parse(append(bytes.Clone(der), tail)) == nil {
			t.Fatalf("%s with a trailing byte is taken", what)
		}
	}
	long := append([]byte{der[0], 0x84, 0, 0}, der[1:]...) // a length that is not minimal
	if parse(long) == nil {
		t.Fatalf("%s with a long length is taken", what)
	}
}

// checkECDH wants the same encodings for an ECDH key of the curve.
func checkECDH(t *testing.T, k *ecdsa.PrivateKey, spki, pkcs8 []byte) {
	t.Helper()
	x, err := k.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keyenc.MarshalSPKI(x.PublicKey()); err != nil || !bytes.Equal(got, spki) {
		t.Errorf("SPKI of the ECDH key differs: %v", err)
	}
	if got, err := keyenc.MarshalPKCS8(x); err != nil || !bytes.Equal(got, pkcs8) {
		t.Errorf("PKCS#8 of the ECDH key differs: %v", err)
	}
	one, err1 := keyenc.PublicJWK(x.PublicKey())
	two, err2 := keyenc.PublicJWK(&k.PublicKey)
	if err1 != nil || err2 != nil || one.X != two.X || one.Y != two.Y || one.Curve != two.Curve {
		t.Errorf("JWK of the ECDH key differs: %v %v", err1, err2)
	}
	raw1, err1 := keyenc.MarshalRaw(x.PublicKey())
	raw2, err2 := keyenc.MarshalRaw(&k.PublicKey)
	if err1 != nil || err2 != nil || !bytes.Equal(raw1, raw2) || raw1[0] != 4 || len(raw1) != 1+2*((k.Params().BitSize+7)/8) {
		t.Errorf("raw point of %d bytes: %v %v", len(raw1), err1, err2)
	}
}

func TestRawSizes(t *testing.T) {
	want := map[string]int{"Ed25519": 32, "Ed448": 57, "X25519": 32, "X448": 56, "P-256": 65, "P-384": 97, "P-521": 133}
	for _, p := range pairs(t) {
		raw, err := keyenc.MarshalRaw(p.pub)
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		if p.name != "RSA" && len(raw) != want[p.name] {
			t.Errorf("%s: %d bytes", p.name, len(raw))
		}
		spki, err := keyenc.MarshalSPKI(p.pub)
		if err != nil || !bytes.HasSuffix(spki, raw) {
			t.Errorf("%s: raw is not the end of the SPKI (%v)", p.name, err)
		}
	}
}

// TestSeedsRoundTrip: every seed of RFC 8410's kinds, and every scalar below the order, comes back.
func TestSeedsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytesOf := func(n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "seed") }
		x4 := keyenc.X448PrivateKey(bytesOf(56))
		keys := []crypto.PrivateKey{ed25519.NewKeyFromSeed(bytesOf(32)), ed448.NewKeyFromSeed(bytesOf(57)), &x4}
		if x, err := ecdh.X25519().NewPrivateKey(bytesOf(32)); err == nil {
			keys = append(keys, x)
		}
		for c, n := range map[elliptic.Curve]int{elliptic.P256(): 32, elliptic.P384(): 48, elliptic.P521(): 66} {
			scalar := bytesOf(n)
			scalar[0] = 0 // with leading zeros, which must not be lost
			if k, err := ecdsa.ParseRawPrivateKey(c, scalar); err == nil {
				keys = append(keys, k)
			}
		}
		for _, k := range keys {
			der, err := keyenc.MarshalPKCS8(k)
			if err != nil {
				t.Fatal(err)
			}
			back, err := keyenc.ParsePKCS8(der)
			if err != nil || !samePrivate(k, back) {
				t.Fatalf("%T does not come back: %v", k, err)
			}
		}
	})
}

// The examples of RFC 8410 section 10.
const (
	rfc8410Public     = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
	rfc8410Private    = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC"
	rfc8410Attributes = "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC" +
		"oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB" +
		"Z9w7lshQhqowtrbLDFw4rXAxZuE="
)

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRFC8410(t *testing.T) {
	pub, err := keyenc.ParseSPKI(unbase64(t, rfc8410Public))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{rfc8410Private, rfc8410Attributes} {
		priv, err := keyenc.ParsePKCS8(unbase64(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if own, err := keyenc.PublicOf(priv); err != nil || !samePublic(own, pub) {
			t.Errorf("the private key's public key is another: %v", err)
		}
	}
	v2 := unbase64(t, rfc8410Attributes)
	for what, bad := range map[string][]byte{
		"another public key":          flip(v2, len(v2)-1),
		"a public key in version 1":   flipAt(v2, 4, 1),
		"version 3":                   flipAt(v2, 4, 3),
		"unused bits":                 flipAt(v2, len(v2)-33, 1),
		"an unknown algorithm":        flipAt(v2, 9, 0x40),
		"a public key without octets": append(bytes.Clone(v2[:len(v2)-35]), 0x81, 0),
	} {
		if _, err := keyenc.ParsePKCS8(bad); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func flip(b []byte, i int) []byte { return flipAt(b, i, 1) }

func flipAt(b []byte, i int, mask byte) []byte {
	b = bytes.Clone(b)
	b[i] ^= mask
	return b
}

// TestRFC7748X448 has the example of RFC 7748 section 6.2 and the points of low order.
func TestRFC7748X448(t *testing.T) {
	alice := keyenc.X448PrivateKey(unhex(t, "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28dd9c9baf574a9419744897391006382a6f127ab1d9ac2d8c0a598726b"))
	bob := keyenc.X448PrivateKey(unhex(t, "1c306a7ac2a0e2e0990b294470cba339e6453772b075811d8fad0d1d6927c120bb5ee8972b0d3e21374c9c921b09d1b0366f10b65173992d"))
	alicePub := keyenc.X448PublicKey(unhex(t, "9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c22c5d9bbc836647241d953d40c5b12da88120d53177f80e532c41fa0"))
	bobPub := keyenc.X448PublicKey(unhex(t, "3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b43027d8b972fc3e34fb4232a13ca706dcb57aec3dae07bdc1c67bf33609"))
	shared := unhex(t, "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282bb60c0b56fd2464c335543936521c24403085d59a449a5037514a879d")
	if !alicePub.Equal(alice.Public()) || !bobPub.Equal(bob.Public()) || alicePub.Equal(bobPub) {
		t.Error("a public key is wrong")
	}
	one, err1 := alice.ECDH(bobPub)
	two, err2 := bob.ECDH(alicePub)
	if err1 != nil || err2 != nil || !bytes.Equal(one, shared) || !bytes.Equal(two, shared) {
		t.Errorf("the shared secret is wrong: %v %v", err1, err2)
	}
	zero, low := keyenc.X448PublicKey{}, keyenc.X448PublicKey{1}
	for _, peer := range []keyenc.X448PublicKey{zero, low} {
		if out, err := alice.ECDH(peer); err == nil {
			t.Errorf("a point of low order gives %x", out)
		}
	}
	for _, shown := range []string{fmt.Sprint(&alice), fmt.Sprintf("%#v", &alice)} {
		if shown != "[redacted]" {
			t.Error("the private key is printed")
		}
	}
	alice.Wipe()
	if alice != (keyenc.X448PrivateKey{}) {
		t.Error("Wipe leaves bytes")
	}
}

func TestPublicPEMIsStrict(t *testing.T) {
	good, err := keyenc.MarshalPublicPEM(rsaKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	s := string(good)
	for what, text := range map[string]string{
		"nothing":             "",
		"text before":         "key:\n" + s,
		"text after":          s + "x",
		"two blocks":          s + s,
		"another type":        strings.ReplaceAll(s, "PUBLIC KEY", "RSA PUBLIC KEY"),
		"headers":             strings.Replace(s, "KEY-----\n", "KEY-----\nA: b\n\n", 1),
		"a bad character":     strings.Replace(s, "MII", "M*I", 1),
		"no end":              s[:len(s)-30],
		"a private key block": strings.ReplaceAll(s, "PUBLIC", "PRIVATE"),
	} {
		if _, err := keyenc.ParsePublicPEM([]byte(text)); !errors.Is(err, keyenc.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := keyenc.ParsePublicPEM([]byte("\n\t " + s + "\n")); err != nil {
		t.Errorf("white space around: %v", err)
	}
}

// TestUnsupportedKeys: what is not in the package comment does not get out.
func TestUnsupportedKeys(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, pub := range []crypto.PublicKey{nil, 5, &p224.PublicKey, &rsa.PublicKey{}, ed25519.PublicKey{1}, ed448.PublicKey{1}} {
		for name, f := range map[string]func(crypto.PublicKey) ([]byte, error){
			"SPKI": keyenc.MarshalSPKI, "PEM": keyenc.MarshalPublicPEM, "raw": keyenc.MarshalRaw, "JWK": keyenc.MarshalJWK,
		} {
			if out, err := f(pub); !errors.Is(err, keyenc.ErrUnsupported) || out != nil {
				t.Errorf("%s of %T: %v", name, pub, err)
			}
		}
	}
	for _, priv := range []crypto.PrivateKey{nil, 5, p224, ed25519.PrivateKey{1}, ed448.PrivateKey{1}} {
		if out, err := keyenc.MarshalPKCS8(priv); !errors.Is(err, keyenc.ErrUnsupported) || out != nil {
			t.Errorf("PKCS#8 of %T: %v", priv, err)
		}
	}
}
