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
	"io"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Label is what the sealing key is derived under.
const Label = "keywright/v1/software-sealing"

// DefaultID is the device identity in key records: there is one software root in a deployment, so there is one software
// backend, under whatever names it is opened.
const DefaultID = "software"

// keySize is the size of the sealing key in bytes.
const keySize = 32

// Options are the choices of the backend. Name and Derive are required.
type Options struct {
	// Name is the configured name, for Info and the metrics.
	Name string
	// ID is the device identity; "" is DefaultID. It is for programs that open more than one root.
	ID string
	// Derive gives 32 bytes for a label, the same ones each time, out of the root; the backend wipes them. It answers
	// fault.Locked while the root is not open. It is asked once, at the first use after that. Of a root that can be replaced, DeriveAt and Generation
	// are given instead.
	Derive func(label string) (secret.Bytes, error)
	// DeriveAt is Derive for the root of a generation; fault.KeyMaterial when that one is not kept any more. Generation gives the newest one, from 1, which is what
	// new material is sealed under.
	DeriveAt   func(label string, generation uint32) (secret.Bytes, error)
	Generation func() (uint32, error)
	// Capacity, Bytes, Held, TTL and Now are those of sealed.Options.
	Capacity int
	Bytes    int64
	Held     *atomic.Int64
	TTL      time.Duration
	Now      func() time.Time
	// Rand is what key material is drawn from (see sealed.Options); nil is the operating system's generator.
	Rand io.Reader
	// Registerer takes the cache's metrics; nil for none.
	Registerer prometheus.Registerer
}

// Backend is the software backend. It implements backend.Backend, Importer, Sealer, Resealer, Randomer and Pinger.
type Backend struct {
	*sealed.Engine
	sealer *rootSealer
	info   backend.Info
}

var (
	_ backend.Backend  = (*Backend)(nil)
	_ backend.Importer = (*Backend)(nil)
	_ backend.Revealer = (*Backend)(nil)
	_ backend.Sealer   = (*Backend)(nil)
	_ backend.Resealer = (*Backend)(nil)
	_ backend.Randomer = (*Backend)(nil)
	_ backend.Pinger   = (*Backend)(nil)
)

var errClosed = fault.New(fault.BackendUnavailable, "the backend is closed")

// Open makes the backend. The root may still be locked: then every use answers fault.Locked until it is open.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	if o.Name == "" || (o.Derive == nil) == (o.DeriveAt == nil) || (o.DeriveAt == nil) != (o.Generation == nil) {
		return nil, errors.New("software: a name and a root are required")
	}
	if o.DeriveAt == nil {
		o.DeriveAt = func(label string, _ uint32) (secret.Bytes, error) { return o.Derive(label) }
		o.Generation = func() (uint32, error) { return 1, nil }
	}
	if o.ID == "" {
		o.ID = DefaultID
	}
	s := &rootSealer{derive: o.DeriveAt, generation: o.Generation}
	e, err := sealed.New(s, sealed.Options{Name: o.Name, Custody: backend.CustodySoftware, Capacity: o.Capacity, Bytes: o.Bytes, Held: o.Held, TTL: o.TTL,
		Now: o.Now, Rand: o.Rand, Registerer: o.Registerer})
	if err != nil {
		return nil, err
	}
	return &Backend{Engine: e, sealer: s, info: backend.Info{
		Kind: "software", Name: o.Name, ID: o.ID,
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
