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

// rootSealer seals with XChaCha20-Poly1305 under the derived key of the newest root (envelope.SealerSoftware), and opens what is under the key
// of any that is kept.
type rootSealer struct {
	derive     func(label string, generation uint32) (secret.Bytes, error)
	generation func() (uint32, error)
	closed     atomic.Bool
	mu         sync.RWMutex // guards key and of; read-held while the key is used, so that it is not wiped from under a call
	key        secret.Bytes // of the newest generation that was asked for; nil until first use
	of         uint32       // its generation
}

// newest calls f with the newest sealing key.
func (s *rootSealer) newest(ctx context.Context, f func(key []byte, generation uint32) error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	generation, err := s.generation()
	if err != nil && !s.closed.Load() {
		return err
	}
	s.mu.RLock()
	for s.of != generation && !s.closed.Load() {
		s.mu.RUnlock()
		if err := s.fetch(generation); err != nil {
			return err
		}
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if s.closed.Load() {
		return errClosed
	}
	return f(s.key, generation)
}

func (s *rootSealer) fetch(generation uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return errClosed
	}
	if s.of == generation {
		return nil
	}
	key, err := s.at(generation)
	if err != nil {
		return err
	}
	s.key.Wipe()
	s.key, s.of = key, generation
	return nil
}

// at derives the sealing key of a generation. The caller wipes it.
func (s *rootSealer) at(generation uint32) (secret.Bytes, error) {
	key, err := s.derive(Label, generation)
	if err != nil {
		return nil, err
	}
	if len(key) != keySize {
		key.Wipe()
		return nil, fault.New(fault.Internal, "the root derives a sealing key of the wrong size")
	}
	return key, nil
}

func (s *rootSealer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed.Store(true)
	s.key.Wipe()
	s.key, s.of = nil, 0
}

func (s *rootSealer) Seal(ctx context.Context, plaintext, binding []byte) (out []byte, err error) {
	err = s.newest(ctx, func(key []byte, generation uint32) error {
		out, err = envelope.SealGeneration(key, generation, plaintext, binding)
		return err
	})
	return out, err
}

func (s *rootSealer) Open(ctx context.Context, blob, binding []byte) (out secret.Bytes, err error) {
	err = s.newest(ctx, func(key []byte, generation uint32) error {
		of, err := generationOf(blob)
		if err == nil && of != generation {
			// What is under an earlier root is opened once and sealed anew: its key is not worth keeping.
			var old secret.Bytes
			if old, err = s.at(of); err == nil {
				defer old.Wipe()
				key = old
			}
		}
		if err == nil {
			out, err = envelope.OpenGeneration(key, of, blob, binding)
		}
		if fault.Has(err, fault.KeyMaterial) {
			return fault.Wrap(fault.KeyMaterial, "the sealed bytes do not open", err) // one answer for all; the cause is for the log
		}
		return err
	})
	return out, err
}

// Stale implements sealed.Generational.
func (s *rootSealer) Stale(blob []byte) bool {
	newest, err := s.generation()
	if err != nil {
		return false
	}
	of, err := generationOf(blob)
	return err == nil && of != newest
}

func generationOf(blob []byte) (uint32, error) {
	p, err := envelope.ParseSealed(blob)
	return p.Generation, err
}
