package api

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// requestTypes lists each request type once.
func requestTypes(routes []route) []*route {
	var out []*route
	seen := map[reflect.Type]bool{}
	for i := range routes {
		if r := &routes[i]; r.BodyLimit > 0 && !seen[r.Do.Req] {
			seen[r.Do.Req] = true
			out = append(out, r)
		}
	}
	return out
}

// FuzzDecode decodes a body as every request type: number which, modulo their number. What is accepted must be JSON without
// repeated names, must come back from its own encoding as it was, and must never have been read past the binary fields.
func FuzzDecode(f *testing.F) {
	s := newRig(f, Limits{})
	rows := requestTypes(s.routes)
	f.Add(uint8(0), []byte(`{"plaintext":"AAEC"}`))
	for i := range rows {
		f.Add(uint8(i), []byte(`{}`))
		f.Add(uint8(i), []byte(`{"items":[{"plaintext":"AA==","context":{"a":"b"}}],"key_version":4}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		row := rows[int(which)%len(rows)]
		c := newCall(s.Server)
		c.body = bytes.Clone(body)
		p := reflect.New(row.Do.Req)
		err := c.decodeInto(p.Interface())
		if !bytes.Equal(c.body, body) {
			t.Fatal("decoding changed the body")
		}
		if err != nil {
			if status, ok := statusOf(fault.CodeOf(err)); status != 400 || !ok {
				t.Fatalf("a body that is refused gives %v", err)
			}
			return
		}
		if !jsontext.Value(body).IsValid() {
			t.Fatalf("accepted what is not JSON: %q", body)
		}
		again, err := json.Marshal(p.Interface(), encodeOptions)
		if err != nil {
			t.Fatal(err)
		}
		c2 := newCall(s.Server)
		c2.body = again
		q := reflect.New(row.Do.Req)
		if err := c2.decodeInto(q.Interface()); err != nil {
			t.Fatalf("%s was accepted, its encoding %s not: %v", body, again, err)
		}
		third, err := json.Marshal(q.Interface(), encodeOptions)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%s became %s", again, third)
		}
	})
}

// FuzzRequest sends a body to every route through the whole pipeline: whatever it is, the answer has one of the two forms.
func FuzzRequest(f *testing.F) {
	f.Add(uint8(0), []byte(`{"ciphertext":"AgEA"}`))
	f.Add(uint8(1), []byte(`{"plaintext":"AAEC","items":null}`))
	f.Add(uint8(2), []byte(`{"bytes":16}`))
	f.Add(uint8(3), []byte(`{"message":"","signature":"AA=="}`))
	f.Add(uint8(4), []byte(`{"name":"a","algorithm":"AES-256-GCM","policy":{"rotation_period":"1h"}}`))
	paths := []string{"/decrypt", "/encrypt", "/random", "/verify", "/keys"}
	s := newRig(f, Limits{})
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		w := s.do("POST", prefix+paths[int(which)%len(paths)], string(body))
		if w.Code >= 500 && !bytes.Contains(body, []byte("cGFuaWM")) { // which the fake takes as a wish to panic
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code < 300 {
			var r wire.Response[jsontext.Value]
			if err := json.Unmarshal(w.Body.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil {
				t.Fatalf("%s: %v", w.Body, err)
			}
			return
		}
		var r wire.ErrorResponse
		if err := json.Unmarshal(w.Body.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil || r.Error.Code == "" {
			t.Fatalf("%s: %v", w.Body, err)
		}
	})
}
