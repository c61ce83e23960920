package software

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// callerBinding keeps what callers seal apart from key material: a blob of Backend.Seal never opens as a key, nor a key's
// as a caller's, whatever the binding.
func callerBinding(b []byte) []byte {
	const domain = "keywright/v1/software-sealer\x00"
	return append(append(make([]byte, 0, len(domain)+len(b)), domain...), b...)
}

// rootSealer seals with XChaCha20-Poly1305 under the derived key (envelope.SealerSoftware).
type rootSealer struct {
	derive func(string) (secret.Bytes, error)
	closed atomic.Bool
	mu     sync.RWMutex // guards key; read-held while it is used, so that it is not wiped from under a call
	key    secret.Bytes // nil until first use
}

// use calls f with the sealing key.
func (s *rootSealer) use(ctx context.Context, f func(key []byte) error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	s.mu.RLock()
	for s.key == nil && !s.closed.Load() {
		s.mu.RUnlock()
		if err := s.fetch(); err != nil {
			return err
		}
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if s.closed.Load() {
		return errClosed
	}
	return f(s.key)
}

func (s *rootSealer) fetch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return errClosed
	}
	if s.key != nil {
		return nil
	}
	key, err := s.derive(Label)
	if err != nil {
		return err
	}
	if len(key) != keySize {
		key.Wipe()
		return fault.New(fault.Internal, "the root derives a sealing key of the wrong size")
	}
	s.key = key
	return nil
}

func (s *rootSealer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed.Store(true)
	s.key.Wipe()
	s.key = nil
}

func (s *rootSealer) Seal(ctx context.Context, plaintext, binding []byte) (out []byte, err error) {
	err = s.use(ctx, func(key []byte) error {
		out, err = envelope.SealSoftware(key, plaintext, binding)
		return err
	})
	return out, err
}

func (s *rootSealer) Open(ctx context.Context, blob, binding []byte) (out secret.Bytes, err error) {
	err = s.use(ctx, func(key []byte) error {
		out, err = envelope.OpenSoftware(key, blob, binding)
		if fault.Has(err, fault.KeyMaterial) {
			return fault.Wrap(fault.KeyMaterial, "the sealed bytes do not open", err) // one answer for all; the cause is for the log
		}
		return err
	})
	return out, err
}
