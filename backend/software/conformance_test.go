package software_test

import (
	"crypto/rand"
	"slices"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/secret"
)

// device gives a function that opens one software root again and again.
func device(t testing.TB, id string, capacity int) func(testing.TB, string) backend.Backend {
	t.Helper()
	root := make([]byte, 32)
	if _, err := rand.Read(root); err != nil {
		t.Fatal(err)
	}
	return func(t testing.TB, name string) backend.Backend {
		t.Helper()
		b, err := software.Open(t.Context(), software.Options{
			Name: name, ID: id, Capacity: capacity,
			Derive: func(string) (secret.Bytes, error) { return slices.Clone(root), nil },
		})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		return b
	}
}

func harness(t testing.TB, capacity int) backendtest.Harness {
	t.Helper()
	var all []backend.Algorithm
	for _, a := range backend.Algorithms() {
		all = append(all, a.Name)
	}
	return backendtest.Harness{
		Open: device(t, "", capacity), Foreign: device(t, "another-root", capacity),
		Requires: backendtest.Requirements{Algorithms: all, Import: true, Export: true, Sealer: true, Randomer: true, Pinger: true},
	}
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, harness(t, 0))
}

// TestConformanceUncached runs what a cache could hide: each Load opens its material anew.
func TestConformanceUncached(t *testing.T) {
	h := harness(t, -1)
	h.Only = []string{"info", "handles", "aead", "refs", "destroy", "contexts", "close", "close-in-use"}
	backendtest.Run(t, h)
}

func BenchmarkBackend(b *testing.B) {
	be := device(b, "", 0)(b, "bench")
	defer func() {
		if err := be.Close(); err != nil {
			b.Error(err)
		}
	}()
	backendtest.Bench(b, be)
}
