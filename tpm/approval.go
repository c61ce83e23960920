package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"slices"

	json "github.com/go-json-experiment/json"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/tpm/device"
)

// Approval is an authority's signature over one state of some PCRs. It is not secret, and authentic by itself.
type Approval struct {
	Format    string `json:"format"` // ApprovalFormat
	PCRs      PCRs   `json:"pcrs"`
	Digest    []byte `json:"digest"`    // SHA-256 of the values, in the order of their numbers (TPM2_PolicyPCR)
	Ref       []byte `json:"ref"`       // policyRef
	Authority []byte `json:"authority"` // SPKI DER
	Signature []byte `json:"signature"` // over the policy digest and the reference: ECDSA DER, or RSASSA-PKCS1-v1_5
	Comment   string `json:"comment,omitempty"`
}

// ApprovalFormat is the name and version of the format.
const ApprovalFormat = "keywright-tpm-approval/v1"

const maxApproval = 1 << 14

var errApproval = fault.New(fault.BadEncoding, "the approval is malformed, or its signature is wrong")

// ParseApproval reads the JSON of an approval and checks its signature.
func ParseApproval(b []byte) (Approval, error) {
	var a Approval
	if len(b) > maxApproval {
		return Approval{}, errApproval
	}
	if err := json.Unmarshal(b, &a, json.RejectUnknownMembers(true)); err != nil {
		return Approval{}, fault.Wrap(fault.BadEncoding, errApproval.Message, err)
	}
	if err := a.verify(); err != nil {
		return Approval{}, err
	}
	return a, nil
}

// Marshal gives the JSON of an approval.
func (a Approval) Marshal() ([]byte, error) {
	b, err := json.Marshal(a, json.Deterministic(true))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "encoding an approval", err)
	}
	return append(b, '\n'), nil
}

func (a *Approval) verify() error {
	signed, err := approvedDigest(a.PCRs, a.Digest, a.Ref)
	if err != nil || a.Format != ApprovalFormat {
		return errApproval
	}
	key, err := authorityOf(a.Authority)
	if err != nil {
		return errApproval
	}
	ok := false
	switch k := key.pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, signed, a.Signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, signed, a.Signature) == nil
	}
	if !ok {
		return errApproval
	}
	return nil
}

// approvedDigest is what an authority signs: aHash of TPM2_PolicyAuthorize, H(approvedPolicy ‖ policyRef), the policy being one TPM2_PolicyPCR.
func approvedDigest(p PCRs, digest, ref []byte) ([]byte, error) {
	selection, err := p.selection()
	if err != nil {
		return nil, err
	}
	if len(digest) != sha256.Size || len(ref) > maxRef {
		return nil, errApproval
	}
	policy, err := pcrPolicy(selection, digest)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(policy, ref...))
	return sum[:], nil
}

// Approve signs the state that the PCRs are in now. The signer is the authority: ECDSA P-256 or RSA-2048.
func (s *Sealer) Approve(ctx context.Context, p PCRs, ref []byte, signer crypto.Signer) (Approval, error) {
	selection, err := p.selection()
	if err != nil {
		return Approval{}, err
	}
	var digest []byte
	err = s.dev.Do(ctx, "pcr-read", func(tx *device.Tx) (err error) {
		digest, err = pcrDigest(tx, selection)
		return err
	})
	if err != nil {
		return Approval{}, refused(err)
	}
	return ApproveDigest(p, digest, ref, signer)
}

// ApproveDigest signs a state that PCRs will be in: digest is SHA-256 of their values, in the order of their numbers. It needs no TPM.
func ApproveDigest(p PCRs, digest, ref []byte, signer crypto.Signer) (Approval, error) {
	p.Index = slices.Sorted(slices.Values(p.Index))
	signed, err := approvedDigest(p, digest, ref)
	if err != nil {
		return Approval{}, err
	}
	spki, err := keyenc.MarshalSPKI(signer.Public())
	if err != nil {
		return Approval{}, errAuthority
	}
	if _, err := authorityOf(spki); err != nil {
		return Approval{}, err
	}
	sig, err := signer.Sign(rand.Reader, signed, crypto.SHA256)
	if err != nil {
		return Approval{}, fault.Wrap(fault.Internal, "signing an approval", err)
	}
	a := Approval{Format: ApprovalFormat, PCRs: p, Digest: digest, Ref: append([]byte{}, ref...), Authority: spki, Signature: sig}
	return a, a.verify()
}
