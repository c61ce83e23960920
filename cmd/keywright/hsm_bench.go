package main

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/verify"
)

type hsmBenchCmd struct {
	hsmToken
	Duration  time.Duration `default:"2s" help:"How long each operation is measured."`
	Threads   int           `default:"16" help:"Calls at a time."`
	Processes int           `placeholder:"N" help:"Processes that load the module (default: the URI's x-processes, or 1)."`
	Algorithm []string      `short:"a" placeholder:"NAME" help:"Only these algorithms. Repeatable."`
}

// benchRow is one operation of one algorithm.
type benchRow struct {
	Algorithm backend.Algorithm `json:"algorithm"`
	Operation string            `json:"operation"`
	PerSecond float64           `json:"per_second"`
	P50       float64           `json:"p50_ms"`
	P99       float64           `json:"p99_ms"`
	Errors    int64             `json:"errors"`
}

func (k hsmBenchCmd) Run(ctx context.Context, a *app) (err error) {
	if k.Threads < 1 || k.Threads > 1024 || k.Duration <= 0 || k.Processes < 0 || k.Processes > 64 {
		return usage("--threads is 1 to 1024, --duration positive, --processes 1 to 64")
	}
	for _, name := range k.Algorithm {
		if _, ok := backend.Lookup(backend.Algorithm(name)); !ok {
			return usage("--algorithm names none that is known")
		}
	}
	t, _, err := k.open(ctx, a, func(c *token.Config, o *remote.Options) {
		c.AcceptLeaks = true // nothing is kept
		if k.Processes > 0 {
			o.Processes = k.Processes
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	var rows []benchRow
	for _, c := range t.Describe().Capabilities {
		if len(k.Algorithm) > 0 && !slices.Contains(k.Algorithm, string(c.Algorithm)) {
			continue
		}
		more, err := k.algorithm(ctx, t, c)
		if err != nil {
			return deviceError(fmt.Errorf("%s: %w", c.Algorithm, err))
		}
		rows = append(rows, more...)
	}
	return a.show(map[string]any{"threads": k.Threads, "items": rows}, func() error {
		seq := func(yield func(benchRow, error) bool) {
			for _, r := range rows {
				if !yield(r, nil) {
					return
				}
			}
		}
		return list(a, seq, []string{"ALGORITHM", "OPERATION", "PER SECOND", "P50 MS", "P99 MS", "ERRORS"}, func(r benchRow) []string {
			return []string{string(r.Algorithm), r.Operation, strconv.FormatFloat(r.PerSecond, 'f', 0, 64), strconv.FormatFloat(r.P50, 'f', 3, 64),
				strconv.FormatFloat(r.P99, 'f', 3, 64), strconv.FormatInt(r.Errors, 10)}
		})
	})
}

// algorithm measures what an algorithm can do, with a key on the token that is gone afterwards.
func (k hsmBenchCmd) algorithm(ctx context.Context, t token.Token, c backend.Capability) (rows []benchRow, err error) {
	info, _ := backend.Lookup(c.Algorithm)
	for _, p := range info.Purposes {
		calls := benchCalls(c, p)
		if len(calls) == 0 {
			continue
		}
		var id token.ID
		rand.Read(id[:]) // never fails (crypto/rand)
		o, err := t.Generate(ctx, id, c.Algorithm, p, false)
		if err != nil {
			return rows, err
		}
		more, err := k.key(ctx, t, o, calls)
		rows = append(rows, more...)
		late, cancel := cleanup(ctx)
		err = errors.Join(err, t.Destroy(late, id))
		cancel()
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// benchCall is an operation to measure. prepare, if there is one, makes the input out of the key.
type benchCall struct {
	name    string
	call    token.Call
	prepare func(ctx context.Context, t token.Token, c *token.Call, o token.Object) error
}

// benchCalls gives the operations of an algorithm for a purpose that the token has.
func benchCalls(c backend.Capability, p backend.Purpose) (out []benchCall) {
	can := func(op backend.Operation) bool { return slices.Contains(c.Operations, op) }
	digest := sha256.Sum256([]byte("keywright hsm bench"))
	info, _ := backend.Lookup(c.Algorithm)
	text := make([]byte, 32)
	sealed := func(op token.Operation) func(context.Context, token.Token, *token.Call, token.Object) error {
		return func(ctx context.Context, t token.Token, c *token.Call, o token.Object) (err error) {
			c.Input, err = t.Use(ctx, token.Call{Op: op, ID: o.ID, Algorithm: o.Algorithm, Input: text})
			return err
		}
	}
	switch info.Family {
	case backend.FamilyAEAD:
		out = []benchCall{{name: "encrypt", call: token.Call{Op: token.Encrypt, Input: text}},
			{name: "decrypt", call: token.Call{Op: token.Decrypt}, prepare: sealed(token.Encrypt)}}
	case backend.FamilyKWP:
		out = []benchCall{{name: "wrap", call: token.Call{Op: token.Wrap, Input: text}},
			{name: "unwrap", call: token.Call{Op: token.Unwrap}, prepare: sealed(token.Wrap)}}
	case backend.FamilyHMAC:
		out = []benchCall{{name: "mac", call: token.Call{Op: token.MAC, Input: text}}}
	case backend.FamilyECDSA:
		hashed := make([]byte, info.Hash.Size())
		copy(hashed, digest[:])
		out = []benchCall{{name: "sign", call: token.Call{Op: token.Sign, Input: hashed}}}
	case backend.FamilyEdDSA, backend.FamilyMLDSA, backend.FamilySLHDSA:
		out = []benchCall{{name: "sign", call: token.Call{Op: token.Sign, Input: text}}}
	case backend.FamilyECDH:
		out = []benchCall{{name: "derive", call: token.Call{Op: token.Agree}, prepare: benchPeer}}
	case backend.FamilyKEM:
		out = []benchCall{{name: "decapsulate", call: token.Call{Op: token.Decapsulate}, prepare: benchEncapsulate}}
	case backend.FamilyRSA:
		if p == backend.PurposeSigning && can(backend.OpSign) {
			out = []benchCall{{name: "sign", call: token.Call{Op: token.Sign, Input: digest[:], Hash: crypto.SHA256, Padding: backend.PaddingPSS}}}
		}
		if p == backend.PurposeEncryption && can(backend.OpDecrypt) {
			out = []benchCall{{name: "decrypt", call: token.Call{Op: token.Decrypt, Hash: crypto.SHA256}, prepare: benchOAEP}}
		}
	}
	return out
}

// benchPeer takes the key's own public half for the other side's.
func benchPeer(_ context.Context, _ token.Token, c *token.Call, o token.Object) error {
	c.Input = o.Public
	if k, err := x509.ParsePKIXPublicKey(o.Public); err == nil { // of a curve that the library knows: a fresh peer
		if public, ok := k.(*ecdh.PublicKey); ok {
			peer, err := public.Curve().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			c.Input, err = x509.MarshalPKIXPublicKey(peer.PublicKey())
			return err
		}
	}
	return nil
}

func benchEncapsulate(_ context.Context, _ token.Token, c *token.Call, o token.Object) error {
	public, err := keyenc.ParseSPKI(o.Public)
	if err != nil {
		return err
	}
	ciphertext, shared, err := verify.Encapsulate(public, o.Algorithm)
	clear(shared)
	c.Input = ciphertext
	return err
}

func benchOAEP(_ context.Context, _ token.Token, c *token.Call, o token.Object) error {
	k, err := x509.ParsePKIXPublicKey(o.Public)
	if err != nil {
		return err
	}
	public, ok := k.(*rsa.PublicKey)
	if !ok {
		return errors.New("the token gives another kind of public key")
	}
	c.Input, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public, make([]byte, 32), nil)
	return err
}

func (k hsmBenchCmd) key(ctx context.Context, t token.Token, o token.Object, calls []benchCall) ([]benchRow, error) {
	var rows []benchRow
	for _, b := range calls {
		b.call.ID, b.call.Algorithm = o.ID, o.Algorithm
		if b.prepare != nil {
			if err := b.prepare(ctx, t, &b.call, o); err != nil {
				return rows, err
			}
		}
		if _, err := t.Use(ctx, b.call); err != nil { // and everything is loaded
			return rows, fmt.Errorf("%s: %w", b.name, err)
		}
		r, err := k.measure(ctx, t, b.call)
		if err != nil {
			return rows, err
		}
		r.Algorithm, r.Operation = o.Algorithm, b.name
		rows = append(rows, r)
	}
	return rows, nil
}

// measure makes calls on all threads until the time is over.
func (k hsmBenchCmd) measure(ctx context.Context, t token.Token, c token.Call) (benchRow, error) {
	const micro = int64(time.Microsecond)
	all := hdrhistogram.New(1, int64(time.Minute)/micro, 3)
	var failed int64
	var mu sync.Mutex // guards all and failed
	var wg sync.WaitGroup
	start := time.Now()
	for range k.Threads {
		wg.Go(func() {
			h := hdrhistogram.New(1, int64(time.Minute)/micro, 3)
			bad := int64(0)
			for ctx.Err() == nil && time.Since(start) < k.Duration {
				began := time.Now()
				if _, err := t.Use(ctx, c); err != nil {
					bad++
					continue
				}
				_ = h.RecordValue(max(int64(time.Since(began))/micro, 1)) // a call of more than a minute is past its deadline
			}
			mu.Lock()
			defer mu.Unlock()
			all.Merge(h)
			failed += bad
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return benchRow{}, err
	}
	ms := func(q float64) float64 { return float64(all.ValueAtQuantile(q)) / 1000 }
	return benchRow{PerSecond: float64(all.TotalCount()) / time.Since(start).Seconds(), P50: ms(50), P99: ms(99), Errors: failed}, nil
}
