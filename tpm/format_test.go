package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"os"
	"testing"

	json "github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// hexBytes are bytes that stand in hexadecimal.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// vectors are docs/formats/vectors/tpm.json, made by a separate implementation in Python.
type vectors struct {
	Root    hexBytes `json:"root_secret"`
	TagKey  hexBytes `json:"tag_key"`
	AuthKey hexBytes `json:"auth_key"`
	Keys    []struct {
		Spec struct {
			Tenant      uuid.UUID         `json:"tenant"`
			KeyID       uuid.UUID         `json:"key_id"`
			Version     uint32            `json:"version"`
			Algorithm   backend.Algorithm `json:"algorithm"`
			AlgorithmID uint16            `json:"algorithm_id"`
			Purpose     backend.Purpose   `json:"purpose"`
		} `json:"spec"`
		Public  hexBytes `json:"public"`
		Parent  hexBytes `json:"parent"`
		Objects []struct {
			Public  hexBytes `json:"public"`
			Private hexBytes `json:"private"`
		} `json:"objects"`
		AuthPolicy hexBytes `json:"auth_policy"`
		AuthValue  hexBytes `json:"auth_value"`
		Counter    int      `json:"auth_counter"`
		Blob       hexBytes `json:"blob"`
	} `json:"keys"`
	Sealed []struct {
		Form      sealForm `json:"form"`
		Domain    string   `json:"domain"`
		Key       hexBytes `json:"key"`
		Binding   hexBytes `json:"binding"`
		Plaintext hexBytes `json:"plaintext"`
		Sealed    hexBytes `json:"sealed"`
		AuthValue hexBytes `json:"auth_value"`
	} `json:"sealed"`
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile("../docs/formats/vectors/tpm.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVectors holds the formats to bytes that another implementation made: blobs stay in stores for years.
func TestVectors(t *testing.T) {
	v := readVectors(t)
	k, err := newSecrets(append([]byte(nil), v.Root...))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.tag, v.TagKey) || !bytes.Equal(k.auth, v.AuthKey) {
		t.Error("the root gives other keys")
	}
	again := 0
	for _, c := range v.Keys {
		s := backend.Spec{Tenant: c.Spec.Tenant, KeyID: c.Spec.KeyID, Version: c.Spec.Version, Algorithm: c.Spec.Algorithm, Purpose: c.Spec.Purpose, Custody: backend.CustodyDevice}
		if p, err := PolicyOf(s); err != nil || !bytes.Equal(p, c.AuthPolicy) {
			t.Errorf("%s: authPolicy %x, %v", s.Algorithm, p, err)
		}
		if a, err := k.authOf(&s, c.Spec.AlgorithmID); err != nil || !bytes.Equal(a, c.AuthValue) {
			t.Errorf("%s: another auth value, %v", s.Algorithm, err)
		}
		again += c.Counter
		if len(c.Blob) == 0 {
			continue
		}
		var objects []object
		for _, o := range c.Objects {
			objects = append(objects, object{o.Public, o.Private})
		}
		body := appendBody(c.Parent, objects...)
		if blob := append(body, k.tagOf(&s, c.Spec.AlgorithmID, c.Public, body)...); !bytes.Equal(blob, c.Blob) {
			t.Errorf("%s: blob %x", s.Algorithm, blob)
		}
		p, ok := parseBlob(c.Blob)
		if !ok || p.count != len(objects) || !bytes.Equal(p.parent, c.Parent) || !bytes.Equal(p.body, body) {
			t.Errorf("%s: parsed to %+v", s.Algorithm, p)
		}
	}
	if again == 0 {
		t.Error("no vector has an auth value that took a second attempt")
	}
	for _, c := range v.Sealed {
		p, ok := parseSealed(c.Sealed)
		if !ok || p.form != c.Form {
			t.Errorf("form %d does not parse", c.Form)
			continue
		}
		if got, err := openText(p, append([]byte(nil), c.Key...), c.Domain, c.Binding); err != nil || !bytes.Equal(got, c.Plaintext) {
			t.Errorf("form %d: %v", c.Form, err)
		}
		if c.AuthValue == nil {
			continue
		}
		b := &Backend{secrets: k}
		if a, err := (engineSealer{b}).auth(c.Binding); err != nil || !bytes.Equal(a, c.AuthValue) {
			t.Errorf("form %d: another auth value, %v", c.Form, err)
		}
	}
}

func TestWrongSizeOfRoot(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := newSecrets(make([]byte, n)); !fault.Has(err, fault.Internal) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestBlobProperty: what is written is read as it was, and with a byte more or less not at all.
func TestBlobProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.Byte(), 1, 600)
		objects := make([]object, rapid.IntRange(1, maxObjects).Draw(t, "objects"))
		for i := range objects {
			objects[i] = object{some.Draw(t, "public"), some.Draw(t, "private")}
		}
		parent := rapid.SliceOfN(rapid.Byte(), nameSize, nameSize).Draw(t, "parent")
		tag := rapid.SliceOfN(rapid.Byte(), tagSize, tagSize).Draw(t, "tag")
		body := appendBody(parent, objects...)
		blob := append(bytes.Clone(body), tag...)
		p, ok := parseBlob(blob)
		if !ok || p.count != len(objects) || !bytes.Equal(p.parent, parent) || !bytes.Equal(p.tag, tag) || !bytes.Equal(p.body, body) {
			t.Fatalf("parsed to %+v", p)
		}
		for i, o := range objects {
			if !bytes.Equal(p.objects[i].public, o.public) || !bytes.Equal(p.objects[i].private, o.private) {
				t.Fatalf("object %d is another", i)
			}
		}
		if _, ok := parseBlob(blob[:len(blob)-1]); ok {
			t.Fatal("a blob cut by a byte parses")
		}
		if _, ok := parseBlob(append(blob, 0)); ok {
			t.Fatal("a blob with a byte more parses")
		}
	})
}

func FuzzBlob(f *testing.F) {
	for _, c := range readVectors(f).Keys {
		f.Add([]byte(c.Blob))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseBlob(b)
		if !ok || p.place == placeSealed {
			return
		}
		if back := append(appendBody(p.parent, p.objects[:p.count]...), p.tag...); !bytes.Equal(back, b) {
			t.Errorf("%x was read, and written as %x", b, back)
		}
	})
}

func FuzzSealed(f *testing.F) {
	for _, c := range readVectors(f).Sealed {
		f.Add([]byte(c.Sealed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseSealed(b)
		if ok && !bytes.Equal(append(bytes.Clone(p.header), p.body...), b) {
			t.Error("header and body are not the text")
		}
	})
}

func FuzzApproval(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	a, err := ApproveDigest(PCRs{Bank: "sha256", Index: []int{0, 7}}, make([]byte, 32), []byte("ref"), key)
	if err != nil {
		f.Fatal(err)
	}
	text, err := a.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseApproval(b)
		if err != nil {
			return
		}
		again, err := got.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseApproval(again); err != nil {
			t.Errorf("what was written does not parse: %v", err)
		}
	})
}
