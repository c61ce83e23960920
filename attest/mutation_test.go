package attest_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/attest"
)

// bit is one bit of one field.
func bit(t *rapid.T, b []byte) []byte {
	out := bytes.Clone(b)
	at := rapid.IntRange(0, 8*len(b)-1).Draw(t, "bit")
	out[at/8] ^= 1 << (at % 8)
	return out
}

// TestEveryBitCounts flips single bits of everything in a TPM's evidence. The service signs the altered evidence again each time, so that
// nothing but what the TPM and its maker signed can notice.
func TestEveryBitCounts(t *testing.T) {
	v, s := readVectors(t), newService(t, 1)
	for i := range v.Valid {
		one := &v.Valid[i]
		if one.Document.Kind != attest.KindTPM {
			continue
		}
		o := v.options(t, one)
		var e attest.TPM
		if err := json.Unmarshal(one.Document.Evidence, &e); err != nil {
			t.Fatal(err)
		}
		fields := map[string]func(*attest.TPM) *[]byte{
			"public": func(e *attest.TPM) *[]byte { return &e.Objects[0].Public }, "attest": func(e *attest.TPM) *[]byte { return &e.Objects[0].Attest },
			"signature": func(e *attest.TPM) *[]byte { return &e.Objects[0].Signature }, "quote": func(e *attest.TPM) *[]byte { return &e.Quote.Attest },
			"quote signature": func(e *attest.TPM) *[]byte { return &e.Quote.Signature }, "pcr": func(e *attest.TPM) *[]byte { return &e.Quote.PCRs[2].Value },
			"ak": func(e *attest.TPM) *[]byte { return &e.AK }, "ek": func(e *attest.TPM) *[]byte { return &e.EK },
			"certificate": func(e *attest.TPM) *[]byte { return &e.EKCertificates[0] }, "issuer": func(e *attest.TPM) *[]byte { return &e.EKCertificates[1] },
		}
		names := []string{"public", "attest", "signature", "quote", "quote signature", "pcr", "ak", "ek", "certificate", "issuer"}
		rapid.Check(t, func(t *rapid.T) {
			x := e
			x.Objects, x.EKCertificates = slices.Clone(e.Objects), slices.Clone(e.EKCertificates)
			x.Quote.PCRs = slices.Clone(e.Quote.PCRs)
			name := rapid.SampledFrom(names).Draw(t, "field")
			field := fields[name](&x)
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				*field = (*field)[:rapid.IntRange(0, len(*field)-1).Draw(t, "length")]
			case 1:
				*field = append(bytes.Clone(*field), rapid.Byte().Draw(t, "more"))
			default:
				*field = bit(t, *field)
			}
			b, err := attest.Encode(x)
			if err != nil {
				t.Fatal(err)
			}
			c, err := attest.Verify(s.document(one.Document.Statement, attest.KindTPM, b), o)
			if err == nil && name == "ek" && cmp.Equal(c, &one.Claims) {
				return // of the endorsement key's public area the key alone is certified, and nothing else of it is claimed
			}
			if !errors.Is(err, attest.ErrEvidence) {
				t.Fatalf("altered %s verifies: %+v, %v", name, c, err)
			}
		})
		// And of the statement, which the TPM's signatures are bound to.
		rapid.Check(t, func(t *rapid.T) {
			altered := bit(t, one.Document.Statement)
			if c, err := attest.Verify(s.document(altered, attest.KindTPM, one.Document.Evidence), o); !errors.Is(err, attest.ErrEvidence) {
				t.Fatalf("an altered statement verifies: %+v, %v", c, err)
			}
		})
	}
}

// TestDocumentBits flips bits of whole documents, as they lie in a file.
func TestDocumentBits(t *testing.T) {
	v := readVectors(t)
	signer := newService(t, 1).spki
	rapid.Check(t, func(t *rapid.T) {
		one := &v.Valid[rapid.IntRange(0, len(v.Valid)-1).Draw(t, "vector")]
		b, err := one.Document.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		d, err := attest.Parse(bit(t, b))
		if err == nil {
			if same, err := d.Marshal(); err == nil && bytes.Equal(same, b) {
				return // white space
			}
			_, err = attest.Verify(d, attest.Options{Nonce: nonce(), Signer: signer, Now: v.Now})
			if err == nil {
				t.Fatal("an altered document verifies")
			}
		}
		if err != nil && !errors.Is(err, attest.ErrEvidence) {
			t.Fatal(err)
		}
	})
}

// FuzzVerify: no bytes make the verifier fall over, and what it takes it takes again.
func FuzzVerify(f *testing.F) {
	v, s := readVectors(f), newService(f, 1)
	for i := range v.Valid {
		one := &v.Valid[i]
		f.Add(one.Document.Statement, one.Document.Kind, one.Document.Evidence)
	}
	f.Fuzz(func(t *testing.T, statement []byte, kind string, evidence []byte) {
		d := s.document(statement, kind, evidence)
		c, err := attest.Verify(d, attest.Options{Nonce: nonce(), Signer: s.spki, Now: v.Now})
		if (c == nil) != errors.Is(err, attest.ErrEvidence) || (c == nil) == (err == nil) {
			t.Fatalf("%+v, %v", c, err)
		}
	})
}

// FuzzParse: what is a document is written as it was read.
func FuzzParse(f *testing.F) {
	v := readVectors(f)
	for i := range v.Valid {
		b, err := v.Valid[i].Document.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"format":"keywright-attestation/v1","format":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := attest.Parse(b)
		if err != nil {
			if !errors.Is(err, attest.ErrEvidence) {
				t.Fatal(err)
			}
			return
		}
		out, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := attest.Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := again.Marshal(); err != nil || !bytes.Equal(same, out) {
			t.Fatalf("%s\n%s\n%v", out, same, err)
		}
	})
}
