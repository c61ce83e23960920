package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/keyenc"
)

type keysAttestCmd struct {
	keyArg
	Nonce      string `required:"" placeholder:"BASE64" help:"The verifier's own random 16 to 64 bytes: evidence is of the request that they were in."`
	KeyVersion uint32 `placeholder:"N" help:"Version; the primary one when not given."`
	sink
}

func (k keysAttestCmd) Help() string {
	return "Prints a document that says where the key lives, for `keywright attest verify`. The key's custody decides what it holds: a TPM's signatures, the attributes of a PKCS#11 object, or the service's statement alone."
}

func (k keysAttestCmd) Run(ctx context.Context, a *app) error {
	nonce, err := nonceFlag(k.Nonce)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.AttestKey(ctx, k.Key, nonce, k.KeyVersion)
	if err != nil {
		return err
	}
	e := r.Evidence
	d := attest.Document{Format: e.Format, Statement: e.Statement, Kind: e.Kind, Evidence: e.Evidence, Signature: attest.Signature(e.Signature)}
	b, err := d.Marshal()
	if err != nil {
		return err
	}
	if k.Out != "" {
		return k.create(func(w io.Writer) error { _, err := w.Write(b); return err })
	}
	_, err = a.stdout.Write(b)
	return err
}

func nonceFlag(s string) ([]byte, error) {
	nonce, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || attest.CheckNonce(nonce) != nil {
		return nil, usage("--nonce must be %d to %d bytes in base64, as `keywright random 32` prints them", attest.MinNonce, attest.MaxNonce)
	}
	return nonce, nil
}

type attestCmd struct {
	Verify attestVerifyCmd `cmd:"" help:"Verify evidence of where a key lives, without the service; exit code 7 when it does not hold."`
	Key    attestKeyCmd    `cmd:"" help:"Print the public key of the service's statements, for verifiers to keep."`
}

type attestKeyCmd struct{ sink }

func (k attestKeyCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.AttestationKey(ctx)
	if err != nil {
		return err
	}
	if k.Out != "" {
		return k.create(func(w io.Writer) error { _, err := io.WriteString(w, r.PublicKey); return err })
	}
	return a.show(r, func() error { return a.printf("%s", r.PublicKey) })
}

type attestVerifyCmd struct {
	File           string        `arg:"" placeholder:"FILE" help:"The evidence; - is standard input."`
	Nonce          string        `required:"" placeholder:"BASE64" help:"The nonce that was sent."`
	Signer         string        `placeholder:"FILE" help:"Public key of the service's statements (PEM), as \"attest key\" gave it over a connection that was trusted."`
	PublicKey      string        `placeholder:"FILE" help:"Public key (PEM) of which the evidence must be."`
	AttestationKey string        `placeholder:"HEX" help:"TPM Name of the attestation key that must have signed, as earlier evidence showed it."`
	EKRoots        string        `name:"ek-roots" placeholder:"FILE" help:"Certificates (PEM) of TPM makers to which the endorsement key's certificate must chain."`
	PCR            []string      `name:"pcr" placeholder:"BANK:N=HEX" help:"Value that a register must have, as in sha256:7=65ca…. Repeatable." sep:"none"`
	Require        []string      `placeholder:"CLAIM" help:"device-evidence, generated-on-device or not-exportable: what must hold. Repeatable."`
	MaxAge         time.Duration `placeholder:"DURATION" help:"How old the statement may be by the service's clock."`
}

func (k attestVerifyCmd) Help() string {
	return "Checks every signature and derives the claims from what was signed. A statement by the service alone needs --signer. What the evidence of a TPM proves rests on its attestation key: pin it with --attestation-key. A certificate of the endorsement key shows a genuine TPM, and not by itself that the attestation key is in it."
}

func (k attestVerifyCmd) Run(ctx context.Context, a *app) error {
	o, err := k.options()
	if err != nil {
		return err
	}
	in := source{In: k.File}
	f, _, err := in.open(a)
	if err != nil {
		return err
	}
	b, err := readAll(f, attest.MaxDocument)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	d, err := attest.Parse(b)
	if err != nil {
		return &exitError{exitInvalid, err.Error()}
	}
	c, err := attest.Verify(d, o)
	if err != nil {
		return &exitError{exitInvalid, err.Error()}
	}
	if c.Assurance == attest.AssuranceDevice && c.Device.DeviceIdentity == attest.IdentityUnproven {
		a.warn("nothing proves whose attestation key signed this: pin it with --attestation-key once you know that it is the TPM's")
	}
	if c.Signer == attest.SignerUnproven {
		a.warn("the service's signature is by a key that nothing vouches for: name the expected one with --signer")
	}
	return a.show(c, func() error { return a.claims(c) })
}

// claims prints what evidence says.
func (a *app) claims(c *attest.Claims) error {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	pub := ""
	if len(c.PublicKey) > 0 {
		pub = base64.StdEncoding.EncodeToString(c.PublicKey)
	}
	attributes := ""
	if t := c.Device.Attributes; t != nil {
		attributes = fmt.Sprintf("local %s, sensitive %s, always sensitive %s, extractable %s, never extractable %s", yes(t.Local), yes(t.Sensitive),
			yes(t.AlwaysSensitive), yes(t.Extractable), yes(t.NeverExtractable))
	}
	d := &c.Device
	err := a.fields("assurance", string(c.Assurance), "tenant", c.Tenant, "key", c.KeyID, "version", number(c.KeyVersion), "algorithm", c.Algorithm, "purpose", c.Purpose,
		"custody", c.Custody, "generated on device", yes(c.GeneratedOnDevice), "exportable", yes(c.Exportable), "origin", c.Origin, "state", c.State,
		"operations", strings.Join(c.Policy.Operations, ", "), "device", d.Kind+" "+d.Identity, "manufacturer", d.Manufacturer, "model", d.Model,
		"serial", d.Serial, "firmware", d.Firmware, "placement", d.Placement, "attributes", attributes, "device identity", string(d.DeviceIdentity),
		"attestation key", d.AttestationKeyName, "endorsement key", d.EndorsementKey, "endorsement certificate", d.EKCertificate,
		"objects", strings.Join(d.ObjectNames, ", "), "service's signature", c.Signer, "time", when(c.Time), "public key", pub)
	if err != nil {
		return err
	}
	for _, p := range c.PCRs {
		if err := a.printf("PCR %s:%d %x\n", p.Bank, p.Index, p.Value); err != nil {
			return err
		}
	}
	return nil
}

func (k attestVerifyCmd) options() (o attest.Options, err error) {
	if o.Nonce, err = nonceFlag(k.Nonce); err != nil {
		return o, err
	}
	o.MaxAge = k.MaxAge
	if k.Signer != "" {
		if o.Signer, err = publicFile(k.Signer); err != nil {
			return o, fmt.Errorf("reading the service's key: %w", err)
		}
	}
	if k.PublicKey != "" {
		if o.PublicKey, err = publicFile(k.PublicKey); err != nil {
			return o, fmt.Errorf("reading the public key: %w", err)
		}
	}
	if k.AttestationKey != "" {
		if o.AttestationKey, err = hex.DecodeString(k.AttestationKey); err != nil {
			return o, usage("--attestation-key must be hexadecimal")
		}
	}
	if k.EKRoots != "" {
		b, err := readSmall(k.EKRoots, 4<<20)
		if err != nil {
			return o, fmt.Errorf("reading the makers' certificates: %w", err)
		}
		o.EKRoots = x509.NewCertPool()
		if !o.EKRoots.AppendCertsFromPEM(b) {
			return o, usage("%s has no certificate", k.EKRoots)
		}
	}
	for _, s := range k.PCR {
		p, ok := pcrFlag(s)
		if !ok {
			return o, usage("--pcr must be as in sha256:7=<hexadecimal>")
		}
		o.PCRs = append(o.PCRs, p)
	}
	for _, s := range k.Require {
		switch s {
		case "device-evidence":
			o.Require.DeviceEvidence = true
		case "generated-on-device":
			o.Require.GeneratedOnDevice = true
		case "not-exportable":
			o.Require.NotExportable = true
		default:
			return o, usage("--require must be device-evidence, generated-on-device or not-exportable")
		}
	}
	return o, nil
}

func pcrFlag(s string) (attest.PCR, bool) {
	name, value, ok := strings.Cut(s, "=")
	bank, index, ok2 := strings.Cut(name, ":")
	n, err := strconv.ParseUint(index, 10, 8)
	b, herr := hex.DecodeString(value)
	if !ok || !ok2 || err != nil || herr != nil || len(b) == 0 || bank == "" {
		return attest.PCR{}, false
	}
	return attest.PCR{Bank: bank, Index: int(n), Value: b}, true
}

// publicFile reads one public key in PEM and gives its SPKI as the service writes it.
func publicFile(path string) ([]byte, error) {
	b, err := readSmall(path, 64<<10)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, usage("%s is not one PEM block of the type PUBLIC KEY", path)
	}
	if _, err := keyenc.ParseSPKI(block.Bytes); err != nil {
		return nil, usage("%s is not a public key", path)
	}
	return block.Bytes, nil
}
