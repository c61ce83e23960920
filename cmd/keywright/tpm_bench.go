package main

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keyenc"
)

type tpmBenchCmd struct {
	tpmDevice
	Duration  time.Duration `default:"2s" help:"How long each operation is measured."`
	Algorithm []string      `short:"a" placeholder:"NAME" help:"Only these algorithms. Repeatable."`
}

// Run measures what the backend does with each algorithm in device custody. A TPM does one thing at a time, and so does this.
func (k tpmBenchCmd) Run(ctx context.Context, a *app) (err error) {
	if k.Duration <= 0 {
		return usage("--duration is positive")
	}
	for _, name := range k.Algorithm {
		if _, ok := backend.Lookup(backend.Algorithm(name)); !ok {
			return usage("--algorithm names none that is known")
		}
	}
	_, b, err := k.backend(ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	var rows []benchRow
	for _, c := range b.Info().Capabilities {
		if c.Custody != backend.CustodyDevice || len(k.Algorithm) > 0 && !slices.Contains(k.Algorithm, string(c.Algorithm)) {
			continue
		}
		info, _ := backend.Lookup(c.Algorithm)
		for _, p := range info.Purposes {
			more, err := k.key(ctx, b, info, p)
			if err != nil {
				return tpmError(fmt.Errorf("%s: %w", c.Algorithm, err))
			}
			rows = append(rows, more...)
		}
	}
	return a.show(map[string]any{"items": rows}, func() error {
		seq := func(yield func(benchRow, error) bool) {
			for _, r := range rows {
				if !yield(r, nil) {
					return
				}
			}
		}
		return list(a, seq, []string{"ALGORITHM", "OPERATION", "PER SECOND", "MEAN MS", "WORST MS"}, func(r benchRow) []string {
			return []string{string(r.Algorithm), r.Operation, strconv.FormatFloat(r.PerSecond, 'f', 1, 64), strconv.FormatFloat(r.P50, 'f', 3, 64),
				strconv.FormatFloat(r.P99, 'f', 3, 64)}
		})
	})
}

// key measures making a key of a purpose, and what it does.
func (k tpmBenchCmd) key(ctx context.Context, b backend.Backend, info backend.AlgorithmInfo, p backend.Purpose) (rows []benchRow, err error) {
	var ref backend.Ref
	spec := backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Algorithm: info.Name, Purpose: p}
	row, err := k.measure(ctx, func() error {
		spec.Version++
		ref, err = b.Generate(ctx, spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	row.Operation = "generate"
	key, err := b.Load(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close(), b.Destroy(ctx, ref)) }()
	rows = append(rows, row)
	calls, err := tpmCalls(ctx, key, info, ref.Public)
	if err != nil {
		return nil, err
	}
	for _, c := range calls {
		if err := c.call(); err != nil { // the key is loaded now
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		if row, err = k.measure(ctx, c.call); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		row.Operation = c.name
		rows = append(rows, row)
	}
	for i := range rows {
		rows[i].Algorithm = info.Name
	}
	return rows, nil
}

// tpmCall is an operation to measure.
type tpmCall struct {
	name string
	call func() error
}

// tpmCalls gives what a key can do.
func tpmCalls(ctx context.Context, key backend.Key, info backend.AlgorithmInfo, public []byte) (out []tpmCall, err error) {
	text := make([]byte, 32)
	add := func(name string, call func() error) { out = append(out, tpmCall{name, call}) }
	if s, ok := key.(backend.Signer); ok {
		h := info.Hash
		if info.Family == backend.FamilyRSA {
			h = crypto.SHA256
		}
		o := backend.SignOpts{Hash: h}
		if info.Family == backend.FamilyRSA {
			o.Padding = backend.PaddingPSS
		}
		digest := make([]byte, h.Size())
		add("sign", func() error { _, err := s.Sign(ctx, digest, o); return err })
	}
	if m, ok := key.(backend.MACer); ok {
		add("mac", func() error { _, err := m.MAC(ctx, text); return err })
	}
	if e, ok := key.(backend.AEAD); ok {
		sealed, err := e.Seal(ctx, nil, text, nil)
		if err != nil {
			return nil, err
		}
		add("encrypt", func() error { _, err := e.Seal(ctx, nil, text, nil); return err })
		add("decrypt", func() error { _, err := e.Open(ctx, nil, sealed, nil); return err })
	}
	if g, ok := key.(backend.Agreer); ok {
		peer, err := freshPeer(key.Public(), public)
		if err != nil {
			return nil, err
		}
		add("derive", func() error {
			z, err := g.Agree(ctx, peer)
			z.Wipe()
			return err
		})
	}
	if d, ok := key.(backend.Decrypter); ok {
		to, ok := key.Public().(*rsa.PublicKey)
		if !ok {
			return nil, errors.New("the TPM gives another kind of public key")
		}
		c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, to, text, nil)
		if err != nil {
			return nil, err
		}
		add("decrypt", func() error {
			p, err := d.Decrypt(ctx, c, backend.OAEPOpts{Hash: crypto.SHA256})
			p.Wipe()
			return err
		})
	}
	return out, nil
}

// freshPeer gives a public key on the same curve, or the key's own.
func freshPeer(own crypto.PublicKey, public []byte) ([]byte, error) {
	if e, ok := own.(*ecdsa.PublicKey); ok {
		var err error
		if own, err = e.ECDH(); err != nil {
			return nil, err
		}
	}
	k, ok := own.(*ecdh.PublicKey)
	if !ok {
		return public, nil
	}
	peer, err := k.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return keyenc.MarshalSPKI(peer.PublicKey())
}

// measure makes calls one after the other until the time is over, at least one: to make an RSA key may take longer.
func (k tpmBenchCmd) measure(ctx context.Context, call func() error) (benchRow, error) {
	var n int
	var worst time.Duration
	start := time.Now()
	for n == 0 || time.Since(start) < k.Duration {
		began := time.Now()
		if err := call(); err != nil {
			return benchRow{}, err
		}
		worst = max(worst, time.Since(began))
		n++
		if err := ctx.Err(); err != nil {
			return benchRow{}, err
		}
	}
	took := time.Since(start).Seconds()
	return benchRow{PerSecond: float64(n) / took, P50: took / float64(n) * 1000, P99: float64(worst) / float64(time.Millisecond)}, nil
}
