package keys

import (
	"context"
	"crypto"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/verify"
)

// encryptOpts checks the choices of a ciphertext against the algorithm, and gives the hash of OAEP its default.
func (b *batch) encryptOpts(o *EncryptOpts) error {
	info := &b.record.info
	if info.Family == backend.FamilyRSA {
		if o.Format != FormatEnvelope && o.Format != FormatRaw {
			return fault.New(fault.BadField, "RSA keys have the formats envelope and raw")
		}
		if o.Hash == 0 {
			o.Hash = crypto.SHA256
		}
		if !keyenc.OAEPHash(o.Hash) {
			return fault.New(fault.BadField, "the hash of RSA-OAEP is SHA-1, SHA-256, SHA-384 or SHA-512")
		}
		return nil
	}
	if o.Hash != 0 {
		return fault.New(fault.BadField, "only RSA keys have a choice of hash")
	}
	switch {
	case o.Format == FormatEnvelope:
		return nil
	case info.Family == backend.FamilyKEM && o.Format == FormatKEMDEM:
		return nil
	case info.Family != backend.FamilyKEM || o.Format != FormatHPKE:
		return fault.New(fault.BadField, "the key does not have this format")
	case !verify.HasHPKE(info.Name):
		return fault.New(fault.BadField, "this KEM has no HPKE: X-Wing and the KEMs of RFC 9180 do")
	}
	return nil
}

// sealKEM makes an envelope whose header carries the KEM ciphertext. Each has a key of its own.
func (b *batch) sealKEM(u *use, h *envelope.Header, plaintext, aad []byte, context map[string]string) ([]byte, error) {
	kem, key, err := verify.SealKEM(u.version.public, b.record.info.Name)
	if err != nil {
		return nil, err
	}
	h.KEM = kem
	nonce, body := b.record.info.NonceSize, len(plaintext)+b.record.info.TagSize
	b.scratch = h.AppendAAD(b.scratch[:0], nonce, aad, context)
	dst := h.AppendHeader(make([]byte, 0, h.Size(nonce, body)), nonce, body)
	return key.Seal(dst, plaintext, b.scratch), nil
}

// openKEM opens such an envelope. Whatever is wrong with it has one answer: a KEM ciphertext that was changed gives a key that opens
// nothing, as a changed body does.
func (b *batch) openKEM(ctx context.Context, u *use, e *envelope.Envelope, in *CiphertextItem) ([]byte, error) {
	shared, err := u.decapsulate(ctx, b, e.KEM)
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	key, err := verify.OpenKEM(u.version.public, b.record.info.Name, e.KEM, shared)
	if err != nil {
		return nil, err
	}
	b.scratch = e.AppendAAD(b.scratch[:0], b.record.info.NonceSize, in.AAD, in.Context)
	return key.Open(nil, e.Sealed, b.scratch)
}

// openHPKE splits enc from the ciphertext and opens it with the version.
func (u *use) openHPKE(ctx context.Context, b *batch, in *CiphertextItem) ([]byte, error) {
	n := verify.KEMSize(b.record.info.Name)
	if len(in.Ciphertext) < n {
		return nil, fault.New(fault.DecryptionFailed, "the ciphertext does not open")
	}
	shared, err := u.decapsulate(ctx, b, in.Ciphertext[:n])
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	return verify.OpenHPKE(b.record.info.Name, shared, in.Label, in.AAD, in.Ciphertext[n:])
}

// check refuses what the format cannot bind.
func (o *EncryptOpts) check(aad, label []byte, context map[string]string) error {
	switch {
	case o.Format == FormatEnvelope && len(label) > 0:
		return fault.New(fault.BadField, "a label goes with the formats raw and hpke only")
	case o.Format == FormatRaw && (len(aad) > 0 || len(context) > 0):
		return fault.New(fault.BadField, "a raw ciphertext binds a label, and no aad or context")
	case o.Format == FormatKEMDEM && (len(aad) > 0 || len(label) > 0 || len(context) > 0):
		return fault.New(fault.BadField, "a bare KEM-DEM ciphertext binds no aad, label or context")
	case o.Format == FormatHPKE && len(context) > 0:
		return fault.New(fault.BadField, "an HPKE ciphertext binds aad and label, and no context")
	}
	return nil
}
