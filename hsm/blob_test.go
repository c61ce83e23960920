package hsm

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
)

func testSpec() backend.Spec {
	return backend.Spec{Tenant: uuid.MustParse("00000000-0000-4000-8000-000000000001"), KeyID: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057"),
		Version: 258, Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption, Custody: backend.CustodyDevice}
}

// TestBlobVector holds the format to bytes that were written down: blobs stay in stores for years.
func TestBlobVector(t *testing.T) {
	s := testSpec()
	body := appendBody(placeResident, byToken, "deadbeef", idOf(&s), nil)
	const want = "01010108646561646265656601890a5dac96774bbcceb302099a805700000102"
	if hex.EncodeToString(body) != want {
		t.Errorf("body %x", body)
	}
	mac := hmac.New(sha256.New, make([]byte, 32))
	mac.Write(statement(&s, 3, nil, body))
	blob := mac.Sum(bytes.Clone(body))
	p, ok := parseBlob(blob)
	if !ok || p.place != placeResident || p.auth != byToken || p.name != "deadbeef" || p.id != idOf(&s) || len(p.wrapped) > 0 ||
		!bytes.Equal(p.body, body) || len(p.tag) != tagSize {
		t.Errorf("parsed to %+v", p)
	}
}

// TestStatement: whatever changes in a record changes what its tag is over.
func TestStatement(t *testing.T) {
	good := testSpec()
	body := appendBody(placeResident, byToken, "x", idOf(&good), nil)
	seen := map[string]string{string(statement(&good, 3, nil, body)): "the good one"}
	add := func(what string, b []byte) {
		t.Helper()
		if other, ok := seen[string(b)]; ok {
			t.Errorf("%s has the statement of %s", what, other)
		}
		seen[string(b)] = what
	}
	for what, change := range map[string]func(*backend.Spec){
		"tenant": func(s *backend.Spec) { s.Tenant[0]++ }, "key": func(s *backend.Spec) { s.KeyID[3]++ }, "version": func(s *backend.Spec) { s.Version++ },
		"purpose": func(s *backend.Spec) { s.Purpose = backend.PurposeMAC }, "export": func(s *backend.Spec) { s.Exportable = true },
		"custody": func(s *backend.Spec) { s.Custody = backend.CustodySealed },
	} {
		s := good
		change(&s)
		add(what, statement(&s, 3, nil, body))
	}
	add("algorithm", statement(&good, 4, nil, body))
	add("public key", statement(&good, 3, []byte{1}, body))
	add("body", statement(&good, 3, nil, append(bytes.Clone(body), 0)))
}

// FuzzBlob: what parses is made of its parts again, byte for byte.
func FuzzBlob(f *testing.F) {
	s := testSpec()
	tag := make([]byte, tagSize)
	f.Add(append(appendBody(placeResident, byToken, "serial", idOf(&s), nil), tag...))
	f.Add(append(appendBody(placeWrapped, byDigest, "", idOf(&s), []byte("wrapped")), tag...))
	f.Add([]byte{blobVersion, byte(placeSealed), 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseBlob(b)
		if !ok {
			return
		}
		if p.place == placeSealed {
			if !bytes.Equal(append([]byte{blobVersion, byte(placeSealed)}, p.sealed...), b) {
				t.Error("a sealed blob of other parts")
			}
			return
		}
		if again := append(appendBody(p.place, p.auth, p.name, p.id, p.wrapped), p.tag...); !bytes.Equal(again, b) {
			t.Errorf("%x parses to %x", b, again)
		}
	})
}

// TestServiceKeys: identities are written down, are all different, and no key of a record has one.
func TestServiceKeys(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range ServiceKeys() {
		if !isService(k.ID) || seen[string(k.ID[:])] {
			t.Errorf("%s: %x", k.Name, k.ID)
		}
		seen[string(k.ID[:])] = true
	}
	s := testSpec()
	if isService(idOf(&s)) {
		t.Error("a record's key is taken for a service key")
	}
}
