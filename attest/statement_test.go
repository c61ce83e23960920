package attest_test

import (
	"testing"

	"github.com/keywright/keywright/attest"
)

// other is a document of something else than a TPM.
type other struct {
	name, kind string
	statement  attest.Statement
	evidence   []byte
}

func resident() attest.PKCS11 {
	return attest.PKCS11{Placement: attest.PlacementResident, Attributes: &attest.Attributes{Local: true, Sensitive: true, AlwaysSensitive: true, NeverExtractable: true},
		Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Serial: "0123456789abcdef", Firmware: "2.6", Label: "keywright"}
}

func onToken(st *attest.Statement) {
	st.Algorithm, st.Purpose, st.Backend = "AES-256-GCM", "encryption", attest.Backend{Kind: "hsm", ID: "hsm-1"}
}

func others(t testing.TB) []other {
	wrapped := resident()
	wrapped.Placement, wrapped.Attributes = attest.PlacementWrapped, nil
	return []other{
		{"pkcs11-resident", attest.KindPKCS11, statement(onToken), encoded(t, resident())},
		{"pkcs11-wrapped", attest.KindPKCS11, statement(onToken), encoded(t, wrapped)},
		{"sealed", attest.KindNone, statement(func(st *attest.Statement) { onToken(st); st.Custody = "sealed" }), nil},
		{"software", attest.KindNone, statement(func(st *attest.Statement) {
			onToken(st)
			st.Custody, st.Backend, st.Exportable = "software", attest.Backend{Kind: "software", ID: "software"}, true
		}), nil},
	}
}

// TestStatements: what is no device's evidence is called a statement, needs the service's key, and flatters nothing.
func TestStatements(t *testing.T) {
	s := newService(t, 1)
	good := attest.Options{Nonce: nonce(), Signer: s.spki}
	want := map[string]struct{ generated, exportable bool }{
		"pkcs11-resident": {true, false}, "pkcs11-wrapped": {true, true}, "sealed": {false, true}, "software": {false, true},
	}
	for _, o := range others(t) {
		d := s.document(encoded(t, o.statement), o.kind, o.evidence)
		c, err := attest.Verify(d, good)
		if err != nil {
			t.Fatalf("%s: %v", o.name, err)
		}
		if w := want[o.name]; c.Assurance != attest.AssuranceStatement || c.GeneratedOnDevice != w.generated || c.Exportable != w.exportable ||
			c.Custody != o.statement.Custody || c.Device.DeviceIdentity != "" {
			t.Errorf("%s: %+v", o.name, c)
		}
		anybody := good
		anybody.Signer = nil
		refused(t, o.name+" of nobody", d, anybody)
		device := good
		device.Require.DeviceEvidence = true
		refused(t, o.name+" as a device's", d, device)
		tpm := good
		tpm.AttestationKey = make([]byte, 34)
		refused(t, o.name+" as a TPM's", d, tpm)
		tpm = good
		tpm.PCRs = []attest.PCR{{Bank: "sha256"}}
		refused(t, o.name+" with PCRs", d, tpm)
	}
}

func TestTokens(t *testing.T) {
	s := newService(t, 1)
	o := attest.Options{Nonce: nonce(), Signer: s.spki}
	make := func(st func(*attest.Statement), p func(*attest.PKCS11)) *attest.Document {
		e := resident()
		if p != nil {
			p(&e)
		}
		return s.document(encoded(t, statement(func(x *attest.Statement) {
			onToken(x)
			if st != nil {
				st(x)
			}
		})), attest.KindPKCS11, encoded(t, e))
	}
	for what, p := range map[string]func(*attest.PKCS11){
		"extractable":        func(e *attest.PKCS11) { e.Attributes.Extractable, e.Attributes.NeverExtractable = true, false },
		"once extractable":   func(e *attest.PKCS11) { e.Attributes.NeverExtractable = false },
		"not sensitive":      func(e *attest.PKCS11) { e.Attributes.Sensitive, e.Attributes.AlwaysSensitive = false, false },
		"once in clear":      func(e *attest.PKCS11) { e.Attributes.AlwaysSensitive = false },
		"a token that leaks": func(e *attest.PKCS11) { e.LeaksWrapped = true },
	} {
		c, err := attest.Verify(make(nil, p), o)
		if err != nil || !c.Exportable || !c.GeneratedOnDevice {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	imported := func(st *attest.Statement) { st.Origin = "imported" }
	foreign := func(e *attest.PKCS11) {
		e.Attributes.Local, e.Attributes.AlwaysSensitive, e.Attributes.NeverExtractable = false, false, false
	}
	for what, st := range map[string]func(*attest.Statement){"imported": imported, "generated, and the token does not say so": nil} {
		d := make(st, foreign)
		if c, err := attest.Verify(d, o); err != nil || c.GeneratedOnDevice || !c.Exportable {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
		demanding := o
		demanding.Require.GeneratedOnDevice = true
		refused(t, what+", demanded to be generated on the device", d, demanding)
	}
	for what, d := range map[string]*attest.Document{
		"generated, said to be imported": make(imported, nil),
		"attributes that contradict":     make(nil, func(e *attest.PKCS11) { e.Attributes.Extractable = true }),
		"no attributes":                  make(nil, func(e *attest.PKCS11) { e.Attributes = nil }),
		"wrapped with attributes":        make(nil, func(e *attest.PKCS11) { e.Placement = attest.PlacementWrapped }),
		"nowhere":                        make(nil, func(e *attest.PKCS11) { e.Placement = "" }),
		"of a TPM":                       make(func(st *attest.Statement) { st.Backend.Kind = "tpm" }, nil),
		"sealed":                         make(func(st *attest.Statement) { st.Custody = "sealed" }, nil),
		"exportable":                     make(func(st *attest.Statement) { st.Exportable = true }, nil),
		"public-only":                    make(func(st *attest.Statement) { st.Origin = "public-only" }, nil),
		"no key id":                      make(func(st *attest.Statement) { st.KeyID = "" }, nil),
		"another form of key id":         make(func(st *attest.Statement) { st.KeyID = "{" + st.KeyID + "}" }, nil),
		"no tenant":                      make(func(st *attest.Statement) { st.Tenant = "" }, nil),
		"no version":                     make(func(st *attest.Statement) { st.KeyVersion = 0 }, nil),
	} {
		refused(t, what, d, o)
	}
}

// TestSignature: the service signs all of the document, and as nothing else.
func TestSignature(t *testing.T) {
	s := newService(t, 1)
	all := others(t)
	o := attest.Options{Nonce: nonce(), Signer: s.spki}
	for what, change := range map[string]func(*attest.Document){
		"another statement":    func(d *attest.Document) { d.Statement = encoded(t, all[2].statement) },
		"another kind":         func(d *attest.Document) { d.Kind = attest.KindNone },
		"no evidence":          func(d *attest.Document) { d.Evidence, d.Kind = nil, attest.KindNone },
		"other evidence":       func(d *attest.Document) { d.Evidence = all[1].evidence },
		"another format":       func(d *attest.Document) { d.Format = "keywright-attestation/v2" },
		"no signature":         func(d *attest.Document) { d.Signature.Value = nil },
		"another's signature":  func(d *attest.Document) { *d = *newService(t, 2).document(d.Statement, d.Kind, d.Evidence) },
		"another's key":        func(d *attest.Document) { d.Signature.PublicKey = newService(t, 2).spki },
		"no key":               func(d *attest.Document) { d.Signature.PublicKey = nil },
		"evidence moved over":  func(d *attest.Document) { d.Statement, d.Evidence = append(d.Statement, d.Evidence...), nil },
		"an unknown kind":      func(d *attest.Document) { *d = *s.document(d.Statement, "sgx", d.Evidence) },
		"none with evidence":   func(d *attest.Document) { *d = *s.document(d.Statement, attest.KindNone, d.Evidence) },
		"a statement too long": func(d *attest.Document) { *d = *s.document(make([]byte, attest.MaxDocument+1), d.Kind, d.Evidence) },
		"unknown members":      func(d *attest.Document) { *d = *s.document([]byte(`{"admin":true}`), d.Kind, d.Evidence) },
	} {
		d := s.document(encoded(t, all[0].statement), all[0].kind, all[0].evidence)
		if _, err := attest.Verify(d, o); err != nil {
			t.Fatal(err)
		}
		change(d)
		refused(t, what, d, o)
	}
}
