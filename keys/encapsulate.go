package keys

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/verify"
)

// Encapsulate makes a fresh shared secret for each item and the ciphertext that carries it to whoever holds the key (SP 800-227 section
// 3). It needs the public part alone, so no backend is asked. Whoever gets the secrets wipes them after use.
func (s *Service) Encapsulate(ctx context.Context, c Caller, t Target, items []EncapsulateItem, single bool) ([]Encapsulation, error) {
	return operate(ctx, s, c, verbEncapsulate, t, items, single, kind[EncapsulateItem, Encapsulation]{
		context: func(i *EncapsulateItem) map[string]string { return i.Context },
		do: func(ctx context.Context, b *batch, _ *EncapsulateItem, out *Encapsulation) (Used, error) {
			u, err := b.use(ctx, 0, backend.OpEncapsulate)
			if err != nil {
				return Used{}, err
			}
			ct, shared, err := verify.Encapsulate(u.version.public, b.record.info.Name)
			if err != nil {
				return Used{}, err
			}
			out.Ciphertext, out.Secret = ct, shared
			return u.used(b), nil
		},
	})
}

// Decapsulate recovers the shared secret of each ciphertext with the primary version or the one that t names. A ciphertext that was
// changed gives an unrelated secret and no error, where the KEM rejects implicitly (FIPS 203 section 6.3): who uses the secret finds out.
func (s *Service) Decapsulate(ctx context.Context, c Caller, t Target, items []DecapsulateItem, single bool) ([]BytesResult, error) {
	return operate(ctx, s, c, verbDecapsulate, t, items, single, kind[DecapsulateItem, BytesResult]{
		context: func(i *DecapsulateItem) map[string]string { return i.Context },
		do: func(ctx context.Context, b *batch, in *DecapsulateItem, out *BytesResult) (Used, error) {
			if len(in.Ciphertext) == 0 || len(in.Ciphertext) > maxKEM {
				return Used{}, fault.New(fault.BadSize, "a KEM ciphertext is not empty and at most 4096 bytes")
			}
			u, err := b.use(ctx, 0, backend.OpDecapsulate)
			if err != nil {
				return Used{}, err
			}
			out.Bytes, err = u.decapsulate(ctx, b, in.Ciphertext)
			return u.used(b), err
		},
	})
}

// maxKEM bounds what is taken for a KEM ciphertext: those of ML-KEM-1024 have 1568 bytes.
const maxKEM = 4096

func (u *use) decapsulate(ctx context.Context, b *batch, ciphertext []byte) ([]byte, error) {
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	d, ok := key.(backend.Decapsulator)
	if !ok {
		return nil, unsupported()
	}
	return d.Decapsulate(ctx, ciphertext)
}
