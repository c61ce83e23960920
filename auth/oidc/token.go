package oidc

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// token is what an unverified token says. Nothing of it is believed before its signature is.
type token struct {
	algorithm jose.SignatureAlgorithm
	key       string // kid; "": it names none
	issuer    string
	subject   string
	audience  []string
	expires   time.Time
	from      time.Time // the later of nbf and iat; zero: neither is there
	claims    map[string]jsontext.Value
}

// parse reads a JWT in the compact form (RFC 7515 section 7.1, RFC 7519 section 7.2), strictly: no padding, no repeated names, no critical extensions, and no type
// but a JWT's or an access token's (RFC 9068), so that what was signed for something else is not taken for a credential (RFC 8725 section 3.11).
func parse(text string) (*token, error) {
	if len(text) > MaxToken {
		return nil, refusal("size")
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return nil, refusal("form")
	}
	strict := base64.RawURLEncoding.Strict()
	header, err := strict.DecodeString(parts[0])
	if err != nil {
		return nil, refusal("form")
	}
	payload, err := strict.DecodeString(parts[1])
	if err != nil {
		return nil, refusal("form")
	}
	if _, err := strict.DecodeString(parts[2]); err != nil {
		return nil, refusal("form")
	}
	var h struct {
		Alg  string         `json:"alg"`
		Kid  string         `json:"kid"`
		Typ  string         `json:"typ"`
		Crit jsontext.Value `json:"crit"`
		B64  jsontext.Value `json:"b64"`
	}
	if err := json.Unmarshal(header, &h); err != nil || h.Crit != nil || h.B64 != nil {
		return nil, refusal("header")
	}
	switch strings.TrimPrefix(strings.ToLower(h.Typ), "application/") {
	case "", "jwt", "at+jwt":
	default:
		return nil, refusal("type")
	}
	t := &token{algorithm: jose.SignatureAlgorithm(h.Alg), key: h.Kid}
	if err := json.Unmarshal(payload, &t.claims); err != nil {
		return nil, refusal("claims")
	}
	var ok bool
	if t.issuer, ok = t.text("iss"); !ok {
		return nil, refusal("claims")
	}
	if t.subject, ok = t.text("sub"); !ok || t.subject == "" || len(t.subject) > maxSubject || strings.ContainsFunc(t.subject, unicode.IsControl) {
		return nil, refusal("subject")
	}
	if t.audience, ok = texts(t.claims["aud"]); !ok {
		return nil, refusal("claims")
	}
	if t.expires, ok = date(t.claims["exp"]); !ok {
		return nil, refusal("expiry")
	}
	for _, name := range []string{"nbf", "iat"} {
		v, there := t.claims[name]
		if !there {
			continue
		}
		at, ok := date(v)
		if !ok {
			return nil, refusal("claims")
		}
		if at.After(t.from) {
			t.from = at
		}
	}
	return t, nil
}

// current checks what time and audience say.
func (t *token) current(now time.Time, audience []string) error {
	switch {
	case !now.Before(t.expires.Add(Skew)):
		return refusal("expired")
	case !t.from.IsZero() && now.Before(t.from.Add(-Skew)):
		return refusal("not yet")
	case !slices.ContainsFunc(t.audience, func(a string) bool { return slices.Contains(audience, a) }):
		return refusal("audience")
	}
	return nil
}

// text reads a claim that is a text.
func (t *token) text(name string) (s string, ok bool) {
	v := t.claims[name]
	ok = v.Kind() == '"' && json.Unmarshal(v, &s) == nil
	return s, ok
}

// texts reads a text or a list of texts.
func texts(v jsontext.Value) (out []string, ok bool) {
	switch v.Kind() {
	case '"':
		var s string
		ok = json.Unmarshal(v, &s) == nil
		return []string{s}, ok
	case '[':
		return out, json.Unmarshal(v, &out) == nil
	}
	return nil, false
}

// date reads a NumericDate (RFC 7519 section 2): seconds, perhaps with a fraction, which is dropped.
func date(v jsontext.Value) (time.Time, bool) {
	if v.Kind() != '0' {
		return time.Time{}, false
	}
	var seconds float64
	if err := json.Unmarshal(v, &seconds); err != nil || seconds < 0 || seconds > 1<<40 || math.IsNaN(seconds) {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// has reports whether all these claims are there.
func (t *token) has(claims map[string]string) bool {
	for name, value := range claims {
		if !is(t.find(name), value) {
			return false
		}
	}
	return true
}

// find gives a claim, by name or pointer; nil when it is not there.
func (t *token) find(name string) jsontext.Value {
	pointer, ok := strings.CutPrefix(name, "/")
	if !ok {
		return t.claims[name]
	}
	level := t.claims
	for {
		step, rest, deeper := strings.Cut(pointer, "/")
		v := level[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]
		if !deeper || v.Kind() != '{' {
			if deeper {
				return nil
			}
			return v
		}
		level = nil
		if json.Unmarshal(v, &level) != nil {
			return nil
		}
		pointer = rest
	}
}

// is reports whether a claim has the value.
func is(v jsontext.Value, value string) bool {
	switch v.Kind() {
	case '"', '[':
		list, ok := texts(v)
		return ok && slices.Contains(list, value)
	case 't', 'f':
		return string(v) == value
	}
	return false
}
