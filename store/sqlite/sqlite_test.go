package sqlite_test

import (
	"os"
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
		path := filepath.Join(tempDir(t), "store.db")
		again := func(t *testing.T) storetest.Store { return open(t, path, sqlite.Options{}) }
		return again(t), again
	})
}

// memoryDir is where Linux keeps files in memory.
const memoryDir = "/dev/shm"

// tempDir is t.TempDir in memory where there is such a place: these tests sync thousands of times, and ask nothing of the
// disk. (The benchmarks do.)
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(memoryDir, "store-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
