package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/tpm/device"
)

var errEndorsement = fault.New(fault.BackendUnavailable, "the TPM's endorsement hierarchy refuses the password, or is disabled: it cannot attest")

// quotedPCRs are what every evidence has: what the firmware and the operating system have measured at boot (PC client platform firmware profile, section 3.3.4; 16 and 23 are for anybody's use).
var quotedPCRs = []byte{0xff, 0xff, 0}

// primary makes a primary key of the endorsement hierarchy.
func primary(tx *device.Tx, template tpm2.TPMTPublic) (loaded, []byte, error) {
	if err := tx.Room(1); err != nil {
		return loaded{}, nil, err
	}
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tx.Endorsement(), InPublic: tpm2.New2B(template)}.Execute(tx)
	switch {
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCHierarchy):
		return loaded{}, nil, fault.Wrap(fault.BackendUnavailable, errEndorsement.Message, err)
	case err != nil:
		return loaded{}, nil, err
	}
	public := bytes.Clone(rsp.OutPublic.Bytes())
	return loaded{tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, tx, nil}, public, nil
}

// AttestationKeyName is the Name of the key that signs the TPM's evidence, for verifiers to pin.
func (b *Backend) AttestationKeyName(ctx context.Context) ([]byte, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.gate.Leave()
	var name []byte
	err := b.dev.Do(ctx, "attest", func(tx *device.Tx) error {
		_, public, err := primary(tx, attest.AKTemplate())
		name = nameOf(public)
		return err
	})
	if err != nil {
		return nil, refused(err)
	}
	return name, nil
}

// Attest gives the TPM's own word about the key (TPM2_Certify) and about the machine's boot state (TPM2_Quote), both signed by the attestation key with binding in them.
func (h *handle) Attest(ctx context.Context, binding []byte) (backend.Evidence, error) {
	if err := h.begin(ctx); err != nil {
		return backend.Evidence{}, err
	}
	defer h.b.gate.Leave()
	if len(binding) != backend.AttestationBinding {
		return backend.Evidence{}, fault.New(fault.BadSize, "the binding of evidence must have 32 bytes")
	}
	ek, err := h.b.endorsement(ctx)
	if err != nil {
		return backend.Evidence{}, err
	}
	auth, err := h.b.auth(&h.e.spec, h.e.info.ID)
	if err != nil {
		return backend.Evidence{}, err
	}
	defer auth.Wipe()
	info := h.b.dev.Info()
	var out attest.TPM
	err = h.b.dev.Do(ctx, "attest", func(tx *device.Tx) error {
		ak, akPublic, err := primary(tx, attest.AKTemplate())
		if err != nil {
			return err
		}
		out = attest.TPM{AK: akPublic, EK: ek.public, EKCertificates: ek.certificates, Manufacturer: info.Manufacturer, Model: info.Vendor}
		for i, o := range h.e.objects {
			key, err := load(tx, o)
			if err != nil {
				return err
			}
			signed, err := certify(tx, loaded{key, tx, auth}, ak, binding)
			if err != nil {
				return err
			}
			signed.Role, signed.Public = role(i, len(h.e.objects)), o.public
			out.Objects = append(out.Objects, signed)
			if err := tx.Forget(tpm2.TPM2BPrivate{Buffer: o.private}); err != nil { // there may be room for one beside the two others
				return err
			}
		}
		out.Quote, err = quote(tx, ak, binding)
		return err
	})
	if err != nil {
		return backend.Evidence{}, refused(err)
	}
	doc, err := attest.Encode(out)
	if err != nil {
		return backend.Evidence{}, fault.Wrap(fault.Internal, "encoding evidence", err)
	}
	return backend.Evidence{Kind: attest.KindTPM, Document: doc}, nil
}

func role(i, of int) string {
	switch {
	case of == 1:
		return attest.RoleKey
	case i == 0:
		return attest.RoleCipher
	}
	return attest.RoleMAC
}

func certify(tx *device.Tx, key, ak loaded, binding []byte) (attest.Object, error) {
	rsp, err := tpm2.Certify{ObjectHandle: key.as(device.Plain), SignHandle: ak.as(device.Plain), QualifyingData: tpm2.TPM2BData{Buffer: binding},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(tx)
	if err != nil {
		return attest.Object{}, err
	}
	return attest.Object{Attest: bytes.Clone(rsp.CertifyInfo.Bytes()), Signature: tpm2.Marshal(rsp.Signature)}, nil
}

// maxQuotes bounds how often PCRs are read and quoted until nothing was measured in between.
const maxQuotes = 8

// quote reads PCRs and has the TPM sign them.
func quote(tx *device.Tx, ak loaded, binding []byte) (attest.Quote, error) {
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: quotedPCRs}}}
	for range maxQuotes {
		values, err := readPCRs(tx, selection)
		if err != nil {
			return attest.Quote{}, err
		}
		rsp, err := tpm2.Quote{SignHandle: ak.as(device.Plain), QualifyingData: tpm2.TPM2BData{Buffer: binding},
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: selection}.Execute(tx)
		if err != nil {
			return attest.Quote{}, err
		}
		q := attest.Quote{Attest: bytes.Clone(rsp.Quoted.Bytes()), Signature: tpm2.Marshal(rsp.Signature)}
		for i, v := range values {
			q.PCRs = append(q.PCRs, attest.PCR{Bank: "sha256", Index: i, Value: v}) // quotedPCRs are 0 to 15
		}
		if q.Whole(crypto.SHA256) {
			return q, nil
		}
	}
	return attest.Quote{}, fault.New(fault.BackendUnavailable, "the PCRs change all the time").RetryAfter(time.Second)
}
