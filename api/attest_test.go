package api

import (
	"bytes"
	"encoding/pem"
	"testing"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/fault"
)

// TestServiceAttestation takes evidence over the API and verifies it as somebody who has nothing but the answer, a nonce and the service's key.
func TestServiceAttestation(t *testing.T) {
	s := newService(t)
	key := call1[wire.AttestationKey](s, "GET", "/attestation-key", nil)
	signer, rest := pem.Decode([]byte(key.PublicKey))
	if signer == nil || len(rest) > 0 || key.Algorithm != "Ed25519" {
		t.Fatalf("%+v", key)
	}
	k := call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "k", Algorithm: "AES-256-GCM"})
	nonce := bytes.Repeat([]byte{3}, 16)
	a := call1[wire.Attestation](s, "POST", "/keys/k/attestation", wire.Attest{Nonce: nonce})
	e := a.Evidence
	d := &attest.Document{Format: e.Format, Statement: e.Statement, Kind: e.Kind, Evidence: e.Evidence, Signature: attest.Signature(e.Signature)}
	c, err := attest.Verify(d, attest.Options{Nonce: nonce, Signer: signer.Bytes})
	if err != nil {
		t.Fatal(err)
	}
	if a.Format != attest.Format || c.KeyID != k.ID || a.Claims.KeyID != k.ID || a.Claims.Custody != "software" || a.Claims.Assurance != string(attest.AssuranceStatement) ||
		a.Claims.GeneratedOnDevice || !a.Claims.Exportable || !bytes.Equal(a.Claims.Nonce, nonce) || a.Claims.Device.Kind != "software" || !a.Claims.Time.Equal(c.Time) {
		t.Errorf("%+v", a.Claims)
	}
	refused(t, s.do("POST", "/keys/k/attestation", `{}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/keys/k/attestation", `{"nonce":""}`), 400, fault.BadSize)
	refused(t, s.do("POST", "/keys/k/attestation", `{"nonce":"AAE"}`), 400, fault.BadEncoding)
	refused(t, s.do("POST", "/keys/k/attestation", `{"nonce":"AwMDAwMDAwMDAwMDAwMDAw==","version":2}`), 404, fault.VersionNotFound)
	refused(t, s.do("POST", "/keys/none/attestation", `{"nonce":"AwMDAwMDAwMDAwMDAwMDAw=="}`), 404, fault.KeyNotFound)
	refused(t, s.do("POST", "/keys", `{"name":"must","algorithm":"AES-256-GCM","policy":{"require_attestation":true}}`), 409, fault.Attestation)
}
