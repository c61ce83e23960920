package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// maxRef bounds a policyRef in bytes: a TPM2B_NONCE, as long as the digest of the sessions here.
const maxRef = 32

// PCRPolicy lets a text open only in a boot state that an authority approved (TPM 2.0 part 3, section 23.16, TPM2_PolicyAuthorize): the object is bound to the authority's key and the
// reference alone, so that new states can be approved, ahead of an update, without sealing anything anew. An approval cannot be taken back
// for a text that is sealed already: change the reference and seal again.
type PCRPolicy struct {
	Authority []byte // SPKI DER of the authority's key: ECDSA P-256, or RSA-2048 (RSASSA-PKCS1-v1_5), with SHA-256
	Ref       []byte // at most 32 bytes, which approvals are for; may be empty
}

// PCRs are registers of one bank.
type PCRs struct {
	Bank  string `json:"bank"`  // sha256 or sha384, sha512, sha1 where the TPM has them
	Index []int  `json:"index"` // 0 to 23, each once
}

var (
	errAuthority = fault.New(fault.BadField, "the authority's key must be ECDSA P-256 or RSA-2048")
	errPCRs      = fault.New(fault.BadField, "PCRs are a bank (sha1, sha256, sha384, sha512) and numbers from 0 to 23, each once")
	// errState tells a machine whose boot state changed from a damaged text: somebody has to do something about it.
	errState = fault.New(fault.KeyMaterial, "the boot state of this machine (its PCRs) is not one that was approved")
)

// pcrPolicy is the digest of a session in which TPM2_PolicyPCR alone was done (part 3, section 23.7).
func pcrPolicy(selection tpm2.TPMLPCRSelection, digest []byte) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err == nil {
		err = tpm2.PolicyPCR{Pcrs: selection, PcrDigest: tpm2.TPM2BDigest{Buffer: digest}}.Update(calc)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "computing a policy", err)
	}
	return calc.Hash().Digest, nil
}

func (p PCRs) selection() (tpm2.TPMLPCRSelection, error) {
	var bank tpm2.TPMAlgID
	switch p.Bank {
	case "sha1":
		bank = tpm2.TPMAlgSHA1
	case "sha256":
		bank = tpm2.TPMAlgSHA256
	case "sha384":
		bank = tpm2.TPMAlgSHA384
	case "sha512":
		bank = tpm2.TPMAlgSHA512
	default:
		return tpm2.TPMLPCRSelection{}, errPCRs
	}
	bits := make([]byte, 3)
	for _, i := range p.Index {
		if i < 0 || i > 23 || bits[i/8]&(1<<(i%8)) != 0 {
			return tpm2.TPMLPCRSelection{}, errPCRs
		}
		bits[i/8] |= 1 << (i % 8)
	}
	if len(p.Index) == 0 {
		return tpm2.TPMLPCRSelection{}, errPCRs
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: bits}}}, nil
}

// authority is the key that approves, as Go and as the TPM have it.
type authority struct {
	pub    crypto.PublicKey
	spki   []byte
	public tpm2.TPMTPublic
}

func (p *PCRPolicy) key() (*authority, error) {
	if len(p.Ref) > maxRef {
		return nil, fault.New(fault.BadSize, "the policy's reference has at most 32 bytes")
	}
	return authorityOf(p.Authority)
}

func authorityOf(spki []byte) (*authority, error) {
	pub, err := keyenc.ParseSPKI(spki)
	if err != nil {
		return nil, errAuthority
	}
	a := tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true, NoDA: true}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errAuthority
		}
		point, err := k.Bytes()
		if err != nil {
			return nil, errAuthority
		}
		public := newPublic(tpm2.TPMAlgECC, a, nil, tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}))
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, pointOf(curve{size: 32}, point))
		return &authority{k, spki, public}, nil
	case *rsa.PublicKey:
		if k.N.BitLen() != 2048 || k.E != 65537 {
			return nil, errAuthority
		}
		public := newPublic(tpm2.TPMAlgRSA, a, nil, tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}))
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return &authority{k, spki, public}, nil
	}
	return nil, errAuthority
}

// digest is the authPolicy of an object that the authority's approvals open.
func (a *authority) digest(ref []byte) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err == nil {
		err = tpm2.PolicyAuthorize{KeySign: tpm2.TPM2BName{Buffer: nameOf(tpm2.Marshal(a.public))}, PolicyRef: tpm2.TPM2BDigest{Buffer: ref}}.Update(calc)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "computing a policy", err)
	}
	return calc.Hash().Digest, nil
}

// signature gives an approval's signature as the TPM takes it.
func (a *authority) signature(sig []byte) (tpm2.TPMTSignature, error) {
	if _, ok := a.pub.(*rsa.PublicKey); ok {
		return tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig}})}, nil
	}
	rs, err := keyenc.DERToP1363(sig, 32)
	if err != nil {
		return tpm2.TPMTSignature{}, errApproval
	}
	return tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: rs[:32]}, SignatureS: tpm2.TPM2BECCParameter{Buffer: rs[32:]}})}, nil
}

// readPCRs gives the values of the registers in the order of their numbers. A TPM gives as many as fit into an answer, so it is asked until all are there.
func readPCRs(tx *device.Tx, selection tpm2.TPMLPCRSelection) ([][]byte, error) {
	bits := bytes.Clone(selection.PCRSelections[0].PCRSelect)
	var out [][]byte
	for slices.ContainsFunc(bits, func(b byte) bool { return b != 0 }) {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: selection.PCRSelections[0].Hash, PCRSelect: bits}}}}.Execute(tx)
		if err != nil {
			return nil, err
		}
		got := 0
		for _, s := range rsp.PCRSelectionOut.PCRSelections {
			for i := range min(len(s.PCRSelect), len(bits)) {
				if s.PCRSelect[i]&^bits[i] != 0 {
					return nil, errors.New("the TPM gave PCRs that it was not asked for")
				}
				bits[i] &^= s.PCRSelect[i]
				for b := s.PCRSelect[i]; b != 0; b &= b - 1 {
					got++
				}
			}
		}
		if got == 0 || got != len(rsp.PCRValues.Digests) {
			return nil, fault.New(fault.Unsupported, "the TPM does not have this bank of PCRs")
		}
		for _, d := range rsp.PCRValues.Digests {
			out = append(out, d.Buffer)
		}
	}
	return out, nil
}

// pcrDigest is SHA-256 over the values, as TPM2_PolicyPCR has it in a SHA-256 session.
func pcrDigest(tx *device.Tx, selection tpm2.TPMLPCRSelection) ([]byte, error) {
	values, err := readPCRs(tx, selection)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(bytes.Join(values, nil))
	return sum[:], nil
}

// unsealApproved opens an object by the first approval that fits the PCRs. The choice here saves commands; the TPM alone enforces it.
func (s *Sealer) unsealApproved(tx *device.Tx, p sealedText, key tpm2.NamedHandle) (secret.Bytes, error) {
	for _, a := range s.approvals() {
		auth, err := authorityOf(a.Authority)
		if err != nil || !bytes.Equal(tpm2.Marshal(auth.public), p.authority) || !bytes.Equal(a.Ref, p.ref) || a.verify() != nil {
			continue // for another policy, or not the authority's: somebody else's business
		}
		selection, err := a.PCRs.selection()
		if err != nil {
			continue // verify has looked at it
		}
		now, err := pcrDigest(tx, selection)
		if fault.Has(err, fault.Unsupported) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(now, a.Digest) {
			continue
		}
		return unsealPCR(tx, key, auth, &a, selection)
	}
	return nil, errState
}

// unsealPCR satisfies the policy and unseals. PCRs that change on the way end the session (TPM_RC_PCR_CHANGED); Device.Do begins again then.
func unsealPCR(tx *device.Tx, key tpm2.NamedHandle, auth *authority, a *Approval, selection tpm2.TPMLPCRSelection) (secret.Bytes, error) {
	sig, err := auth.signature(a.Signature)
	if err != nil {
		return nil, err
	}
	signed, err := approvedDigest(a.PCRs, a.Digest, a.Ref)
	if err != nil {
		return nil, err
	}
	ticket, name, err := verifyTicket(tx, auth, signed, sig)
	if err != nil {
		return nil, err
	}
	policy, err := pcrPolicy(selection, a.Digest)
	if err != nil {
		return nil, err
	}
	out, err := unsealOnce(tx, key, a, selection, tpm2.PolicyAuthorize{ApprovedPolicy: tpm2.TPM2BDigest{Buffer: policy}, PolicyRef: tpm2.TPM2BDigest{Buffer: a.Ref},
		KeySign: name, CheckTicket: *ticket})
	if errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, fault.Wrap(fault.KeyMaterial, errState.Message, err)
	}
	return out, err
}

// verifyTicket has the TPM check the authority's signature, which gives a ticket that TPM2_PolicyAuthorize believes.
func verifyTicket(tx *device.Tx, auth *authority, signed []byte, sig tpm2.TPMTSignature) (*tpm2.TPMTTKVerified, tpm2.TPM2BName, error) {
	if err := tx.Room(1); err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	// A ticket is of a hierarchy: tickets of NULL are not believed (part 3, section 20.1).
	ext, err := tpm2.LoadExternal{InPublic: tpm2.New2B(auth.public), Hierarchy: tpm2.TPMRHOwner}.Execute(tx)
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	rsp, err := tpm2.VerifySignature{KeyHandle: tpm2.NamedHandle{Handle: ext.ObjectHandle, Name: ext.Name}, Digest: tpm2.TPM2BDigest{Buffer: signed}, Signature: sig}.Execute(tx)
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	if _, err := (tpm2.FlushContext{FlushHandle: ext.ObjectHandle}).Execute(tx); err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	return &rsp.Validation, ext.Name, nil
}

func unsealOnce(tx *device.Tx, key tpm2.NamedHandle, a *Approval, selection tpm2.TPMLPCRSelection, authorize tpm2.PolicyAuthorize) (out secret.Bytes, err error) {
	session, done, err := tpm2.PolicySession(tx, tpm2.TPMAlgSHA256, 16, tx.SaltOptions(device.Out)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), PcrDigest: tpm2.TPM2BDigest{Buffer: a.Digest}, Pcrs: selection}).Execute(tx); err != nil {
		return nil, err
	}
	authorize.PolicySession = session.Handle()
	if _, err := authorize.Execute(tx); err != nil {
		return nil, err
	}
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: session}}.Execute(tx)
	if err != nil {
		return nil, err
	}
	return rsp.OutData.Buffer, nil
}

// ParsePCRs gives the PCRs of words like "sha256:0,2,7".
func ParsePCRs(text string) (PCRs, error) {
	bank, list, ok := bytes.Cut([]byte(text), []byte(":"))
	if !ok {
		return PCRs{}, errPCRs
	}
	p := PCRs{Bank: string(bank)}
	for _, word := range bytes.Split(list, []byte(",")) {
		if len(word) == 0 || len(word) > 2 || len(word) == 2 && word[0] == '0' {
			return PCRs{}, errPCRs
		}
		n := 0
		for _, c := range word {
			if c < '0' || c > '9' {
				return PCRs{}, errPCRs
			}
			n = 10*n + int(c-'0')
		}
		p.Index = append(p.Index, n)
	}
	slices.Sort(p.Index)
	if _, err := p.selection(); err != nil {
		return PCRs{}, err
	}
	return p, nil
}
