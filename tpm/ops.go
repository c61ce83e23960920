package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// sign has the TPM sign a digest, which is as long as opts.Hash. The command is put together here, and not by reflection: a TPM waits meanwhile.
func sign(tx *device.Tx, key loaded, info backend.AlgorithmInfo, digest []byte, opts backend.SignOpts) ([]byte, error) {
	params, scheme, ok := signParams(info, digest, opts)
	if !ok {
		return nil, errHash
	}
	rsp, err := tx.Run(tpm2.TPMCCSign, key.NamedHandle, key.auth, device.Plain, params)
	if err != nil {
		return nil, err
	}
	out, ok := signature(info, scheme, rsp)
	if !ok {
		return nil, fault.New(fault.BackendUnavailable, "the TPM gave a signature of another form")
	}
	return out, nil
}

// signParams gives the parameters of TPM2_Sign (part 3, section 20.2): the digest in the scheme's size, the scheme, and no ticket: the keys are not restricted. ECDSA signs the leftmost bits of a digest,
// as many as the order has (FIPS 186-5 section 6.4.1), so that a digest longer than the curve is cut here and goes as one of the curve's hash: TPMs need not have the longer
// hashes then.
func signParams(info backend.AlgorithmInfo, digest []byte, opts backend.SignOpts) (params []byte, scheme tpm2.TPMAlgID, ok bool) {
	h := opts.Hash
	scheme = tpm2.TPMAlgRSASSA
	switch {
	case info.Family == backend.FamilyECDSA:
		if scheme = tpm2.TPMAlgECDSA; h.Size() > info.Hash.Size() {
			h = info.Hash
			digest = digest[:h.Size()]
		}
	case opts.Padding == backend.PaddingPSS:
		scheme = tpm2.TPMAlgRSAPSS
	}
	alg, ok := hashAlg(h)
	params = appendField(make([]byte, 0, 2+len(digest)+12), digest)
	params = binary.BigEndian.AppendUint16(params, uint16(scheme))
	params = binary.BigEndian.AppendUint16(params, uint16(alg))
	params = binary.BigEndian.AppendUint16(params, uint16(tpm2.TPMSTHashCheck))
	params = binary.BigEndian.AppendUint32(params, uint32(tpm2.TPMRHNull))
	return binary.BigEndian.AppendUint16(params, 0), scheme, ok
}

// signature gives a TPM's signature (TPMT_SIGNATURE: part 2, section 11.3.4) as backend.Signer promises it.
func signature(info backend.AlgorithmInfo, scheme tpm2.TPMAlgID, rsp []byte) ([]byte, bool) {
	if len(rsp) < 4 || tpm2.TPMAlgID(binary.BigEndian.Uint16(rsp)) != scheme {
		return nil, false
	}
	first, rest, ok := part(rsp[4:]) // behind the hash
	if !ok {
		return nil, false
	}
	if info.Family == backend.FamilyRSA {
		if len(rest) > 0 {
			return nil, false
		}
		return padded(first, info.KeyBits/8)
	}
	second, rest, ok := part(rest)
	c, known := curveOf(info)
	if !ok || !known || len(rest) > 0 || len(first) > c.size || len(second) > c.size {
		return nil, false
	}
	out := make([]byte, 2*c.size)
	copy(out[c.size-len(first):], first)
	copy(out[2*c.size-len(second):], second)
	return out, true
}

// padded puts the zeros back that a TPM may leave away at the front of a number.
func padded(b []byte, size int) ([]byte, bool) {
	if len(b) > size {
		return nil, false
	}
	out := make([]byte, size)
	copy(out[size-len(b):], b)
	return out, true
}

// rsadp is the bare private operation (RFC 8017 section 5.1.2) on a number below the modulus, of size bytes.
func rsadp(tx *device.Tx, key loaded, size int, in []byte) (secret.Bytes, error) {
	rsp, err := tpm2.RSADecrypt{KeyHandle: key.as(device.Out), CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: in}}.Execute(tx)
	if err != nil {
		return nil, err
	}
	defer clear(rsp.Message.Buffer)
	out, ok := padded(rsp.Message.Buffer, size)
	if !ok {
		return nil, fault.New(fault.BackendUnavailable, "the TPM gave a number of the wrong size")
	}
	return out, nil
}

// zgen gives the x coordinate of the product with a point of the curve.
func zgen(tx *device.Tx, key loaded, c curve, point []byte) (secret.Bytes, error) {
	rsp, err := tpm2.ECDHZGen{KeyHandle: key.as(device.Out), InPoint: tpm2.New2B(*pointOf(c, point))}.Execute(tx)
	if err != nil {
		return nil, err
	}
	z, err := rsp.OutPoint.Contents()
	if err != nil {
		return nil, err
	}
	defer clear(z.X.Buffer)
	out, ok := padded(z.X.Buffer, c.size)
	if !ok {
		return nil, fault.New(fault.BackendUnavailable, "the TPM gave a point of another curve")
	}
	return out, nil
}

// maxBuffer is the most that a command takes in bytes: MAX_DIGEST_BUFFER of every TPM is at least this (PC client profile, section 3.6).
const maxBuffer = 1024

// mac computes HMAC in one command, or in a sequence of them.
func mac(tx *device.Tx, key loaded, h crypto.Hash, parts ...[]byte) ([]byte, error) {
	alg, _ := hashAlg(h) // of a key that was made for it
	message := bytes.Join(parts, nil)
	if len(message) <= maxBuffer {
		rsp, err := tpm2.Hmac{Handle: key.as(device.InOut), Buffer: tpm2.TPM2BMaxBuffer{Buffer: message}, HashAlg: alg}.Execute(tx)
		if err != nil {
			return nil, err
		}
		return macResult(h, rsp.OutHMAC.Buffer)
	}
	start, err := tpm2.HmacStart{Handle: key.as(device.In), HashAlg: alg}.Execute(tx)
	if err != nil {
		return nil, err
	}
	// A sequence object has no public area, and so an empty Name (part 1, section 16).
	sequence := tpm2.NamedHandle{Handle: start.SequenceHandle}
	for len(message) > maxBuffer {
		if _, err := (tpm2.SequenceUpdate{SequenceHandle: tx.Auth(sequence, nil, device.In), Buffer: tpm2.TPM2BMaxBuffer{Buffer: message[:maxBuffer]}}).Execute(tx); err != nil {
			return nil, err
		}
		message = message[maxBuffer:]
	}
	rsp, err := tpm2.SequenceComplete{SequenceHandle: tx.Auth(sequence, nil, device.InOut), Buffer: tpm2.TPM2BMaxBuffer{Buffer: message}, Hierarchy: tpm2.TPMRHNull}.Execute(tx)
	if err != nil {
		return nil, err
	}
	return macResult(h, rsp.Result.Buffer)
}

func macResult(h crypto.Hash, out []byte) ([]byte, error) {
	if len(out) != h.Size() {
		return nil, fault.New(fault.BackendUnavailable, "the TPM gave a tag of the wrong size")
	}
	return out, nil
}

// peerPoint checks a public key fully (SP 800-56A section 5.6.2.3.3), before the TPM sees it.
func peerPoint(c curve, der []byte) ([]byte, bool) {
	pub, err := keyenc.ParseSPKI(der)
	if err != nil {
		return nil, false
	}
	p, ok := pub.(*ecdh.PublicKey)
	if e, is := pub.(*ecdsa.PublicKey); is {
		p, err = e.ECDH()
		ok = err == nil
	}
	if !ok || p.Curve() != c.dh {
		return nil, false
	}
	return p.Bytes(), true
}
