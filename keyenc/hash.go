package keyenc

import (
	"crypto"
	_ "crypto/sha1" //nolint:gosec // for RSA-OAEP alone (SP 800-131A section 6), where peers still ask for it
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// Names of hash functions as FIPS 180-4 writes them.
const (
	SHA1   = "SHA-1"
	SHA256 = "SHA-256"
	SHA384 = "SHA-384"
	SHA512 = "SHA-512"
)

// HashByName finds a hash function by its name, exactly as written: SHA-1, SHA-256, SHA-384, SHA-512.
func HashByName(name string) (crypto.Hash, bool) {
	switch name {
	case SHA1:
		return crypto.SHA1, true
	case SHA256:
		return crypto.SHA256, true
	case SHA384:
		return crypto.SHA384, true
	case SHA512:
		return crypto.SHA512, true
	}
	return 0, false
}

// HashName is the inverse of HashByName; "" for every other hash.
func HashName(h crypto.Hash) string {
	switch h {
	case crypto.SHA1:
		return SHA1
	case crypto.SHA256:
		return SHA256
	case crypto.SHA384:
		return SHA384
	case crypto.SHA512:
		return SHA512
	}
	return ""
}

// SignatureHash reports whether h may be used in signatures: SHA-256, SHA-384 and SHA-512.
func SignatureHash(h crypto.Hash) bool { return HashName(h) != "" && h != crypto.SHA1 }

// OAEPHash reports whether h may be used in RSA-OAEP: SHA-1, SHA-256, SHA-384 and SHA-512.
func OAEPHash(h crypto.Hash) bool { return HashName(h) != "" }
