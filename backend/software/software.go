// Package software is the backend without a device: the sealed engine over a key that is derived from the deployment's
// root. It stands in for an HSM where there is none, and says so: its custody is `software`, and whoever has root and store
// has every key.
//
// It trusts its root to be secret and the operating system's random generator; it does not trust the store (see package
// sealed).
package software

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Label is what the sealing key is derived under.
const Label = "keywright/v1/software-sealing"

// ID is the device identity in key records. There is one software root in a deployment, so there is one software backend,
// under whatever name.
const ID = "software"

// keySize is the size of the sealing key in bytes.
const keySize = 32

// Options are the choices of the backend. Name and Derive are required.
type Options struct {
	// Name is the configured name, for Info and the metrics.
	Name string
	// Derive gives 32 bytes for a label, the same ones each time, out of the root; the backend wipes them. It answers
	// fault.Locked while the root is not open. It is asked once, at the first use after that.
	Derive func(label string) (secret.Bytes, error)
	// Capacity, TTL and Now are those of sealed.Options.
	Capacity int
	TTL      time.Duration
	Now      func() time.Time
	// Registerer takes the cache's metrics; nil for none.
	Registerer prometheus.Registerer
}

// Backend is the software backend. It implements backend.Backend, Importer, Sealer, Randomer and Pinger.
type Backend struct {
	*sealed.Engine
	sealer *rootSealer
	info   backend.Info
}

var (
	_ backend.Backend  = (*Backend)(nil)
	_ backend.Importer = (*Backend)(nil)
	_ backend.Sealer   = (*Backend)(nil)
	_ backend.Randomer = (*Backend)(nil)
	_ backend.Pinger   = (*Backend)(nil)
)

var errClosed = fault.New(fault.BackendUnavailable, "the backend is closed")

// Open makes the backend. The root may still be locked: then every use answers fault.Locked until it is open.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	if o.Name == "" || o.Derive == nil {
		return nil, errors.New("software: a name and a root are required")
	}
	s := &rootSealer{derive: o.Derive}
	e, err := sealed.New(s, sealed.Options{Name: o.Name, Custody: backend.CustodySoftware, Capacity: o.Capacity, TTL: o.TTL,
		Now: o.Now, Registerer: o.Registerer})
	if err != nil {
		return nil, err
	}
	return &Backend{Engine: e, sealer: s, info: backend.Info{
		Kind: "software", Name: o.Name, ID: ID,
		Custody:      []backend.Custody{backend.CustodySoftware},
		Capabilities: e.Capabilities(),
		Quirks: []string{
			"Keys are sealed by the software root: whoever holds the root and the store holds the keys.",
			"While a key is in use, and for the cache's time to live after it was opened, its material lies in this process's memory.",
			"Destroying a key erases cached material; copies of the store keep the sealed bytes until they are erased too.",
		},
	}}, nil
}

// Info describes the backend. The caller must not change what its slices hold.
func (b *Backend) Info() backend.Info { return b.info }

// Close ends the engine, then wipes the sealing key. A second Close does nothing.
func (b *Backend) Close() error {
	err := b.Engine.Close()
	b.sealer.close()
	return err
}

// Seal protects bytes under the sealing key. binding is authenticated, not stored.
func (b *Backend) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	return b.sealer.Seal(ctx, plaintext, callerBinding(binding))
}

// Open opens what Seal made with the same binding; everything else is fault.KeyMaterial.
func (b *Backend) Open(ctx context.Context, blob, binding []byte) (secret.Bytes, error) {
	return b.sealer.Open(ctx, blob, callerBinding(binding))
}

// Random fills p from the operating system's generator.
func (b *Backend) Random(ctx context.Context, p []byte) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if b.sealer.closed.Load() {
		return errClosed
	}
	rand.Read(p) // never fails (crypto/rand, since Go 1.24)
	return nil
}

func ended(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", context.Cause(ctx))
}

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
		return err
	})
	return out, err
}
