package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/tpm"
)

type tpmApproveCmd struct {
	tpmDevice
	Key     string   `required:"" placeholder:"FILE" type:"path" help:"The approving authority's private key: PKCS#8 in PEM, ECDSA P-256 or RSA-2048, readable by its owner alone. Best kept on another machine."`
	PCRs    string   `name:"pcrs" required:"" placeholder:"BANK:N,…" help:"Which PCRs the approval is about, as in sha256:0,2,4,7."`
	Value   []string `placeholder:"N=HEX" help:"What PCR N will be. Repeatable; those not given are taken from the TPM as they are now. When all are given no TPM is needed."`
	Digest  string   `placeholder:"HEX" help:"Instead of values: the SHA-256 over all of them, in the order of their numbers."`
	Ref     string   `placeholder:"TEXT" help:"What the approval is for: the policy's ref."`
	Comment string   `placeholder:"TEXT" help:"For people; it is not signed."`
	sink
}

// Run signs a state of the PCRs.
func (k tpmApproveCmd) Run(ctx context.Context, a *app) error {
	pcrs, err := parsePCRs(k.PCRs, false)
	if err != nil {
		return err
	}
	digest, err := k.digest(ctx, a, pcrs)
	if err != nil {
		return err
	}
	signer, err := authorityKey(k.Key)
	if err != nil {
		return err
	}
	approval, err := tpm.ApproveDigest(pcrs, digest, []byte(k.Ref), signer)
	if err != nil {
		return tpmError(err)
	}
	approval.Comment = k.Comment
	text, err := approval.Marshal()
	if err != nil {
		return err
	}
	if k.Out != "" {
		return k.create(func(w io.Writer) error { _, err := w.Write(text); return err })
	}
	return a.printf("%s", text)
}

// parsePCRs reads which PCRs are meant.
func parsePCRs(text string, optional bool) (tpm.PCRs, error) {
	if text == "" && optional {
		return tpm.PCRs{}, nil
	}
	p, err := tpm.ParsePCRs(text)
	if err != nil {
		return p, usage("--pcrs: %w", err)
	}
	return p, nil
}

// digest is what TPM2_PolicyPCR compares: SHA-256 over the values.
func (k tpmApproveCmd) digest(ctx context.Context, a *app, pcrs tpm.PCRs) ([]byte, error) {
	if k.Digest != "" {
		b, err := hex.DecodeString(k.Digest)
		if err != nil || len(b) != sha256.Size || len(k.Value) > 0 {
			return nil, usage("--digest is 64 hexadecimal digits, and goes without --value")
		}
		return b, nil
	}
	values, missing, err := k.given(pcrs)
	if err != nil {
		return nil, err
	}
	if missing {
		now, err := k.now(ctx, a, pcrs)
		if err != nil {
			return nil, err
		}
		for i, v := range now {
			if values[i] == nil {
				values[i] = v
			}
		}
	}
	sum := sha256.Sum256(bytes.Join(values, nil))
	return sum[:], nil
}

// given reads --value, in the order of the PCRs; missing says that some were not given.
func (k tpmApproveCmd) given(pcrs tpm.PCRs) (values [][]byte, missing bool, err error) {
	sizes := map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
	values = make([][]byte, len(pcrs.Index))
	for _, word := range k.Value {
		number, digits, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(number)
		b, herr := hex.DecodeString(digits)
		at := slices.Index(pcrs.Index, n)
		if err != nil || herr != nil || at < 0 || values[at] != nil || len(b) != sizes[pcrs.Bank] {
			return nil, false, usage("--value is N=HEX, once for a PCR of --pcrs, of %d bytes", sizes[pcrs.Bank])
		}
		values[at] = b
	}
	return values, slices.ContainsFunc(values, func(b []byte) bool { return b == nil }), nil
}

// now reads the PCRs.
func (k tpmApproveCmd) now(ctx context.Context, a *app, pcrs tpm.PCRs) (values [][]byte, err error) {
	d, err := k.open(ctx, a, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	s, err := tpm.NewSealer(d, tpm.SealerOptions{})
	if err != nil {
		return nil, err
	}
	values, err = s.PCRValues(ctx, pcrs)
	return values, tpmError(err)
}

// authorityKey reads the private key of whoever approves.
func authorityKey(path string) (crypto.Signer, error) {
	if err := ownerOnly(path); err != nil {
		return nil, fmt.Errorf("the approving key: %w", err)
	}
	text, err := readSmall(path, 1<<16)
	if err != nil {
		return nil, fmt.Errorf("the approving key: %w", err)
	}
	defer clear(text)
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, usage("--key: %s holds no private key in PKCS#8 PEM (openssl pkcs8 -topk8 -nocrypt makes it of other forms)", path)
		}
		if block.Type != "PRIVATE KEY" {
			continue // openssl puts the curve's parameters in front
		}
		key, err := keyenc.ParsePKCS8(block.Bytes)
		clear(block.Bytes)
		if err != nil {
			return nil, usage("--key: %w", err)
		}
		if s, ok := key.(crypto.Signer); ok {
			return s, nil
		}
		return nil, usage("--key: this key does not sign")
	}
}
