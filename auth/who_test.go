package auth

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

func TestPrincipalID(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	key := "api-key:" + uuid.NewString()
	for text, want := range map[string]string{
		key:                                   key,
		"cert:spiffe://example.org/a/b":       "cert:spiffe://example.org/a/b",
		"cert:" + hash:                        "cert:" + hash,
		"cert:subject:CN=a,O=b":               certificateID("subject:CN=a,O=b"),
		"cert:dns:A.example":                  certificateID("dns:a.example"),
		"cert:email:A@B.example":              certificateID("email:A@b.example"),
		"cert:uri:https://x.example/Y":        certificateID("uri:https://x.example/Y"),
		"oidc:" + hash:                        "oidc:" + hash,
		"oidc:https://issuer.example/#me#too": tokenID("https://issuer.example/", "me#too"),
		"peer:1000":                           "peer:1000",
		"peer:0":                              "peer:0",
	} {
		got, err := PrincipalID(text)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
		if again, err := PrincipalID(got); err != nil || again != got {
			t.Errorf("%s is no name of its own: %s, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "x", "api-key:", "api-key:1", strings.ToUpper(key), "api-key:" + strings.ToUpper(key[8:]), "cert:", "cert:spiffe://Example.org/a",
		"cert:spiffe://example.org/*", "cert:spiffe://example.org", "cert:" + strings.ToUpper(hash), "cert:" + hash[2:], "cert:dns:*.example", "cert:email:a", "cert:uri:spiffe://x/y",
		"cert:serial:1", "cert:subject:", "oidc:", "oidc:issuer#me", "oidc:https://issuer.example", "oidc:https://issuer.example#", "peer:", "peer:-1", "peer:01", "peer:65534",
		"peer:4294967295", "peer:4294967296", "user:x", "cert:dns:a\n", "cert:subject:" + strings.Repeat("x", 2000)} {
		if got, err := PrincipalID(text); !fault.Has(err, fault.BadField) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

// TestPrincipalNamesAreApart: two who are not the same have no name in common.
func TestPrincipalNamesAreApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z]{1,4}(\.[a-z]{1,3})?`)
		one := func(label string) string {
			form := rapid.SampledFrom([]string{"cert:dns:", "cert:subject:", "cert:uri:", "cert:spiffe://x.example/", "oidc:https://x.example#", "oidc:https://y.example#"}).Draw(t, label)
			return form + word.Draw(t, label+" name")
		}
		a, b := one("a"), one("b")
		x, err := PrincipalID(a)
		if err != nil {
			t.Fatal(a, err)
		}
		y, err := PrincipalID(b)
		if err != nil {
			t.Fatal(b, err)
		}
		if (x == y) != (a == b) {
			t.Fatalf("%s is %s, and %s is %s", a, x, b, y)
		}
		tenant := uuid.UUID{1}
		h, isKey := GrantHolder(tenant, x)
		if g, _ := GrantHolder(tenant, y); isKey || (g == h) != (x == y) {
			t.Fatalf("%s and %s share a holder", x, y)
		}
	})
}
