package keys

import (
	"context"
	"crypto/subtle"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// MAC computes the full tag of each message with the primary version or the one that t names.
func (s *Service) MAC(ctx context.Context, c Caller, t Target, items []MACItem, single bool) ([]BytesResult, error) {
	return operate(ctx, s, c, verbMAC, t, items, single, kind[MACItem, BytesResult]{
		context: func(i *MACItem) map[string]string { return i.Context },
		do: func(ctx context.Context, b *batch, in *MACItem, out *BytesResult) (Used, error) {
			if len(in.MAC) > 0 {
				return Used{}, fault.New(fault.BadField, "a tag is given to verify-mac only")
			}
			tag, used, err := b.mac(ctx, backend.OpMAC, in.Message)
			out.Bytes = tag
			return used, err
		},
	})
}

// VerifyMAC compares each tag, in constant time, with the one that the version makes. A truncated tag is a wrong one.
func (s *Service) VerifyMAC(ctx context.Context, c Caller, t Target, items []MACItem, single bool) ([]VerifyResult, error) {
	return operate(ctx, s, c, verbVerifyMAC, t, items, single, kind[MACItem, VerifyResult]{
		context: func(i *MACItem) map[string]string { return i.Context },
		do: func(ctx context.Context, b *batch, in *MACItem, out *VerifyResult) (Used, error) {
			if len(in.MAC) == 0 {
				return Used{}, fault.New(fault.MissingField, "the tag to check is missing")
			}
			tag, used, err := b.mac(ctx, backend.OpVerifyMAC, in.Message)
			if err != nil {
				return Used{}, err
			}
			out.Valid = subtle.ConstantTimeCompare(tag, in.MAC) == 1
			clear(tag)
			return used, nil
		},
	})
}

func (b *batch) mac(ctx context.Context, op backend.Operation, message []byte) ([]byte, Used, error) {
	if len(message) > MaxPlaintext {
		return nil, Used{}, fault.New(fault.BadSize, "a message is at most 1 MiB")
	}
	u, err := b.use(ctx, 0, op)
	if err != nil {
		return nil, Used{}, err
	}
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, Used{}, err
	}
	m, ok := key.(backend.MACer)
	if !ok {
		return nil, Used{}, unsupported()
	}
	tag, err := m.MAC(ctx, message)
	return tag, u.used(b), err
}
