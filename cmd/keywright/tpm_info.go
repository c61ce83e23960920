package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/tpm/device"
)

type tpmInfoCmd struct {
	tpmDevice
	PCRs string `name:"pcrs" placeholder:"BANK:N,…" help:"Show the values of these PCRs too, as in sha256:0,2,4,7."`
}

// tpmReport is what a TPM is.
type tpmReport struct {
	Backend      string               `json:"backend_id"` // identity in key records
	Manufacturer string               `json:"manufacturer"`
	Vendor       string               `json:"vendor"`
	Firmware     string               `json:"firmware"`
	Revision     string               `json:"revision"` // of the specification
	Algorithms   []string             `json:"algorithms"`
	Curves       []string             `json:"curves"`
	SymmetricOps bool                 `json:"encrypt_decrypt2"` // without it AES keys are not the TPM's own
	Transient    int                  `json:"transient_slots"`
	Sessions     int                  `json:"session_slots"`
	InputBuffer  int                  `json:"input_buffer"`
	Parent       tpmParent            `json:"parent"`
	EK           tpmEK                `json:"endorsement_key"`
	AK           string               `json:"attestation_key_name"` // "" when the endorsement hierarchy refuses
	Passwords    tpmPasswords         `json:"passwords"`
	Lockout      tpmLockout           `json:"lockout"`
	Capabilities []backend.Capability `json:"capabilities"`
	Quirks       []string             `json:"quirks"`
	PCRs         []tpmPCR             `json:"pcrs,omitempty"`
}

type tpmParent struct {
	Name   string `json:"name"`
	Handle string `json:"handle"`
}

type tpmEK struct {
	Name         string   `json:"name"`
	Certificates []string `json:"certificates"` // PEM
	Issuer       string   `json:"issuer,omitempty"`
}

// tpmPasswords says which hierarchies have one.
type tpmPasswords struct {
	Owner       bool `json:"owner"`
	Endorsement bool `json:"endorsement"`
	Lockout     bool `json:"lockout"`
}

type tpmLockout struct {
	Locked   bool    `json:"locked"`
	Counter  uint32  `json:"counter"`
	Max      uint32  `json:"max"`
	Interval float64 `json:"interval_seconds"`
	Recovery float64 `json:"recovery_seconds"`
}

type tpmPCR struct {
	Bank  string `json:"bank"`
	Index int    `json:"index"`
	Value string `json:"value"`
}

func newTPMLockout(l device.Lockout) tpmLockout {
	return tpmLockout{l.Locked, l.Counter, l.Max, l.Interval.Seconds(), l.Recovery.Seconds()}
}

func (l tpmLockout) text() string {
	state := "no"
	if l.Locked {
		state = "LOCKED: passwords are refused until the counter falls, or keywright tpm reset-lockout"
	}
	return fmt.Sprintf("%s (%d of %d wrong passwords; one is forgotten every %s)", state, l.Counter, l.Max, time.Duration(l.Interval*float64(time.Second)))
}

// Run shows what the TPM says, and what it can do as the service finds it out: by known keys and answers.
func (k tpmInfoCmd) Run(ctx context.Context, a *app) (err error) {
	pcrs, err := parsePCRs(k.PCRs, true)
	if err != nil {
		return err
	}
	d, b, err := k.backend(ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	i := d.Info()
	info := b.Info()
	r := tpmReport{Backend: info.ID, Manufacturer: i.Manufacturer, Vendor: i.Vendor, Firmware: firmware(i.Firmware), Revision: fmt.Sprintf("%d.%02d", i.Revision/100, i.Revision%100),
		Algorithms: []string{}, Curves: []string{}, SymmetricOps: i.Has(tpm2.TPMCCEncryptDecrypt2), Transient: i.Transient, Sessions: i.Sessions, InputBuffer: i.InputBuffer,
		Parent:    tpmParent{hex.EncodeToString(i.ParentName), fmt.Sprintf("0x%08x", i.ParentHandle)},
		Passwords: tpmPasswords{i.OwnerAuthSet, i.EndorsementAuthSet, i.LockoutAuthSet}, Lockout: newTPMLockout(i.Lockout),
		Capabilities: info.Capabilities, Quirks: append([]string{}, info.Quirks...), EK: tpmEK{Certificates: []string{}}}
	for _, id := range i.Algorithms {
		r.Algorithms = append(r.Algorithms, algorithmName(id))
	}
	for _, id := range i.Curves {
		r.Curves = append(r.Curves, curveName(id))
	}
	if err := k.endorsement(ctx, d, b, &r); err != nil {
		a.warn("the endorsement hierarchy does not answer, so that the TPM cannot attest: %v", err)
	}
	if k.PCRs != "" {
		values, err := b.Sealer().PCRValues(ctx, pcrs)
		if err != nil {
			return tpmError(err)
		}
		for n, v := range values {
			r.PCRs = append(r.PCRs, tpmPCR{pcrs.Bank, pcrs.Index[n], hex.EncodeToString(v)})
		}
	}
	return a.show(r, func() error { return r.print(a) })
}

// endorser is a backend that knows the endorsement hierarchy.
type endorser interface {
	EndorsementCertificates(context.Context) ([][]byte, error)
	AttestationKeyName(context.Context) ([]byte, error)
}

func (k tpmInfoCmd) endorsement(ctx context.Context, d *device.Device, b endorser, r *tpmReport) error {
	ek, err := d.EKName(ctx)
	if err != nil {
		return err
	}
	r.EK.Name = hex.EncodeToString(ek)
	certificates, err := b.EndorsementCertificates(ctx)
	if err != nil {
		return err
	}
	for _, der := range certificates {
		r.EK.Certificates = append(r.EK.Certificates, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		if c, err := x509.ParseCertificate(der); err == nil { // else verifiers will say so
			r.EK.Issuer = c.Issuer.String()
		}
	}
	ak, err := b.AttestationKeyName(ctx)
	r.AK = hex.EncodeToString(ak)
	return err
}

func (r tpmReport) print(a *app) error {
	certificates := "none: the TPM cannot prove who made it"
	if n := len(r.EK.Certificates); n > 0 {
		certificates = fmt.Sprintf("%d, issued by %s (-o json shows it)", n, r.EK.Issuer)
	}
	err := a.fields("backend id", r.Backend, "manufacturer", printable(r.Manufacturer), "vendor", printable(strings.Join(strings.Fields(r.Vendor), " ")), "firmware", r.Firmware, "specification", r.Revision,
		"algorithms", strings.Join(r.Algorithms, ","), "curves", strings.Join(r.Curves, ","), "EncryptDecrypt2", yesNo(r.SymmetricOps),
		"slots", fmt.Sprintf("%d objects, %d sessions", r.Transient, r.Sessions), "buffer", strconv.Itoa(r.InputBuffer)+" bytes",
		"storage parent", r.Parent.Name, "its handle", r.Parent.Handle, "endorsement key", r.EK.Name, "its certificates", printable(certificates), "attestation key", r.AK,
		"passwords", fmt.Sprintf("owner %s, endorsement %s, lockout %s", yesNo(r.Passwords.Owner), yesNo(r.Passwords.Endorsement), yesNo(r.Passwords.Lockout)), "lockout", r.Lockout.text())
	if err != nil {
		return err
	}
	for _, q := range r.Quirks {
		if err := a.fields("quirk", printable(q)); err != nil {
			return err
		}
	}
	for _, p := range r.PCRs {
		if err := a.printf("%s:%d: %s\n", p.Bank, p.Index, p.Value); err != nil {
			return err
		}
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	rows := func(yield func(backend.Capability, error) bool) {
		for _, c := range r.Capabilities {
			if !yield(c, nil) {
				return
			}
		}
	}
	return list(a, rows, []string{"ALGORITHM", "CUSTODY", "OPERATIONS", "IMPORT"}, func(c backend.Capability) []string {
		return []string{string(c.Algorithm), string(c.Custody), join(c.Operations), yesNo(c.Import)}
	})
}

// firmware is written as makers do: two or four numbers.
func firmware(v uint64) string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff)
}

// algorithmName gives the name of the TCG algorithm registry, or the number.
func algorithmName(id tpm2.TPMAlgID) string {
	for _, a := range []struct {
		id   tpm2.TPMAlgID
		name string
	}{{tpm2.TPMAlgRSA, "RSA"}, {tpm2.TPMAlgSHA1, "SHA1"}, {tpm2.TPMAlgHMAC, "HMAC"}, {tpm2.TPMAlgAES, "AES"}, {tpm2.TPMAlgKeyedHash, "KEYEDHASH"}, {tpm2.TPMAlgXOR, "XOR"},
		{tpm2.TPMAlgSHA256, "SHA256"}, {tpm2.TPMAlgSHA384, "SHA384"}, {tpm2.TPMAlgSHA512, "SHA512"}, {tpm2.TPMAlgRSASSA, "RSASSA"}, {tpm2.TPMAlgRSAES, "RSAES"},
		{tpm2.TPMAlgRSAPSS, "RSAPSS"}, {tpm2.TPMAlgOAEP, "OAEP"}, {tpm2.TPMAlgECDSA, "ECDSA"}, {tpm2.TPMAlgECDH, "ECDH"}, {tpm2.TPMAlgECDAA, "ECDAA"},
		{tpm2.TPMAlgECC, "ECC"}, {tpm2.TPMAlgSymCipher, "SYMCIPHER"}, {tpm2.TPMAlgCTR, "CTR"}, {tpm2.TPMAlgOFB, "OFB"}, {tpm2.TPMAlgCBC, "CBC"}, {tpm2.TPMAlgCFB, "CFB"},
		{tpm2.TPMAlgECB, "ECB"}, {0x0003, "TDES"}, {0x0007, "MGF1"}, {0x001b, "SM2"}, {0x001c, "ECSCHNORR"}, {0x001d, "ECMQV"},
		{0x0020, "KDF1_SP800_56A"}, {0x0021, "KDF2"}, {0x0022, "KDF1_SP800_108"}, {0x0026, "CAMELLIA"}, {0x003f, "CMAC"}} {
		if a.id == id {
			return a.name
		}
	}
	return fmt.Sprintf("0x%04x", uint16(id))
}

// curveName does the same for a curve.
func curveName(id tpm2.TPMECCCurve) string {
	switch id {
	case tpm2.TPMECCNistP192:
		return "P-192"
	case tpm2.TPMECCNistP224:
		return "P-224"
	case tpm2.TPMECCNistP256:
		return "P-256"
	case tpm2.TPMECCNistP384:
		return "P-384"
	case tpm2.TPMECCNistP521:
		return "P-521"
	case tpm2.TPMECCBNP256:
		return "BN-P256"
	case tpm2.TPMECCBNP638:
		return "BN-P638"
	case tpm2.TPMECCSM2P256:
		return "SM2-P256"
	}
	return fmt.Sprintf("0x%04x", uint16(id))
}
