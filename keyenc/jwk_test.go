package keyenc_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/keyenc"
)

// Examples of RFC 7517 appendix A.1 and RFC 8037 appendix A.2.
const (
	rfcEC = `{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",` +
		`"y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"}`
	rfcRSA = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi` +
		`FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5` +
		`hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",` +
		`"e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	rfcEd25519 = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
)

func TestJWKExamples(t *testing.T) {
	for _, text := range []string{rfcEC, rfcRSA, rfcEd25519} {
		pub, err := keyenc.ParseJWK([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		switch k := pub.(type) {
		case *ecdsa.PublicKey, ed25519.PublicKey:
		case *rsa.PublicKey:
			if k.N.BitLen() != 2048 || k.E != 65537 {
				t.Errorf("RSA key of %d bits, exponent %d", k.N.BitLen(), k.E)
			}
		default:
			t.Errorf("%T", pub)
		}
		var want, got map[string]any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"use", "kid", "alg"} { // the caller's
			delete(want, m)
		}
		out, err := keyenc.MarshalJWK(pub)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

func TestJWKIsStrict(t *testing.T) {
	x := `"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"`
	for what, text := range map[string]string{
		"nothing":                 ``,
		"null":                    `null`,
		"an array":                `[]`,
		"no members":              `{}`,
		"trailing data":           rfcEC + `{}`,
		"a duplicate member":      strings.Replace(rfcEC, `"kty":"EC"`, `"kty":"EC","kty":"EC"`, 1),
		"a private EC key":        strings.Replace(rfcEC, `"kid":"1"`, `"d":"AQ"`, 1),
		"a private RSA key":       strings.Replace(rfcRSA, `"alg":"RS256"`, `"p":"AQ"`, 1),
		"a private key in pieces": strings.Replace(rfcRSA, `"alg":"RS256"`, `"oth":[]`, 1),
		"a symmetric key":         `{"kty":"oct","k":"AQ"}`,
		"an unknown type":         strings.Replace(rfcEC, `"EC"`, `"ec"`, 1),
		"an unknown curve":        strings.Replace(rfcEC, `P-256`, `secp256k1`, 1),
		"another curve":           strings.Replace(rfcEC, `P-256`, `P-384`, 1),
		"padding":                 strings.Replace(rfcEC, x, x[:len(x)-1]+`="`, 1),
		"loose bits":              strings.Replace(rfcEC, x, strings.Replace(x, `7D4"`, `7D5"`, 1), 1),
		"a point off the curve":   strings.Replace(rfcEC, "MKBC", "MKBD", 1),
		"a short coordinate":      strings.Replace(rfcEC, "MKBCTNIc", "MKBC", 1),
		"no y":                    strings.Replace(rfcEC, `"y":`, `"z":`, 1),
		"an exponent of zero":     strings.Replace(rfcRSA, `AQAB`, `AA`, 1),
		"leading zeros":           strings.Replace(rfcRSA, `AQAB`, `AAEAAQ`, 1),
		"a large exponent":        strings.Replace(rfcRSA, `AQAB`, `AQAAAAAB`, 1),
		"no modulus":              strings.Replace(rfcRSA, `"n":`, `"m":`, 1),
		"an OKP of another size":  strings.Replace(rfcEd25519, `Ed25519`, `Ed448`, 1),
		"an OKP without a curve":  strings.Replace(rfcEd25519, `"crv":"Ed25519",`, ``, 1),
		"a number for a string":   strings.Replace(rfcEd25519, `"OKP"`, `1`, 1),
		"a line end inside":       strings.Replace(rfcEd25519, `11qYAYKx`, `11qYAYKx\n`, 1),
	} {
		if pub, err := keyenc.ParseJWK([]byte(text)); err == nil {
			t.Errorf("%s is taken as %T", what, pub)
		}
	}
	if _, err := keyenc.ParseJWK([]byte(strings.Replace(rfcEC, `"use"`, `"x5t#S256":"AA","use"`, 1))); err != nil {
		t.Errorf("an unknown member (RFC 7517 section 4: to be ignored): %v", err)
	}
}
