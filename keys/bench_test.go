package keys_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

// silent records nothing: the benchmarks measure the service without its log.
type silent struct{ audit.Recorder }

func (silent) Record(context.Context, *audit.Entry, ...audit.Change) (uint64, error) { return 0, nil }

func benchEnv(b *testing.B) *env {
	e := newEnv(b, nil)
	e.create("k", backend.AES256GCM)
	e.mute(b)
	return e
}

// mute puts a Service without a log in the place of the one that made the keys.
func (e *env) mute(b *testing.B) {
	s, err := keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: silent{}, Backends: []backend.Backend{e.soft}})
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Service.Close(); err != nil {
		b.Fatal(err)
	}
	e.Service = s
	b.ReportAllocs()
}

func BenchmarkEncrypt(b *testing.B) {
	e, ctx := benchEnv(b), b.Context()
	items := []keys.EncryptItem{{Plaintext: make([]byte, 32)}}
	for b.Loop() {
		if _, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, items, true); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecrypt(b *testing.B) {
	e, ctx := benchEnv(b), b.Context()
	r, err := e.encrypt(keys.Target{Key: "k"}, "thirty-two bytes, more or less..")
	if err != nil {
		b.Fatal(err)
	}
	items := []keys.CiphertextItem{{Ciphertext: r.Bytes}}
	for b.Loop() {
		if _, err := e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, items, true); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncryptBatch100(b *testing.B) {
	e, ctx := benchEnv(b), b.Context()
	items := make([]keys.EncryptItem, 100)
	for i := range items {
		items[i].Plaintext = make([]byte, 32)
	}
	for b.Loop() {
		if _, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, items, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/item")
}

// BenchmarkWorkingSet encrypts under a thousand keys in turn: every key but the last few stays ready.
func BenchmarkWorkingSet(b *testing.B) {
	e, ctx := newEnv(b, nil), b.Context()
	var targets []keys.Target
	for i := range 1000 {
		k := e.create(fmt.Sprintf("w%d", i), backend.AES256GCM)
		targets = append(targets, keys.Target{Key: k.ID.String()})
	}
	e.mute(b)
	items := []keys.EncryptItem{{Plaintext: make([]byte, 32)}}
	i := 0
	for b.Loop() {
		if _, err := e.Encrypt(ctx, e.c, targets[i%len(targets)], keys.EncryptOpts{}, items, true); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkCreate makes keys over the real store and log, sixteen at once.
func BenchmarkCreate(b *testing.B) {
	e := newEnv(b, nil)
	b.SetParallelism(8)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.Create(context.Background(), e.c, keys.CreateRequest{Name: fmt.Sprint("k", n.Add(1)), Algorithm: backend.AES256GCM}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

// BenchmarkEncryptRecorded encrypts over the real log, sixteen at once.
func BenchmarkEncryptRecorded(b *testing.B) {
	e := newEnv(b, nil)
	e.create("k", backend.AES256GCM)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.encrypt(keys.Target{Key: "k"}, "thirty-two bytes, more or less.."); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
