// Package tpm is the backend of a TPM 2.0: keys as objects of the TPM that are kept outside, encrypted by it, under one storage parent; and a
// sealer, whose texts open on this TPM alone and, where that is wanted, only in a boot state that was approved.
//
// It trusts the TPM whose parent it was told: the parent's Name is pinned, every session is salted to that key, and so whoever sits on the
// bus between the two sees neither key material nor auth values nor sealed secrets. It does not trust the store: a Ref that was swapped,
// edited, damaged or copied from another TPM does not load. It does not trust others who may use the same TPM: without the root nobody
// can use a key, because its auth value is derived from there. The sealer alone works without the root, for the root's own slots.
package tpm

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

// Options are the choices of a backend. Name, Device and Derive are required.
type Options struct {
	// Name is the configured name, for Info, logs and metrics.
	Name string
	// Device is open. Once Open has succeeded the backend closes it.
	Device *device.Device
	// Derive gives 32 bytes for a label, the same ones each time, out of the root; the backend wipes them. It answers fault.Locked while
	// the root is not open, and so do the keys. It is asked once, at the first use after that.
	Derive func(label string) (secret.Bytes, error)
	// AllowSealed offers the algorithms that the TPM does not have in sealed custody. Sealed custody that is asked for by name is
	// given for the others with or without it.
	AllowSealed bool
	// Policy protects what Seal makes by the state of PCRs, as an authority approved it; nil: whoever can use the TPM and has the sealed text can
	// open it. Texts sealed before with another policy, or with none, open as they were sealed. It is not for keys.
	Policy *PCRPolicy
	// Approvals gives the approvals that are known now; it is asked at every opening of a text with a policy. nil: none.
	Approvals func() []Approval
	// Capacity, Bytes, Held, TTL and Rand are those of the engine for sealed custody (sealed.Options).
	Capacity   int
	Bytes      int64
	Held       *atomic.Int64
	TTL        time.Duration
	Rand       io.Reader
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // takes the engine's metrics; nil: none. The device has its own.
	Now        func() time.Time      // nil: time.Now
}

// The answers that are the same everywhere.
var (
	errClosed       = fault.New(fault.BackendUnavailable, "the backend is closed")
	errHandleClosed = fault.New(fault.BackendUnavailable, "the key handle is closed")
	errUnreadable   = fault.New(fault.KeyMaterial, "the stored key material does not open, or does not fit its record")
	errDecrypt      = fault.New(fault.DecryptionFailed, "the ciphertext does not open")
	errImport       = fault.New(fault.BadImport, "the material does not open, or is not a key of the algorithm")
	errUnsupported  = fault.New(fault.Unsupported, "the backend cannot do this with this algorithm")
	errCustody      = fault.New(fault.Unsupported, "the backend does not give this custody")
	errExport       = fault.New(fault.Unsupported, "keys in device custody are not exported")
	errHash         = fault.New(fault.BadField, "the hash is not one for this operation")
	errPadding      = fault.New(fault.BadField, "the padding is not one for this algorithm")
	errDigest       = fault.New(fault.BadSize, "the digest is not as long as its hash")
	errOtherKey     = fault.New(fault.BackendUnavailable, "the TPM made another key than it was asked for")
)

// unreadable gives the one answer for every Ref that is not as it should be; the cause is for the log.
func unreadable(cause error) error {
	return fault.Wrap(fault.KeyMaterial, errUnreadable.Message, cause)
}

// Backend is an open TPM. It implements backend.Backend, Importer, Sealer, Randomer and Pinger. It is safe for concurrent use; the TPM does one thing at
// a time.
type Backend struct {
	o        Options
	dev      *device.Device
	log      *slog.Logger
	info     backend.Info
	parent   []byte   // Name
	quirks   []string // that the probe found
	can      map[backend.Algorithm]backend.Capability
	gate     sealed.Gate
	sealer   *Sealer
	engine   *sealed.Engine
	mu       sync.RWMutex // guards secrets; read-held while they are used, so that they are not wiped from under a call
	secrets  *secrets     // nil until first use, and after Close
	shut     bool         // guarded by mu
	ek       atomic.Pointer[endorsementKey]
	closing  sync.Once
	closeErr error
}

var (
	_ backend.Backend  = (*Backend)(nil)
	_ backend.Importer = (*Backend)(nil)
	_ backend.Sealer   = (*Backend)(nil)
	_ backend.Randomer = (*Backend)(nil)
	_ backend.Pinger   = (*Backend)(nil)
	_ backend.Queuer   = (*Backend)(nil)
	_ backend.Attester = (*signerKey)(nil)
)

// Open makes a backend of an open device. It asks the TPM for what it can do, with known keys and answers. When it fails the device stays open and the caller's.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	if o.Name == "" || o.Device == nil || o.Derive == nil {
		return nil, errors.New("tpm: a name, a device and a root are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	sealer, err := NewSealer(o.Device, SealerOptions{Policy: o.Policy, Approvals: o.Approvals})
	if err != nil {
		return nil, err
	}
	b := &Backend{o: o, dev: o.Device, log: o.Logger.With("backend", o.Name), gate: sealed.NewGate(), sealer: sealer, parent: sealer.parent}
	if err := b.probe(ctx); err != nil {
		return nil, err
	}
	engine, err := sealed.New(engineSealer{b}, sealed.Options{Name: o.Name, Custody: backend.CustodySealed, Capacity: o.Capacity,
		Bytes: o.Bytes, Held: o.Held, TTL: o.TTL, Rand: o.Rand, Now: o.Now, Registerer: o.Registerer})
	if err != nil {
		return nil, err
	}
	b.engine = engine
	b.describe()
	return b, nil
}

// Queued is how many operations wait for the TPM.
func (b *Backend) Queued() int { return b.dev.Queued() }

// Info describes the backend. The caller must not change what its slices hold.
func (b *Backend) Info() backend.Info { return b.info }

// Close waits for calls under way, ends the engine, which wipes opened keys, wipes what came from the root, and closes the device last. A second
// Close does nothing and gives the same error.
func (b *Backend) Close() error {
	b.gate.Close()
	b.closing.Do(func() {
		b.closeErr = b.engine.Close()
		b.mu.Lock()
		b.shut = true
		if b.secrets != nil {
			b.secrets.wipe()
			b.secrets = nil
		}
		b.mu.Unlock()
		b.closeErr = errors.Join(b.closeErr, b.dev.Close())
	})
	return b.closeErr
}

// enter begins a call; gate.Leave ends it.
func (b *Backend) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if !b.gate.Enter() {
		return errClosed
	}
	return nil
}

func ended(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the operation finished", context.Cause(ctx))
}

// withSecrets calls f with the keys that the root gives.
func (b *Backend) withSecrets(f func(*secrets) error) error {
	b.mu.RLock()
	for b.secrets == nil {
		shut := b.shut
		b.mu.RUnlock()
		if shut {
			return errClosed
		}
		if err := b.derive(); err != nil {
			return err
		}
		b.mu.RLock()
	}
	defer b.mu.RUnlock()
	return f(b.secrets)
}

func (b *Backend) derive() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.secrets != nil || b.shut {
		return nil
	}
	prk, err := b.o.Derive(Label)
	if err != nil {
		return err
	}
	defer prk.Wipe()
	b.secrets, err = newSecrets(prk)
	return err
}

// auth derives the auth value of a key version's objects. The caller wipes it.
func (b *Backend) auth(s *backend.Spec, algorithm uint16) (out secret.Bytes, err error) {
	err = b.withSecrets(func(k *secrets) error {
		out, err = k.authOf(s, algorithm)
		return err
	})
	return out, err
}

// identity is what key records keep of the device: the digest in its parent's Name.
func identity(parent []byte) string { return "tpm-" + hex.EncodeToString(parent[2:18]) }

// Random fills p from the TPM's generator, encrypted on the way. It gives some dozen bytes with each command: it is for keys, not for megabytes.
func (b *Backend) Random(ctx context.Context, p []byte) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	defer b.gate.Leave()
	const turn = 2048 // bytes with one turn at the TPM, so that others get theirs
	for rest := p; len(rest) > 0; {
		n := min(len(rest), turn)
		err := b.dev.Do(ctx, "random", func(tx *device.Tx) error { return random(tx, rest[:n]) })
		if err != nil {
			clear(p)
			return refused(err)
		}
		rest = rest[n:]
	}
	return nil
}

func random(tx *device.Tx, p []byte) error {
	for len(p) > 0 {
		rsp, err := tpm2.GetRandom{BytesRequested: uint16(min(len(p), 64))}.Execute(tx, tx.Salted(nil, device.Out)) //nolint:gosec // at most 64
		if err != nil {
			return err
		}
		n := copy(p, rsp.RandomBytes.Buffer)
		clear(rsp.RandomBytes.Buffer)
		if n == 0 {
			return fault.New(fault.BackendUnavailable, "the TPM gives no random bytes")
		}
		p = p[n:]
	}
	return nil
}

// Ping has the TPM make random bytes in a session salted to the storage parent: the answer is authentic, or an error.
func (b *Backend) Ping(ctx context.Context) error {
	var p [16]byte
	return b.Random(ctx, p[:])
}
