// Package attest is the evidence of where a key lives: its format, its making and its verification, offline and without the service.
//
// A document (docs/formats/attestation.md) is a statement by the service, what the device says, and the service's signature over both.
// There are two sorts, and they are never mixed up. A TPM signs what it says (TPM2_Certify, TPM2_Quote): the claims about generation,
// exportability, key and boot state are then derived from the signed structures themselves and from nothing that stands beside them. A
// PKCS#11 token signs nothing: its attributes are the service's statement of what the token told it, and worth what the service's word is
// worth. Claims.Assurance says which.
//
// The verifier trusts what it brought itself: its nonce, and where it has them the service's public key, the attestation key, the roots of
// TPM makers. Everything in the document is untrusted input; what is in it twice must agree.
package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Format is the name and version of the document format.
const Format = "keywright-attestation/v1"

// Sizes in bytes.
const (
	MinNonce    = 16
	MaxNonce    = 64
	MaxDocument = 1 << 18
	maxPart     = 1 << 16 // of a certificate or a TPM structure
)

// Kinds of evidence (backend.Evidence.Kind).
const (
	KindTPM    = "tpm"
	KindPKCS11 = "pkcs11"
	KindNone   = "none" // the service's statement is all there is: sealed and software custody
)

// ErrEvidence is under every error about a document that does not verify or is malformed.
var ErrEvidence = errors.New("the evidence does not verify")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrEvidence, fmt.Sprintf(format, args...))
}

// Document is what a caller gets and keeps. Statement and Evidence are JSON in the exact bytes that were signed.
type Document struct {
	Format    string    `json:"format"`
	Statement []byte    `json:"statement"` // JSON of Statement
	Kind      string    `json:"kind"`      // of the evidence
	Evidence  []byte    `json:"evidence"`  // JSON of TPM or PKCS11; empty with KindNone
	Signature Signature `json:"signature"`
}

// Signature is the service's, by Ed25519 (RFC 8032 section 5.1.6) over the encoding that SignedBytes gives.
type Signature struct {
	PublicKey []byte `json:"public_key"` // SPKI DER (RFC 8410)
	Value     []byte `json:"value"`      // 64 bytes
}

// Statement is what the service says of a key version. Nobody but the service vouches for what is in it alone.
type Statement struct {
	Tenant     string    `json:"tenant"` // UUID
	KeyID      string    `json:"key_id"` // UUID
	KeyVersion uint32    `json:"key_version"`
	Algorithm  string    `json:"algorithm"`
	Purpose    string    `json:"purpose"`
	PublicKey  []byte    `json:"public_key,omitempty"` // SPKI DER; absent for symmetric keys
	Custody    string    `json:"custody"`              // device, sealed or software
	Origin     string    `json:"origin"`               // generated or imported
	Exportable bool      `json:"exportable"`           // whether the service may ever export it
	State      string    `json:"state"`
	Policy     Policy    `json:"policy"`
	Backend    Backend   `json:"backend"`
	Nonce      []byte    `json:"nonce"` // the verifier's, 16 to 64 bytes
	Time       time.Time `json:"time"`  // the service's clock, UTC, whole seconds
}

// Policy is what the key may be used for, as far as the service enforces it.
type Policy struct {
	Operations         []string `json:"operations,omitempty"`
	RequireAttestation bool     `json:"require_attestation,omitempty"`
	RequiredContext    []string `json:"required_context,omitempty"`
	UsageLimit         int64    `json:"usage_limit,omitempty"`
}

// Backend is where the service keeps the key.
type Backend struct {
	Kind string `json:"kind"` // software, hsm or tpm
	ID   string `json:"id"`   // the device's identity in the service's records
}

// TPM is the evidence of a TPM 2.0. Its structures are marshalled as the TPM specification part 2 has them, without a size in front.
type TPM struct {
	// Objects are the TPM objects of the key: one with the role "key", or for keys of two parts one "cipher" and one "mac".
	Objects []Object `json:"objects"`
	// Quote is of the PCRs, made after the certifications and in the same boot.
	Quote Quote `json:"quote"`
	// AK is the TPMT_PUBLIC of the attestation key: restricted, signing, under the endorsement hierarchy.
	AK []byte `json:"ak"`
	// EK is the TPMT_PUBLIC of the endorsement key; empty where there is none.
	EK []byte `json:"ek,omitempty"`
	// EKCertificates are X.509 DER, the endorsement key's first, then what chains it; none where the TPM has none.
	EKCertificates [][]byte `json:"ek_certificates,omitempty"`
	// Manufacturer and Model are what TPM2_GetCapability said (TPM_PT_MANUFACTURER, TPM_PT_VENDOR_STRING_1 to 4): signed by no TPM.
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
}

// Roles of objects.
const (
	RoleKey    = "key"
	RoleCipher = "cipher"
	RoleMAC    = "mac"
)

// Object is one TPM object and what the TPM says of it.
type Object struct {
	Role      string `json:"role"`
	Public    []byte `json:"public"`    // TPMT_PUBLIC
	Attest    []byte `json:"attest"`    // TPMS_ATTEST of TPM2_Certify with the binding as qualifying data
	Signature []byte `json:"signature"` // TPMT_SIGNATURE by the AK
}

// Quote is a TPM2_Quote with the binding as qualifying data.
type Quote struct {
	Attest    []byte `json:"attest"`    // TPMS_ATTEST
	Signature []byte `json:"signature"` // TPMT_SIGNATURE by the AK
	PCRs      []PCR  `json:"pcrs"`      // the values quoted, by bank and number ascending, in the order of the quote's selection
}

// PCR is the value of one register.
type PCR struct {
	Bank  string `json:"bank"` // sha1, sha256, sha384 or sha512
	Index int    `json:"index"`
	Value []byte `json:"value"`
}

// PKCS11 is what a token says of a key's object (PKCS#11 2.40 base specification, sections 4.8 to 4.10). The token signs none of it.
type PKCS11 struct {
	// Placement is resident, or wrapped: then the key is no object of the token, and Attributes is absent.
	Placement    string      `json:"placement"`
	Attributes   *Attributes `json:"attributes,omitempty"`
	Manufacturer string      `json:"manufacturer,omitempty"`
	Model        string      `json:"model,omitempty"`
	Serial       string      `json:"serial,omitempty"`
	Firmware     string      `json:"firmware,omitempty"`
	Label        string      `json:"label,omitempty"`
	// LeaksWrapped: the service found that this token wraps out keys that it calls non-extractable. Then exportable is claimed, whatever the attributes say.
	LeaksWrapped bool `json:"leaks_wrapped,omitempty"`
}

// Placements.
const (
	PlacementResident = "resident"
	PlacementWrapped  = "wrapped"
)

// Attributes are booleans of a private or secret key.
type Attributes struct {
	Local            bool `json:"CKA_LOCAL"`
	Sensitive        bool `json:"CKA_SENSITIVE"`
	AlwaysSensitive  bool `json:"CKA_ALWAYS_SENSITIVE"`
	Extractable      bool `json:"CKA_EXTRACTABLE"`
	NeverExtractable bool `json:"CKA_NEVER_EXTRACTABLE"`
}

// Domains of what is hashed and signed.
const (
	signatureDomain = "keywright/v1/attestation"
	bindingDomain   = "keywright/v1/attestation-binding"
)

// pae is the pre-authentication encoding of PASETO (draft-paragon-paseto-rfc-01 section 2.2.1): how many pieces, then each with its length,
// all 64-bit little-endian. No two lists of pieces have the same.
func pae(pieces ...[]byte) []byte {
	size := 8
	for _, p := range pieces {
		size += 8 + len(p)
	}
	out := make([]byte, 0, size)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(pieces)))
	for _, p := range pieces {
		out = binary.LittleEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// Binding is what a device signs over to tie its evidence to one statement, nonce and all: SHA-256 of the encoded statement.
func Binding(statement []byte) [sha256.Size]byte {
	return sha256.Sum256(pae([]byte(bindingDomain), statement))
}

// SignedBytes is what the service's signature is over.
func (d *Document) SignedBytes() []byte {
	return pae([]byte(signatureDomain), []byte(d.Format), d.Statement, []byte(d.Kind), d.Evidence)
}

// Encode gives the JSON of a Statement, TPM or PKCS11, for Document.Statement and Document.Evidence.
func Encode[T Statement | TPM | PKCS11](v T) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	return b, nil
}

// decode is strict: no unknown members, no duplicates, nothing after the value.
func decode[T any](b []byte, what string) (*T, error) {
	if len(b) > MaxDocument {
		return nil, refuse("the %s is too large", what)
	}
	v := new(T)
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return nil, refuse("the %s is malformed", what)
	}
	return v, nil
}

// Parse reads a document. It checks the form alone.
func Parse(b []byte) (*Document, error) {
	d, err := decode[Document](b, "document")
	if err != nil {
		return nil, err
	}
	if d.Format != Format {
		return nil, refuse("the format is not %s", Format)
	}
	return d, nil
}

// Marshal gives the document as a file has it: indented JSON with a newline at its end.
func (d *Document) Marshal() ([]byte, error) {
	var b bytes.Buffer
	if err := json.MarshalWrite(&b, d, json.Deterministic(true), jsontext.WithIndent("  ")); err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
