package attest_test

import (
	"encoding/hex"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/attest"
)

var update = flag.Bool("update", false, "write the vectors anew, with a TPM's fresh evidence")

const vectorFile = "../docs/formats/vectors/attestation.json"

// vectors is the file. Documents stand in it as a caller gets them.
type vectors struct {
	Note   string    `json:"note"`
	Signer string    `json:"signer"` // SPKI DER, hexadecimal
	Roots  string    `json:"roots"`  // PEM
	Now    time.Time `json:"now"`    // for the certificates
	Valid  []vector  `json:"valid"`
}

type vector struct {
	Name     string          `json:"name"`
	Nonce    string          `json:"nonce"`   // hexadecimal
	Binding  string          `json:"binding"` // hexadecimal
	Signed   string          `json:"signed"`  // hexadecimal: what the service's signature is over
	Document attest.Document `json:"document"`
	Claims   attest.Claims   `json:"claims"` // with signer and, for a TPM, roots given
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if len(v.Valid) < 5 {
		t.Fatalf("%d vectors", len(v.Valid))
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	return must[[]byte](t)(hex.DecodeString(s))
}

// options are those under which a vector verifies.
func (v *vectors) options(t testing.TB, one *vector) attest.Options {
	t.Helper()
	o := attest.Options{Nonce: unhex(t, one.Nonce), Signer: unhex(t, v.Signer), Now: v.Now}
	if one.Document.Kind == attest.KindTPM {
		o.EKRoots = pool(t, []byte(v.Roots))
	}
	return o
}

func TestVectors(t *testing.T) {
	v := readVectors(t)
	for i := range v.Valid {
		one := &v.Valid[i]
		t.Run(one.Name, func(t *testing.T) {
			if b := attest.Binding(one.Document.Statement); hex.EncodeToString(b[:]) != one.Binding {
				t.Error("the binding is another")
			}
			if hex.EncodeToString(one.Document.SignedBytes()) != one.Signed {
				t.Error("what is signed is another")
			}
			b := must[[]byte](t)(one.Document.Marshal())
			d, err := attest.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			c, err := attest.Verify(d, v.options(t, one))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&one.Claims, c); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// writeVectors makes them of a real TPM's evidence, and of statements beside it.
func writeVectors(t *testing.T, m *machine, s *service) {
	v := &vectors{Note: "docs/formats/attestation.md. The service's key is Ed25519 of the seed of 31 zero bytes and 01; the TPM is swtpm.",
		Signer: hex.EncodeToString(s.spki), Roots: string(m.roots), Now: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
	add := func(name string, d *attest.Document) {
		one := vector{Name: name, Nonce: hex.EncodeToString(nonce()), Document: *d, Signed: hex.EncodeToString(d.SignedBytes())}
		b := attest.Binding(d.Statement)
		one.Binding = hex.EncodeToString(b[:])
		c, err := attest.Verify(d, v.options(t, &one))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		one.Claims = *c
		v.Valid = append(v.Valid, one)
	}
	tpm := func(name string, st attest.Statement, parts ...part) {
		add(name, m.attest(t, s, m.key(t, st, parts...), properly(), st, nil))
	}
	tpm("tpm-ecdsa-p256", statement(nil), p256())
	tpm("tpm-hmac", statement(func(st *attest.Statement) { st.Algorithm, st.Purpose = "HMAC-SHA256", "mac" }), part{attest.RoleKey, hmac(signs)})
	for _, p := range others(t) {
		add(p.name, s.document(encoded(t, p.statement), p.kind, p.evidence))
	}
	b := must[[]byte](t)(json.Marshal(v, json.Deterministic(true), jsontext.WithIndent(" ")))
	if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
