package keys

import (
	"context"
	"crypto"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
)

// maxCiphertext bounds what is taken for a ciphertext: the largest plaintext and room for every header.
const maxCiphertext = MaxPlaintext + 1<<16

// Decrypt opens each item with the version that its envelope names; without t.Key the envelope names the key too. With another format
// the items are ciphertexts of the version that t names, or the primary one. The items of one call are of one key. Every
// ciphertext that does not open is the same fault.DecryptionFailed. Whoever gets the plaintexts wipes them after use.
func (s *Service) Decrypt(ctx context.Context, c Caller, t Target, o EncryptOpts, items []CiphertextItem, single bool) ([]BytesResult, error) {
	return operate(ctx, s, c, verbDecrypt, t, items, single, kind[CiphertextItem, BytesResult]{
		context:  func(i *CiphertextItem) map[string]string { return i.Context },
		envelope: func(i *CiphertextItem) []byte { return i.Ciphertext },
		raw:      o.Format != FormatEnvelope,
		prepare:  func(b *batch) error { return b.prepareOpen(&o, items) },
		do: func(ctx context.Context, b *batch, in *CiphertextItem, out *BytesResult) (Used, error) {
			if err := checkCiphertext(in); err != nil {
				return Used{}, err
			}
			if err := o.check(in.AAD, in.Label, in.Context); err != nil {
				return Used{}, err
			}
			if o.Format == FormatEnvelope {
				pt, used, err := b.open(ctx, backend.OpDecrypt, o.Hash, in)
				out.Bytes = pt
				return used, err
			}
			u, err := b.use(ctx, 0, backend.OpDecrypt)
			if err != nil {
				return Used{}, err
			}
			switch o.Format {
			case FormatRaw:
				out.Bytes, err = u.decryptOAEP(ctx, b, in.Ciphertext, backend.OAEPOpts{Hash: o.Hash, Label: in.Label})
			case FormatKEMDEM:
				out.Bytes, err = u.openKEMDEM(ctx, b, in.Ciphertext)
			default:
				out.Bytes, err = u.openHPKE(ctx, b, in)
			}
			return u.used(b), err
		},
		many: &many[CiphertextItem, BytesResult]{
			fits: isAEAD,
			ask: func(ctx context.Context, b *batch, in *CiphertextItem) (*use, backend.Item, error) {
				if err := checkCiphertext(in); err != nil {
					return nil, backend.Item{}, err
				}
				if err := o.check(in.AAD, in.Label, in.Context); err != nil {
					return nil, backend.Item{}, err
				}
				u, e, err := b.enclosed(ctx, backend.OpDecrypt, in)
				if err != nil {
					return nil, backend.Item{}, err
				}
				at := len(b.scratch)
				b.scratch = e.AppendAAD(b.scratch, b.record.info.NonceSize, in.AAD, in.Context)
				return u, backend.Item{Input: e.Sealed, AAD: b.scratch[at:len(b.scratch):len(b.scratch)]}, nil
			},
			with: func(key backend.Key) func(context.Context, []backend.Item) ([]backend.Result, error) {
				h, ok := key.(backend.BatchAEAD)
				if !ok {
					return nil
				}
				return h.OpenMany
			},
			give: func(_ *batch, _ *use, _ *CiphertextItem, out *BytesResult, plaintext []byte) error {
				if out.Bytes = plaintext; plaintext == nil {
					out.Bytes = []byte{} // an empty plaintext is one
				}
				return nil
			},
		},
	})
}

// Unwrap is the reverse of Wrap. For AES-KWP keys, whose output names no version, t does, or it is the primary one.
func (s *Service) Unwrap(ctx context.Context, c Caller, t Target, items []CiphertextItem, single bool) ([]BytesResult, error) {
	o := EncryptOpts{}
	return operate(ctx, s, c, verbUnwrap, t, items, single, kind[CiphertextItem, BytesResult]{
		context:  func(i *CiphertextItem) map[string]string { return i.Context },
		envelope: func(i *CiphertextItem) []byte { return i.Ciphertext },
		prepare:  func(b *batch) error { return b.prepareOpen(&o, items) },
		do: func(ctx context.Context, b *batch, in *CiphertextItem, out *BytesResult) (Used, error) {
			if err := checkCiphertext(in); err != nil {
				return Used{}, err
			}
			if len(in.Label) > 0 {
				return Used{}, fault.New(fault.BadField, "unwrapping takes no label")
			}
			if b.record.info.Family != backend.FamilyKWP {
				pt, used, err := b.open(ctx, backend.OpUnwrap, o.Hash, in)
				out.Bytes = pt
				return used, err
			}
			u, err := b.use(ctx, 0, backend.OpUnwrap)
			if err != nil {
				return Used{}, err
			}
			w, err := u.wrapper(ctx, b, in.AAD, in.Context)
			if err != nil {
				return Used{}, err
			}
			out.Bytes, err = w.Unwrap(ctx, in.Ciphertext)
			return u.used(b), err
		},
	})
}

// Rewrap opens each envelope with its version and seals the plaintext, which does not leave the process and is wiped, under the
// primary version or the one that t names. Aad and context stay. Used names the new version; it is marked compromised when the old
// one was.
func (s *Service) Rewrap(ctx context.Context, c Caller, t Target, items []CiphertextItem, single bool) ([]BytesResult, error) {
	return operate(ctx, s, c, verbRewrap, t, items, single, kind[CiphertextItem, BytesResult]{
		context:  func(i *CiphertextItem) map[string]string { return i.Context },
		envelope: func(i *CiphertextItem) []byte { return i.Ciphertext },
		size:     func(i *CiphertextItem) int { return len(i.Ciphertext) }, // a little more than its plaintext
		do: func(ctx context.Context, b *batch, in *CiphertextItem, out *BytesResult) (Used, error) {
			if err := checkCiphertext(in); err != nil {
				return Used{}, err
			}
			if len(in.Label) > 0 {
				return Used{}, fault.New(fault.BadField, "rewrapping takes no label")
			}
			pt, from, err := b.open(ctx, backend.OpDecrypt, crypto.SHA256, in)
			defer clear(pt)
			if err != nil {
				return Used{}, err
			}
			u, err := b.use(ctx, 0, backend.OpEncrypt)
			if err != nil {
				return Used{}, err
			}
			used := u.used(b)
			used.Compromised = used.Compromised || from.Compromised
			out.Bytes, err = b.seal(ctx, u, crypto.SHA256, pt, in.AAD, in.Context)
			return used, err
		},
	})
}

func checkCiphertext(in *CiphertextItem) error {
	if len(in.Ciphertext) == 0 || len(in.Ciphertext) > maxCiphertext || len(in.AAD) > MaxAAD || len(in.Label) > MaxAAD {
		return fault.New(fault.BadSize, "a ciphertext is not empty and at most that of 1 MiB, its aad and label at most 64 KiB")
	}
	return nil
}

// prepareOpen settles the hash and makes one buffer for all plaintexts of a batch.
func (b *batch) prepareOpen(o *EncryptOpts, items []CiphertextItem) error {
	if err := b.encryptOpts(o); err != nil {
		return err
	}
	if b.record.info.Family != backend.FamilyAEAD {
		return nil
	}
	h := envelope.Header{}
	over, size := h.Size(b.record.info.NonceSize, b.record.info.TagSize), 0
	for i := range items {
		if n := len(items[i].Ciphertext); n <= maxCiphertext {
			size += max(0, n-over)
		}
	}
	b.slab = make([]byte, 0, size)
	return nil
}

func notOfThisKey() error {
	return fault.New(fault.BadEnvelope, "the ciphertext is not one of this key")
}

// enclosed parses an envelope of the key of the request, and gives the version that it is for.
func (b *batch) enclosed(ctx context.Context, op backend.Operation, in *CiphertextItem) (*use, envelope.Envelope, error) {
	e, err := envelope.Parse(in.Ciphertext)
	if err != nil {
		return nil, e, err
	}
	info := &b.record.info
	if e.KeyID != b.record.key.ID || e.Algorithm != info.ID || (len(e.KEM) > 0) != (info.Family == backend.FamilyKEM) || len(e.Nonce) != info.NonceSize {
		return nil, e, notOfThisKey()
	}
	if n := b.target.Version; n != 0 && n != e.KeyVersion && b.verb != verbRewrap {
		return nil, e, notOfThisKey()
	}
	u, err := b.use(ctx, e.KeyVersion, op)
	return u, e, err
}

// open opens an envelope of the key of the request. The caller wipes the plaintext when it does not release it.
func (b *batch) open(ctx context.Context, op backend.Operation, hash crypto.Hash, in *CiphertextItem) ([]byte, Used, error) {
	u, e, err := b.enclosed(ctx, op, in)
	if err != nil {
		return nil, Used{}, err
	}
	info := &b.record.info
	used := u.used(b)
	if info.Family == backend.FamilyRSA {
		b.scratch = e.AppendAAD(b.scratch[:0], 0, in.AAD, in.Context)
		pt, err := u.decryptOAEP(ctx, b, e.Body, backend.OAEPOpts{Hash: hash, Label: b.scratch})
		return pt, used, err
	}
	if info.Family == backend.FamilyKEM {
		pt, err := b.openKEM(ctx, u, &e, in)
		return pt, used, err
	}
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, Used{}, err
	}
	aead, ok := key.(backend.AEAD)
	if !ok {
		return nil, Used{}, unsupported()
	}
	if b.scratch == nil {
		b.scratch = make([]byte, 0, e.AADSize(in.AAD, in.Context))
	}
	b.scratch = e.AppendAAD(b.scratch[:0], info.NonceSize, in.AAD, in.Context)
	pt, err := aead.Open(ctx, b.cut(max(0, len(e.Body)-info.TagSize)), e.Sealed, b.scratch)
	if err != nil {
		return nil, Used{}, err
	}
	return pt, used, nil
}

func (u *use) decryptOAEP(ctx context.Context, b *batch, ciphertext []byte, o backend.OAEPOpts) ([]byte, error) {
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	d, ok := key.(backend.Decrypter)
	if !ok {
		return nil, unsupported()
	}
	return d.Decrypt(ctx, ciphertext, o)
}
