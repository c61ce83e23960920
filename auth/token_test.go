package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	json "github.com/go-json-experiment/json"

	"github.com/keywright/keywright/secret"
)

type tokenVectors struct {
	Format string `json:"format"`
	Note   string `json:"note"`
	Pepper string `json:"pepper"`
	Valid  []struct {
		Key    string `json:"key"`
		Brand  string `json:"brand"`
		Prefix string `json:"prefix"`
		MAC    string `json:"mac"`
	} `json:"valid"`
	Invalid []string `json:"invalid"`
}

func loadTokens(t testing.TB) (v tokenVectors) {
	t.Helper()
	b, err := os.ReadFile("../docs/formats/vectors/api-key.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if len(v.Valid) == 0 || len(v.Invalid) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

func TestVectors(t *testing.T) {
	v := loadTokens(t)
	pepper, err := hex.DecodeString(v.Pepper)
	if err != nil {
		t.Fatal(err)
	}
	s := New(nil, nil, Options{Derive: func(label string) (secret.Bytes, error) {
		if label != LabelPepper {
			t.Errorf("label %q", label)
		}
		return bytes.Clone(pepper), nil
	}})
	for _, c := range v.Valid {
		got, ok := parseToken(c.Key)
		if !ok || got.brand != c.Brand || got.prefix != c.Prefix {
			t.Errorf("%q: %+v, %v", c.Key, got, ok)
		}
		m, err := s.pepper.mac(s.derive, c.Key)
		if err != nil || hex.EncodeToString(m[:]) != c.MAC {
			t.Errorf("%q: MAC %x, %v", c.Key, m, err)
		}
	}
	for _, bad := range v.Invalid {
		if _, ok := parseToken(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestNewToken(t *testing.T) {
	seen := make(map[string]bool)
	counts := make(map[byte]int)
	for range 200 {
		for _, brand := range Brands() {
			prefix, presented := newToken(brand)
			got, ok := parseToken(presented)
			if !ok || got.brand != brand || got.prefix != prefix || len(prefix) != prefixSize {
				t.Fatalf("brand %s: prefix %q, parsed %+v, %v", brand, prefix, got, ok)
			}
			secretPart := strings.TrimPrefix(presented, brand+"_"+prefix+"_")
			if len(secretPart) != secretSize || seen[prefix] || seen[secretPart] {
				t.Fatalf("a secret of %d characters, or one seen before", len(secretPart))
			}
			seen[prefix], seen[secretPart] = true, true
			for i := range len(secretPart) {
				counts[secretPart[i]]++
			}
		}
	}
	// 34,400 characters, 555 of each: six standard deviations are 141.
	for i := range len(secretAlphabet) {
		if n := counts[secretAlphabet[i]]; n < 555-141 || n > 555+141 {
			t.Errorf("character %q came %d times", secretAlphabet[i], n)
		}
	}
	if len(counts) != len(secretAlphabet) {
		t.Errorf("%d different characters", len(counts))
	}
}

// The pooled MAC is HMAC-SHA-256, also when it is used again and again by many.
func TestMACIsHMAC(t *testing.T) {
	s := New(nil, nil, Options{Derive: fixedRoot})
	pepper, _ := fixedRoot(LabelPepper)
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for range 100 {
				_, presented := newToken(DefaultBrand)
				got, err := s.pepper.mac(s.derive, presented)
				if err != nil {
					t.Fatal(err)
				}
				h := hmac.New(sha256.New, pepper)
				h.Write([]byte(presented))
				if !hmac.Equal(got[:], h.Sum(nil)) {
					t.Fatal("another MAC")
				}
			}
		})
	}
}

func FuzzParseToken(f *testing.F) {
	v := loadTokens(f)
	for _, c := range v.Valid {
		f.Add(c.Key)
	}
	for _, bad := range v.Invalid {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseToken(s)
		if !ok {
			return
		}
		rest, found := strings.CutPrefix(s, got.brand+"_"+got.prefix+"_")
		if !found || !knownBrand(got.brand) || len(s) > maxToken || len(rest) < minSecret || strings.Contains(got.prefix, "_") {
			t.Fatalf("%q parsed as %+v", s, got)
		}
		for _, r := range s {
			if r <= ' ' || r > '~' {
				t.Fatalf("%q has a character that no header should have", s)
			}
		}
	})
}
