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
		size:    func(i *MACItem) int { return len(i.Message) },
		do: func(ctx context.Context, b *batch, in *MACItem, out *BytesResult) (Used, error) {
			if len(in.MAC) > 0 {
				return Used{}, tagGiven()
			}
			tag, used, err := b.mac(ctx, backend.OpMAC, in.Message)
			out.Bytes = tag
			return used, err
		},
		many: &many[MACItem, BytesResult]{
			fits: anyKey,
			ask: func(ctx context.Context, b *batch, in *MACItem) (*use, backend.Item, error) {
				if len(in.MAC) > 0 {
					return nil, backend.Item{}, tagGiven()
				}
				return b.askMAC(ctx, backend.OpMAC, in.Message)
			},
			with: macMany,
			give: func(_ *batch, _ *use, _ *MACItem, out *BytesResult, tag []byte) error {
				out.Bytes = tag
				return nil
			},
		},
	})
}

func tagGiven() error   { return fault.New(fault.BadField, "a tag is given to verify-mac only") }
func tagMissing() error { return fault.New(fault.MissingField, "the tag to check is missing") }

func macMany(key backend.Key) func(context.Context, []backend.Item) ([]backend.Result, error) {
	h, ok := key.(backend.BatchMACer)
	if !ok {
		return nil
	}
	return h.MACMany
}

func (b *batch) askMAC(ctx context.Context, op backend.Operation, message []byte) (*use, backend.Item, error) {
	if len(message) > MaxPlaintext {
		return nil, backend.Item{}, fault.New(fault.BadSize, "a message is at most 1 MiB")
	}
	u, err := b.use(ctx, 0, op)
	return u, backend.Item{Input: message}, err
}

// VerifyMAC compares each tag, in constant time, with the one that the version makes. A truncated tag is a wrong one.
func (s *Service) VerifyMAC(ctx context.Context, c Caller, t Target, items []MACItem, single bool) ([]VerifyResult, error) {
	return operate(ctx, s, c, verbVerifyMAC, t, items, single, kind[MACItem, VerifyResult]{
		context: func(i *MACItem) map[string]string { return i.Context },
		do: func(ctx context.Context, b *batch, in *MACItem, out *VerifyResult) (Used, error) {
			if len(in.MAC) == 0 {
				return Used{}, tagMissing()
			}
			tag, used, err := b.mac(ctx, backend.OpVerifyMAC, in.Message)
			if err != nil {
				return Used{}, err
			}
			out.Valid = subtle.ConstantTimeCompare(tag, in.MAC) == 1
			clear(tag)
			return used, nil
		},
		many: &many[MACItem, VerifyResult]{
			fits: anyKey,
			ask: func(ctx context.Context, b *batch, in *MACItem) (*use, backend.Item, error) {
				if len(in.MAC) == 0 {
					return nil, backend.Item{}, tagMissing()
				}
				return b.askMAC(ctx, backend.OpVerifyMAC, in.Message)
			},
			with: macMany,
			give: func(_ *batch, _ *use, in *MACItem, out *VerifyResult, tag []byte) error {
				out.Valid = subtle.ConstantTimeCompare(tag, in.MAC) == 1
				clear(tag)
				return nil
			},
		},
	})
}

func (b *batch) mac(ctx context.Context, op backend.Operation, message []byte) ([]byte, Used, error) {
	u, _, err := b.askMAC(ctx, op, message)
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
