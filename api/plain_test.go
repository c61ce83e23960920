package api

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/keys"
)

// plainTypes are the requests that decodePlain knows, each with the names of its fields.
func plainTypes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[wire.Encrypt](), reflect.TypeFor[wire.Decrypt](), reflect.TypeFor[wire.Sign](), reflect.TypeFor[wire.Decapsulate]()}
}

// agree decodes a body as t both ways, and reports whether it was plain. What is plain must be what the strict decoder makes of it; what is not must have left nothing.
func agree(t rapid.TB, s *Server, as reflect.Type, body []byte) bool {
	t.Helper()
	c, p := newCall(s), reflect.New(as)
	c.body = bytes.Clone(body)
	c.fields.reserve(len(body))
	taken := c.decodePlain(p.Interface())
	if !bytes.Equal(c.body, body) {
		t.Fatalf("decoding %q changed it", body)
	}
	if !taken {
		if !p.Elem().IsZero() || len(c.fields.buf) > 0 {
			t.Fatalf("%q is not plain, and left %+v", body, p.Elem())
		}
		return false
	}
	strict, want := newCall(s), reflect.New(as)
	strict.fields.reserve(len(body))
	if err := decodeBody(bytes.Clone(body), want.Interface(), strict.decode); err != nil {
		t.Fatalf("%q is plain, but not right: %v", body, err)
	}
	if !reflect.DeepEqual(want.Interface(), p.Interface()) { // cmp takes seconds for a thousand items
		t.Fatalf("%q is read in two ways:\n%s", body, cmp.Diff(want.Interface(), p.Interface()))
	}
	return true
}

// Bodies out of the parts of which real ones are made, right and wrong, are read as the strict decoder reads them.
func TestPlainIsStrict(t *testing.T) {
	s := newRig(t, Limits{}).Server
	parts := rapid.SampledFrom([]string{`{`, `}`, `[`, `]`, `,`, `:`, ` `, "\n", `"items"`, `"plaintext"`, `"ciphertext"`, `"aad"`, `"message"`, `"digest"`, `"kem_ciphertext"`, `"context"`,
		`"AAEC"`, `"AA=="`, `""`, `"AAF="`, `"A"`, `null`, `1`, `"pl\u0061intext"`, "\"AA\nEC\"", `\`, `"key"`, `{"plaintext":"AAEC"}`, `{"items":[`, `{"message":"","digest":"AAEC"}`})
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(0, 24).Draw(t, "parts") {
			b.WriteString(parts.Draw(t, "part"))
		}
		agree(t, s, rapid.SampledFrom(plainTypes()).Draw(t, "type"), []byte(b.String()))
	})
}

// What most bodies look like is plain, with spaces and without.
func TestPlain(t *testing.T) {
	s := newRig(t, Limits{}).Server
	text := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 1088))
	for i, names := range [][]string{{"plaintext", "aad"}, {"ciphertext", "aad"}, {"message", "digest"}, {"kem_ciphertext"}} {
		as := plainTypes()[i]
		item := `{"` + names[0] + `":"` + text + `"}`
		both := "{ \"" + strings.Join(names, "\" :\t\"AAEC\" , \"") + "\": \"\" }\n"
		for _, body := range []string{item, both, `{"items":[` + item + `]}`, `{"items": [` + item + ", " + both + "\r\n]}", `{"items":[` + strings.Repeat(item+",", keys.MaxItems-1) + item + `]}`} {
			if !agree(t, s, as, []byte(body)) {
				t.Errorf("%v: %.80q is not plain", as, body)
			}
		}
		for _, body := range []string{"", "{", "{}", `{"items":[]}`, `{"items":[` + item + `]`, `{"items":[` + item + `,]}`, `{"items":[` + item + `],}`, item + "}", item + item,
			`{"items":[` + item + `],"key":"k"}`, `{"` + names[0] + `":"AAEC","` + names[0] + `":"AAEC"}`, `{"` + names[0] + `":""` + `,"` + names[0] + `":""}`,
			`{"` + names[0] + `":null}`, `{"` + names[0] + `":"AA\/C"}`, `{"` + names[0] + `":"AAF="}`, `{"` + names[0] + "\":\"AA\nEC\"}",
			`{"items":[` + strings.Repeat(item+",", keys.MaxItems) + item + `]}`} {
			if agree(t, s, as, []byte(body)) {
				t.Errorf("%v: %.80q is plain", as, body)
			}
		}
	}
}

// FuzzPlain holds the two ways against each other.
func FuzzPlain(f *testing.F) {
	s := newRig(f, Limits{}).Server
	f.Add(uint8(0), []byte(`{"plaintext":"AAEC"}`))
	f.Add(uint8(1), []byte(`{"items":[{"ciphertext":"AAEC","aad":""}, {"ciphertext" : "AA=="}]}`))
	f.Add(uint8(2), []byte("{\"message\":\"AA\nEC\"}"))
	f.Add(uint8(3), []byte(`{"kem_ciphertext":"\u0041AEC"}`))
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		agree(t, s, plainTypes()[int(which)%len(plainTypes())], body)
	})
}
