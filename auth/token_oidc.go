package auth

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/keywright/keywright/fault"
)

// KindToken is who presents a token that another issuer has signed.
const KindToken Kind = "token"

// Identity is whom a verified token speaks for.
type Identity struct {
	Issuer, Subject string
	ExpiresAt       time.Time
	Assignment      *Assignment // by the configuration
}

// TokenVerifier checks tokens of other issuers. *oidc.Verifier is the implementation.
type TokenVerifier interface {
	// Verify gives whom a token speaks for. Everything that is wrong with one is fault.Unauthenticated.
	Verify(ctx context.Context, token string) (*Identity, error)
}

// tokenMemory is how long a token is accepted without its signature being verified again: so long can a key that its issuer has taken back still work here.
const tokenMemory = 5 * time.Minute

// isToken reports whether what is presented has the form of a JWT: no API key has a dot.
func isToken(presented string) bool { return strings.Count(presented, ".") == 2 }

// byToken finds the principal of a token, "oidc:" and the SHA-256 of issuer and subject. Only the token's hash is kept.
func (s *Service) byToken(ctx context.Context, presented string) (*Principal, error) {
	h := sha256.New()
	h.Write([]byte("keywright/v1/token\x00")) // never fails (hash.Hash)
	h.Write([]byte(presented))
	digest := mac(h.Sum(nil))
	if p := s.believed(&digest); p != nil {
		return p, nil
	}
	until := s.now().Add(tokenMemory)
	id, err := s.tokens.Verify(ctx, presented)
	switch {
	case fault.Has(err, fault.Unauthenticated):
		return nil, errUnauthenticated
	case err != nil:
		return nil, err
	}
	p := id.principal()
	p.ExpiresAt = id.ExpiresAt
	return s.settle(ctx, &digest, id.Assignment, until, p)
}

// principal begins the principal of an identity.
func (id *Identity) principal() Principal {
	return Principal{ID: tokenID(id.Issuer, id.Subject), Kind: KindToken, Name: id.Subject}
}
