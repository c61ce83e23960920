package keys

import (
	"context"
	"crypto"
	"io"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/verify"
)

const (
	minWrapped  = 8 // bytes of key material
	maxWrapped  = 4096
	minDataKey  = 16
	maxDataKey  = 64
	dataKeySize = 32
)

// Encrypt encrypts each item under the primary version of the key, or the one that t names. The results are envelopes, or what o.Format says. RSA keys encrypt by their public part, without their backend. The hash of an RSA envelope is not in it: who
// chooses another than SHA-256 names it again to Decrypt.
func (s *Service) Encrypt(ctx context.Context, c Caller, t Target, o EncryptOpts, items []EncryptItem, single bool) ([]BytesResult, error) {
	return operate(ctx, s, c, verbEncrypt, t, items, single, kind[EncryptItem, BytesResult]{
		context: func(i *EncryptItem) map[string]string { return i.Context },
		size:    func(i *EncryptItem) int { return len(i.Plaintext) },
		prepare: func(b *batch) error { return b.prepareSeal(&o, items) },
		do: func(ctx context.Context, b *batch, in *EncryptItem, out *BytesResult) (Used, error) {
			if err := checkPlaintext(in); err != nil {
				return Used{}, err
			}
			u, err := b.use(ctx, 0, backend.OpEncrypt)
			if err != nil {
				return Used{}, err
			}
			if err := o.check(in.AAD, in.Label, in.Context); err != nil {
				return Used{}, err
			}
			if err := o.checkSalt(in.Salt); err != nil {
				return Used{}, err
			}
			switch o.Format {
			case FormatRaw:
				out.Bytes, err = verify.EncryptOAEP(u.version.public, o.Hash, in.Label, in.Plaintext)
			case FormatHPKE:
				out.Bytes, err = verify.SealHPKE(u.version.public, b.record.info.Name, in.Label, in.AAD, in.Plaintext)
			case FormatKEMDEM:
				out.Bytes, err = verify.SealKEMDEM(u.version.public, b.record.info.Name, in.Plaintext, in.Salt)
			default:
				out.Bytes, err = b.seal(ctx, u, o.Hash, in.Plaintext, in.AAD, in.Context)
			}
			return u.used(b), err
		},
		many: &many[EncryptItem, BytesResult]{
			fits: isAEAD,
			ask: func(ctx context.Context, b *batch, in *EncryptItem) (*use, backend.Item, error) {
				if err := checkPlaintext(in); err != nil {
					return nil, backend.Item{}, err
				}
				if err := o.check(in.AAD, in.Label, in.Context); err != nil {
					return nil, backend.Item{}, err
				}
				if err := o.checkSalt(in.Salt); err != nil {
					return nil, backend.Item{}, err
				}
				u, err := b.use(ctx, 0, backend.OpEncrypt)
				if err != nil {
					return nil, backend.Item{}, err
				}
				h, at := b.header(u), len(b.scratch)
				b.scratch = h.AppendAAD(b.scratch, b.record.info.NonceSize, in.AAD, in.Context)
				return u, backend.Item{Input: in.Plaintext, AAD: b.scratch[at:len(b.scratch):len(b.scratch)]}, nil
			},
			with: func(key backend.Key) func(context.Context, []backend.Item) ([]backend.Result, error) {
				h, ok := key.(backend.BatchAEAD)
				if !ok {
					return nil
				}
				return h.SealMany
			},
			give: func(b *batch, u *use, _ *EncryptItem, out *BytesResult, sealed []byte) error {
				h, nonce := b.header(u), b.record.info.NonceSize
				body := len(sealed) - nonce
				out.Bytes = append(h.AppendHeader(b.cut(h.Size(nonce, body)), nonce, body), sealed...)
				return nil
			},
		},
	})
}

func checkPlaintext(in *EncryptItem) error {
	if len(in.Plaintext) > MaxPlaintext || len(in.AAD) > MaxAAD || len(in.Label) > MaxAAD {
		return fault.New(fault.BadSize, "a plaintext is at most 1 MiB, its aad and label at most 64 KiB")
	}
	return nil
}

// Wrap wraps key material: an AES-KWP key gives bare RFC 5649 output, other keys an envelope.
func (s *Service) Wrap(ctx context.Context, c Caller, t Target, items []EncryptItem, single bool) ([]BytesResult, error) {
	o := EncryptOpts{}
	return operate(ctx, s, c, verbWrap, t, items, single, kind[EncryptItem, BytesResult]{
		context: func(i *EncryptItem) map[string]string { return i.Context },
		size:    func(i *EncryptItem) int { return len(i.Plaintext) },
		prepare: func(b *batch) error { return b.prepareSeal(&o, items) },
		do: func(ctx context.Context, b *batch, in *EncryptItem, out *BytesResult) (Used, error) {
			if n := len(in.Plaintext); n < minWrapped || n > maxWrapped || len(in.AAD) > MaxAAD {
				return Used{}, fault.New(fault.BadSize, "wrapped material is 8 to 4096 bytes, its aad at most 64 KiB")
			}
			if len(in.Label) > 0 {
				return Used{}, fault.New(fault.BadField, "wrapping takes no label")
			}
			u, err := b.use(ctx, 0, backend.OpWrap)
			if err != nil {
				return Used{}, err
			}
			out.Bytes, err = b.sealOrWrap(ctx, u, in.Plaintext, in.AAD, in.Context)
			return u.used(b), err
		},
	})
}

// DataKeys makes fresh data keys from the operating system's generator and encrypts each as Wrap does; Decrypt or Unwrap opens
// it again. Whoever gets the plaintext wipes it after use.
func (s *Service) DataKeys(ctx context.Context, c Caller, t Target, items []DataKeyRequest, single bool) ([]DataKey, error) {
	return operate(ctx, s, c, verbDataKey, t, items, single, kind[DataKeyRequest, DataKey]{
		context: func(i *DataKeyRequest) map[string]string { return i.Context },
		size:    func(r *DataKeyRequest) int { return min(max(r.length(), 0), maxDataKey) },
		do: func(ctx context.Context, b *batch, in *DataKeyRequest, out *DataKey) (Used, error) {
			size := in.length()
			if size < minDataKey || size > maxDataKey || len(in.AAD) > MaxAAD {
				return Used{}, fault.New(fault.BadSize, "a data key is 16 to 64 bytes, its aad at most 64 KiB")
			}
			u, err := b.use(ctx, 0, backend.OpDataKey)
			if err != nil {
				return Used{}, err
			}
			out.Plaintext = make([]byte, size)
			if _, err := io.ReadFull(s.rand, out.Plaintext); err != nil {
				return Used{}, fault.Wrap(fault.Internal, "internal fault", err)
			}
			out.Ciphertext, err = b.sealOrWrap(ctx, u, out.Plaintext, in.AAD, in.Context)
			if in.Hide {
				clear(out.Plaintext)
				out.Plaintext = nil
			}
			return u.used(b), err
		},
	})
}

// length is how many bytes the data key gets, if that many are allowed.
func (r *DataKeyRequest) length() int {
	if r.Bytes == 0 {
		return dataKeySize
	}
	return r.Bytes
}

// prepareSeal settles the hash and makes one buffer for all results of a batch.
func (b *batch) prepareSeal(o *EncryptOpts, items []EncryptItem) error {
	if err := b.encryptOpts(o); err != nil {
		return err
	}
	if b.record.info.Family != backend.FamilyAEAD {
		return nil
	}
	info := &b.record.info
	h := envelope.Header{}
	size := 0
	for i := range items {
		if n := len(items[i].Plaintext); n <= MaxPlaintext {
			size += h.Size(info.NonceSize, n+info.TagSize)
		}
	}
	b.slab = make([]byte, 0, size)
	return nil
}

// seal makes an envelope of the version. Header, nonce, ciphertext and tag are written into one buffer.
func (b *batch) seal(ctx context.Context, u *use, hash crypto.Hash, plaintext, aad []byte, context map[string]string) ([]byte, error) {
	info := &b.record.info
	h := b.header(u)
	if info.Family == backend.FamilyRSA {
		// RFC 8017 section 7.1: the label is authenticated and not encrypted, which is what an envelope needs.
		b.scratch = h.AppendAAD(b.scratch[:0], 0, aad, context)
		ct, err := verify.EncryptOAEP(u.version.public, hash, b.scratch, plaintext)
		if err != nil {
			return nil, err
		}
		return append(h.AppendHeader(make([]byte, 0, h.Size(0, len(ct))), 0, len(ct)), ct...), nil
	}
	if info.Family == backend.FamilyKEM {
		return b.sealKEM(u, &h, plaintext, aad, context)
	}
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	aead, ok := key.(backend.AEAD)
	if !ok {
		return nil, unsupported()
	}
	if b.scratch == nil {
		b.scratch = make([]byte, 0, h.AADSize(aad, context))
	}
	b.scratch = h.AppendAAD(b.scratch[:0], info.NonceSize, aad, context)
	body := len(plaintext) + info.TagSize
	dst := h.AppendHeader(b.cut(h.Size(info.NonceSize, body)), info.NonceSize, body)
	return aead.Seal(ctx, dst, plaintext, b.scratch)
}

// sealOrWrap is seal, and for AES-KWP keys RFC 5649, which can bind nothing to the material.
func (b *batch) sealOrWrap(ctx context.Context, u *use, material, aad []byte, context map[string]string) ([]byte, error) {
	if b.record.info.Family != backend.FamilyKWP {
		return b.seal(ctx, u, crypto.SHA256, material, aad, context)
	}
	w, err := u.wrapper(ctx, b, aad, context)
	if err != nil {
		return nil, err
	}
	return w.Wrap(ctx, material)
}

func (u *use) wrapper(ctx context.Context, b *batch, aad []byte, context map[string]string) (backend.Wrapper, error) {
	if len(aad) > 0 || len(context) > 0 {
		return nil, fault.New(fault.BadField, "AES-KWP binds no aad and no context")
	}
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	w, ok := key.(backend.Wrapper)
	if !ok {
		return nil, unsupported()
	}
	return w, nil
}
