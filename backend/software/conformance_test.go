package software_test

import (
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/secret"
)

// device gives a function that opens one software root again and again, and the generation of that root.
func device(t testing.TB, id string, capacity int) (open func(testing.TB, string) backend.Backend, newest *atomic.Uint32) {
	t.Helper()
	root := make([]byte, 32)
	if _, err := rand.Read(root); err != nil {
		t.Fatal(err)
	}
	newest = new(atomic.Uint32)
	newest.Store(1)
	return func(t testing.TB, name string) backend.Backend {
		t.Helper()
		b, err := software.Open(t.Context(), software.Options{
			Name: name, ID: id, Capacity: capacity,
			Generation: func() (uint32, error) { return newest.Load(), nil },
			DeriveAt: func(_ string, generation uint32) (secret.Bytes, error) {
				key := sha256.Sum256(append(slices.Clone(root), byte(generation)))
				return key[:], nil
			},
		})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		return b
	}, newest
}

func harness(t testing.TB, capacity int) backendtest.Harness {
	t.Helper()
	var all []backend.Algorithm
	for _, a := range backend.Algorithms() {
		all = append(all, a.Name)
	}
	open, newest := device(t, "", capacity)
	foreign, _ := device(t, "another-root", capacity)
	return backendtest.Harness{
		Open: open, Foreign: foreign, Replace: func(testing.TB, backend.Backend) { newest.Add(1) },
		Requires: backendtest.Requirements{Algorithms: all, Import: true, Export: true, Sealer: true, Randomer: true, Pinger: true},
	}
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, harness(t, 0))
}

// TestConformanceUncached runs what a cache could hide: each Load opens its material anew.
func TestConformanceUncached(t *testing.T) {
	h := harness(t, -1)
	h.Only = []string{"info", "handles", "aead", "refs", "destroy", "contexts", "close", "close-in-use", "reseal"}
	backendtest.Run(t, h)
}

func BenchmarkBackend(b *testing.B) {
	open, _ := device(b, "", 0)
	be := open(b, "bench")
	defer func() {
		if err := be.Close(); err != nil {
			b.Error(err)
		}
	}()
	backendtest.Bench(b, be)
}
