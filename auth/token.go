package auth

import (
	"crypto/rand"
	"strings"
)

// DefaultBrand is the brand of keys that are made for nobody in particular.
const DefaultBrand = "kw"

// Brands lists the brands that keys can have. The others are for clients that refuse a key that begins otherwise.
func Brands() []string { return []string{DefaultBrand, "qph", "qapi", "qh"} }

// knownBrand is Brands without an allocation.
func knownBrand(s string) bool {
	switch s {
	case DefaultBrand, "qph", "qapi", "qh":
		return true
	}
	return false
}

// Sizes of a presented key, in characters. What is made has the fixed sizes; what is read may lie within the bounds, so
// that keys of an earlier or later make still parse. Only the MAC decides whether a key is genuine.
const (
	prefixSize = 12 // 60 bits: two keys with one prefix are not to be expected
	secretSize = 43 // 62^43 > 2^256

	minPrefix, maxPrefix = 6, 16
	minSecret, maxSecret = 32, 64
	maxToken             = 4 + 1 + maxPrefix + 1 + maxSecret
)

const (
	prefixAlphabet = "abcdefghijklmnopqrstuvwxyz234567"
	secretAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// token is a presented key, split. Its strings alias the input; secret is not among them, since only the whole is ever
// looked at.
type token struct {
	brand  string
	prefix string
}

// parseToken splits a presented key on its first two underscores, the secret being whatever is behind. It allocates
// nothing and looks at no more than maxToken characters.
func parseToken(s string) (token, bool) {
	if len(s) > maxToken {
		return token{}, false
	}
	brand, rest, ok := strings.Cut(s, "_")
	if !ok || !knownBrand(brand) {
		return token{}, false
	}
	prefix, secret, ok := strings.Cut(rest, "_")
	if !ok || len(prefix) < minPrefix || len(prefix) > maxPrefix || len(secret) < minSecret || len(secret) > maxSecret {
		return token{}, false
	}
	for i := 0; i < len(prefix); i++ {
		if c := prefix[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return token{}, false
		}
	}
	for i := 0; i < len(secret); i++ {
		c := secret[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return token{}, false
		}
	}
	return token{brand: brand, prefix: prefix}, true
}

// newToken makes a key: brand, prefix and the whole as it is presented.
func newToken(brand string) (prefix, presented string) {
	b := make([]byte, 0, len(brand)+1+prefixSize+1+secretSize)
	b = append(b, brand...)
	b = append(b, '_')
	b = appendRandom(b, prefixAlphabet, prefixSize)
	prefix = string(b[len(brand)+1:])
	b = append(b, '_')
	b = appendRandom(b, secretAlphabet, secretSize)
	presented = string(b)
	clear(b)
	return prefix, presented
}

// appendRandom appends n characters, each drawn evenly from the alphabet: bytes beyond the largest multiple of its size are
// thrown away.
func appendRandom(dst []byte, alphabet string, n int) []byte {
	limit := 256 - 256%len(alphabet)
	var pool [64]byte
	defer clear(pool[:])
	for n > 0 {
		rand.Read(pool[:]) // never fails (crypto/rand, since Go 1.24)
		for _, c := range pool {
			if n > 0 && int(c) < limit {
				dst = append(dst, alphabet[int(c)%len(alphabet)])
				n--
			}
		}
	}
	return dst
}
