package keys

import (
	"context"
	"crypto/subtle"
	"io"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Random gives n bytes, 1 to MaxRandom: the operating system's generator, XORed with that of a backend. The two are independent, so the
// result is at least as hard to predict as the better of them (the XOR construction of SP 800-90C, RBG3(XOR)). Without a name it is
// the default backend when that has a generator, else the operating system alone; a named backend without one is fault.Unsupported. A
// generator that fails fails the call.
func (s *Service) Random(ctx context.Context, c Caller, name string, n int) ([]byte, error) {
	return pipeline(ctx, s, c, verbRandom, func(ctx context.Context, q *request) ([]byte, error) {
		if n < 1 || n > MaxRandom {
			return nil, fault.New(fault.BadSize, "random bytes are 1 to 1 MiB")
		}
		b, err := s.backendNamed(name)
		if err != nil {
			return nil, err
		}
		device, ok := b.(backend.Randomer)
		if !ok && name != "" {
			return nil, fault.New(fault.Unsupported, "the backend has no generator")
		}
		if err := q.countDaily(1); err != nil {
			return nil, err
		}
		out := make([]byte, n)
		if _, err := io.ReadFull(s.rand, out); err != nil {
			return nil, fault.Wrap(fault.Internal, "internal fault", err)
		}
		if !ok {
			q.entry.Resource = "system"
			return out, nil
		}
		q.entry.Resource = "backend:" + b.Info().Name
		other := make([]byte, n)
		defer clear(other)
		if err := device.Random(ctx, other); err != nil {
			clear(out)
			return nil, err
		}
		subtle.XORBytes(out, out, other)
		return out, nil
	}, func(b []byte) { clear(b) })
}
