package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

func open(t testing.TB, path string, o sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (storetest.Store, func(*testing.T) storetest.Store) {
		path := filepath.Join(t.TempDir(), "store.db")
		again := func(t *testing.T) storetest.Store { return open(t, path, sqlite.Options{}) }
		return again(t), again
	})
}
