package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// sessionPrefix begins what a session is presented by; it names the version of the form.
const sessionPrefix = "kws1_"

// sessionSecret is the size of the random part, in bytes: 256 bits.
const sessionSecret = 32

// SessionTokenSize is the length of what a session is presented by, in characters: the prefix, and the secret in base64url without padding
// (RFC 4648 section 5).
const SessionTokenSize = len(sessionPrefix) + (sessionSecret*8+5)/6

var tokenEncoding = base64.RawURLEncoding.Strict()

// parseSession reads what a session is presented by, strictly: there is one text for each secret. It allocates nothing.
func parseSession(presented string) (key [sessionSecret]byte, ok bool) {
	text, ok := strings.CutPrefix(presented, sessionPrefix)
	if !ok || len(presented) != SessionTokenSize || strings.ContainsAny(text, "\r\n") { // which base64 passes over
		return key, false
	}
	var in [SessionTokenSize - len(sessionPrefix)]byte
	defer clear(in[:])
	copy(in[:], text)
	n, err := tokenEncoding.Decode(key[:], in[:])
	return key, err == nil && n == len(key)
}

// newSession makes what a session is presented by.
func newSession() string {
	var key [sessionSecret]byte
	defer clear(key[:])
	rand.Read(key[:]) // never fails (crypto/rand, since Go 1.24)
	return sessionPrefix + tokenEncoding.EncodeToString(key[:])
}

// csrf computes what a page of our own shows with each change: HMAC-SHA-256 (RFC 2104) of a label under the session's secret.
func csrf(key *[sessionSecret]byte) (out [sha256.Size]byte) {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("keywright/v1/csrf")) // never fails (hash.Hash)
	h.Sum(out[:0])
	return out
}

// CSRFToken gives what X-CSRF-Token has to be beside a session's cookie, 43 characters of base64url; "" for what is no session's token.
func CSRFToken(presented string) string {
	key, ok := parseSession(presented)
	defer clear(key[:])
	if !ok {
		return ""
	}
	token := csrf(&key)
	return tokenEncoding.EncodeToString(token[:])
}

// sameCSRF compares in constant time.
func sameCSRF(presented, shown string) bool {
	want := CSRFToken(presented)
	return want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(shown)) == 1
}
