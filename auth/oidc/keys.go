package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/fault"
)

// keySet is the keys of an issuer. Whoever needs one that is not there, or finds them old, fetches them, one at a time and not twice within pause.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	known atomic.Pointer[fetched] // nil: never fetched

	fetching chan struct{} // holds a token for who fetches; guards what follows
	url      string        // "": discovery has not said yet
	tried    time.Time
}

// fetched is the keys as they were at a time.
type fetched struct {
	keys []jose.JSONWebKey
	at   time.Time
}

func newKeySet(issuer, url string, client *http.Client, now func() time.Time, log *slog.Logger) *keySet {
	return &keySet{issuer: issuer, url: url, client: client, now: now, log: log, fetching: make(chan struct{}, 1)}
}

// find gives the key that a token names, if it fits the algorithm.
func (s *keySet) find(ctx context.Context, kid string, alg jose.SignatureAlgorithm) (any, error) {
	seen := s.known.Load()
	key, ok := seen.find(kid, alg)
	if ok && s.age(seen) < refresh {
		return key, nil
	}
	if ok && s.age(seen) < keep {
		select {
		case s.fetching <- struct{}{}:
			s.renew(ctx, seen)
		default:
			return key, nil // somebody renews them, and they are good until then
		}
	} else {
		select {
		case s.fetching <- struct{}{}:
			s.renew(ctx, seen)
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Timeout, "the deadline passed before the token was checked", ctx.Err())
		}
	}
	now := s.known.Load()
	if s.age(now) >= keep {
		return nil, fault.New(fault.Unavailable, "the keys of the token's issuer cannot be had: try again later")
	}
	if key, ok = now.find(kid, alg); !ok {
		return nil, refusal("key")
	}
	return key, nil
}

// age is how old the keys are; a clock that was set back makes them old.
func (s *keySet) age(f *fetched) time.Duration {
	if f == nil {
		return keep
	}
	if age := s.now().Sub(f.at); age >= 0 {
		return age
	}
	return refresh
}

// renew fetches the keys and lets go of fetching, which its caller holds: unless somebody has fetched them since they were seen, or tried to a short time ago. What
// cannot be fetched leaves those that are there.
func (s *keySet) renew(ctx context.Context, seen *fetched) {
	defer func() { <-s.fetching }()
	now, wait := s.now(), pause
	if s.age(seen) >= keep {
		wait = hurry
	}
	if since := now.Sub(s.tried); s.known.Load() != seen || !s.tried.IsZero() && since >= 0 && since < wait {
		return
	}
	s.tried = now
	// Who asked may go away: the fetch is for all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	defer cancel()
	keys, err := s.fetch(ctx)
	if err != nil {
		s.log.Warn("the keys of an issuer of tokens could not be fetched", "issuer", s.issuer, "error", err)
		return
	}
	s.known.Store(&fetched{keys: keys, at: now})
}

// fetch asks discovery, where it has to, and then for the keys.
func (s *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	address := s.url
	if address == "" {
		var d struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := s.get(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration", &d); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		if d.Issuer != s.issuer {
			return nil, errors.New("discovery: it is of another issuer")
		}
		if err := checkEndpoint(s.issuer, d.JWKS); err != nil {
			return nil, fmt.Errorf("discovery: jwks_uri: %w", err)
		}
		address = d.JWKS // asked for each time: it may move
	}
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := s.get(ctx, address, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeys {
		return nil, errors.New("there are too many keys")
	}
	var out []jose.JSONWebKey
	for _, v := range set.Keys {
		// What is not understood is passed over (RFC 7517 section 5), and so is everything that is not for all to see.
		var k jose.JSONWebKey
		if k.UnmarshalJSON(v) == nil && k.Valid() && k.IsPublic() && (k.Use == "" || k.Use == "sig") {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there is no public key for signatures")
	}
	return out, nil
}

func (s *keySet) get(ctx context.Context, address string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	answer, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // what counts has been read
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the issuer answers with status %d", answer.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(b) > maxDocument {
		return errors.New("the issuer's document is larger than a megabyte")
	}
	if err := json.Unmarshal(b, into); err != nil {
		return errors.New("the issuer's document is not the JSON that is wanted")
	}
	return nil
}

// find gives the one key of the id that fits the algorithm; without an id the one key that does. Two are as good as none.
func (f *fetched) find(kid string, alg jose.SignatureAlgorithm) (key any, ok bool) {
	if f == nil {
		return nil, false
	}
	for i := range f.keys {
		k := &f.keys[i]
		if kid != "" && k.KeyID != kid || k.Algorithm != "" && k.Algorithm != string(alg) || !fits(k.Key, alg) {
			continue
		}
		if ok {
			return nil, false
		}
		key, ok = k.Key, true
	}
	return key, ok
}

// fits reports whether a key is one for the algorithm (RFC 7518 section 3.1, RFC 8037), and long enough.
func fits(key any, alg jose.SignatureAlgorithm) bool {
	var curve elliptic.Curve
	switch alg {
	case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512:
		k, ok := key.(*rsa.PublicKey)
		return ok && k.N.BitLen() >= 2048 && k.N.BitLen() <= 8192
	case jose.EdDSA:
		_, ok := key.(ed25519.PublicKey)
		return ok
	case jose.ES256:
		curve = elliptic.P256()
	case jose.ES384:
		curve = elliptic.P384()
	case jose.ES512:
		curve = elliptic.P521()
	}
	k, ok := key.(*ecdsa.PublicKey)
	return ok && curve != nil && k.Curve == curve
}
