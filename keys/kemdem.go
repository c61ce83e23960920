package keys

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/verify"
)

// WrapKEMDEM is Wrap for KEM keys in FormatKEMDEM, which binds nothing to the material: aad and context are refused.
func (s *Service) WrapKEMDEM(ctx context.Context, c Caller, t Target, items []EncryptItem, single bool) ([]BytesResult, error) {
	o := EncryptOpts{Format: FormatKEMDEM}
	return operate(ctx, s, c, verbWrap, t, items, single, kind[EncryptItem, BytesResult]{
		context: func(i *EncryptItem) map[string]string { return i.Context },
		size:    func(i *EncryptItem) int { return len(i.Plaintext) },
		prepare: func(b *batch) error { return b.encryptOpts(&o) },
		do: func(ctx context.Context, b *batch, in *EncryptItem, out *BytesResult) (Used, error) {
			if n := len(in.Plaintext); n < minWrapped || n > maxWrapped {
				return Used{}, fault.New(fault.BadSize, "wrapped material is 8 to 4096 bytes")
			}
			if err := o.check(in.AAD, in.Label, in.Context); err != nil {
				return Used{}, err
			}
			if in.Salt != nil {
				return Used{}, fault.New(fault.BadField, "wrapping takes no salt")
			}
			u, err := b.use(ctx, 0, backend.OpWrap)
			if err != nil {
				return Used{}, err
			}
			out.Bytes, err = verify.SealKEMDEM(u.version.public, b.record.info.Name, in.Plaintext, nil)
			return u.used(b), err
		},
	})
}

// UnwrapKEMDEM is the reverse of WrapKEMDEM, with the primary version or the one that t names. Whoever gets the material wipes it after use.
func (s *Service) UnwrapKEMDEM(ctx context.Context, c Caller, t Target, items []CiphertextItem, single bool) ([]BytesResult, error) {
	o := EncryptOpts{Format: FormatKEMDEM}
	return operate(ctx, s, c, verbUnwrap, t, items, single, kind[CiphertextItem, BytesResult]{
		context:  func(i *CiphertextItem) map[string]string { return i.Context },
		envelope: func(i *CiphertextItem) []byte { return i.Ciphertext },
		raw:      true,
		prepare:  func(b *batch) error { return b.encryptOpts(&o) },
		do: func(ctx context.Context, b *batch, in *CiphertextItem, out *BytesResult) (Used, error) {
			if err := checkCiphertext(in); err != nil {
				return Used{}, err
			}
			if err := o.check(in.AAD, in.Label, in.Context); err != nil {
				return Used{}, err
			}
			u, err := b.use(ctx, 0, backend.OpUnwrap)
			if err != nil {
				return Used{}, err
			}
			out.Bytes, err = u.openKEMDEM(ctx, b, in.Ciphertext)
			return u.used(b), err
		},
	})
}

// openKEMDEM opens a bare KEM-DEM ciphertext. Whatever is wrong with it has one answer.
func (u *use) openKEMDEM(ctx context.Context, b *batch, blob []byte) ([]byte, error) {
	n := verify.KEMSize(b.record.info.Name)
	if len(blob) < n {
		return nil, fault.New(fault.DecryptionFailed, "the ciphertext does not open")
	}
	shared, err := u.decapsulate(ctx, b, blob[:n])
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	return verify.OpenKEMDEM(u.version.public, b.record.info.Name, shared, blob)
}

// checkSalt refuses a salt where nothing is deterministic. How long it is at least, the format says.
func (o *EncryptOpts) checkSalt(salt []byte) error {
	switch {
	case salt != nil && o.Format != FormatKEMDEM:
		return fault.New(fault.BadField, "only the format kem-dem takes a salt")
	case len(salt) > MaxAAD:
		return fault.New(fault.BadSize, "a salt is at most 64 KiB")
	}
	return nil
}
