package softhsmtest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// canaries searches for known secrets in whatever form they may have leaked.
type canaries struct {
	needles map[[canaryKey]byte][]needle
	first   [1 << 16]bool // which two bytes a needle begins with
	count   map[string]int
}

// canaryKey is how many bytes of a needle it is found by; canaryPiece how many bytes of a secret make one: half a secret is a leak too.
const (
	canaryKey   = 6
	canaryPiece = 12
)

type needle struct {
	name, form string
	text       []byte
}

func newCanaries() *canaries {
	return &canaries{needles: map[[canaryKey]byte][]needle{}, count: map[string]int{}}
}

// add makes a secret known: its pieces in every form, and the whole as Go and JSON would quote it.
func (c *canaries) add(name string, secret []byte) {
	if len(secret) < 10 {
		panic("the canary " + name + " is too short to be told from chance")
	}
	if c.count[name]++; c.count[name] > 1 {
		name = fmt.Sprint(name, " ", c.count[name])
	}
	for _, quoted := range []string{strconv.Quote(string(secret)), strconv.QuoteToASCII(string(secret))} {
		quoted = quoted[1 : len(quoted)-1]
		if !strings.Contains(quoted, `\`) {
			continue // as it is
		}
		for i := 0; i+2*canaryPiece <= len(quoted); i += canaryPiece {
			c.text(name, "quoted", []byte(quoted[i:i+2*canaryPiece]))
		}
	}
	for i := 0; ; i += canaryPiece {
		if i+canaryPiece >= len(secret) {
			c.piece(name, secret[max(0, len(secret)-canaryPiece):])
			return
		}
		c.piece(name, secret[i:i+canaryPiece])
	}
}

func (c *canaries) piece(name string, p []byte) {
	forms := map[string][]byte{"raw": p, "hex": []byte(hex.EncodeToString(p)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(p)))}
	for before := range 3 { // bytes in front of it in its group of three
		padded := append(make([]byte, before), p...)
		from, to := (8*before+5)/6, 8*len(padded)/6 // characters that depend on nothing else
		forms[fmt.Sprint("base64 at ", before)] = []byte(base64.RawStdEncoding.EncodeToString(padded)[from:to])
		forms[fmt.Sprint("base64url at ", before)] = []byte(base64.RawURLEncoding.EncodeToString(padded)[from:to])
	}
	for form, verb := range map[string][2]string{"numbers": {"%d", " "}, "JSON numbers": {"%d", ","}, "spaced numbers": {"%d", ", "}, "Go numbers": {"%#x", ", "},
		"hex with colons": {"%02x", ":"}, "hex with blanks": {"%02x", " "}, "percent": {"%%%02X", ""}, "JSON escapes": {`\u00%02x`, ""}, "escapes": {`\x%02x`, ""}} {
		var list []string
		for _, b := range p {
			list = append(list, fmt.Sprintf(verb[0], b))
		}
		forms[form] = []byte(strings.Join(list, verb[1]))
	}
	for form, text := range forms {
		c.text(name, form, text)
	}
}

func (c *canaries) text(name, form string, text []byte) {
	key := [canaryKey]byte(text)
	c.first[int(text[0])<<8|int(text[1])] = true
	c.needles[key] = append(c.needles[key], needle{name, form, text})
}

// in gives what is found in a text: the forms by the names of the secrets.
func (c *canaries) in(text []byte) map[string][]string {
	found := map[string][]string{}
	for i := 0; i+canaryKey <= len(text); i++ {
		if !c.first[int(text[i])<<8|int(text[i+1])] {
			continue
		}
		for _, n := range c.needles[[canaryKey]byte(text[i:])] {
			if bytes.HasPrefix(text[i:], n.text) && !slices.Contains(found[n.name], n.form) {
				found[n.name] = append(found[n.name], n.form)
			}
		}
	}
	return found
}

// absent fails the test for every secret that is in the text, but for those that are there on purpose.
func (c *canaries) absent(t *testing.T, where string, text []byte, purpose ...string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(c.in(text))) {
		if !slices.ContainsFunc(purpose, func(p string) bool { return strings.HasPrefix(name, p) }) {
			t.Errorf("%s holds %s, as %s", where, name, c.in(text)[name])
		}
	}
}

// jsonNumbers is how JSON shows an array of bytes.
func jsonNumbers(t *testing.T, b []byte) []byte {
	t.Helper()
	numbers := make([]int, len(b))
	for i, n := range b {
		numbers[i] = int(n)
	}
	text, err := json.Marshal(numbers)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// percent is how a URL may show bytes (RFC 3986 section 2.1).
func percent(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		fmt.Fprintf(&out, "%%%02X", c)
	}
	return out.String()
}

// TestCanarySearch: the search finds what is planted, in every form, at every place, whole and in half. Otherwise its finding nothing means nothing.
func TestCanarySearch(t *testing.T) {
	secret := []byte("\x00\xff planted secret \xfe of 41 bytes \x01\x02\x03 long")
	c := newCanaries()
	c.add("planted", secret)
	c.add("other", []byte("which is not there"))
	half := secret[:24]
	for _, planted := range [][]byte{secret, half, secret[len(secret)-24:]} {
		for before := range 7 {
			lead := bytes.Repeat([]byte{'x'}, before)
			whole := append(bytes.Clone(lead), planted...)
			for form, text := range map[string][]byte{
				"raw": whole, "hex": []byte(hex.EncodeToString(whole)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(whole))),
				"Go": fmt.Appendf(nil, "%v", whole), "Go numbers": fmt.Appendf(nil, "%#v", whole), "Go quoted": fmt.Appendf(nil, "%q", whole), "JSON numbers": jsonNumbers(t, whole),
				"URL": []byte(percent(whole)),
				"std": []byte(base64.StdEncoding.EncodeToString(whole)), "url": []byte(base64.RawURLEncoding.EncodeToString(whole)),
			} {
				text = slices.Concat([]byte(strings.Repeat("filling ", 100)), text, []byte("after"))
				if found := c.in(text); len(found["planted"]) == 0 || len(found) != 1 {
					t.Errorf("%d bytes as %s behind %d: found %v", len(planted), form, before, found)
				}
			}
		}
	}
	if found := c.in([]byte(strings.Repeat("nothing of the kind ", 1000))); len(found) != 0 {
		t.Errorf("found %v in nothing", found)
	}
}
