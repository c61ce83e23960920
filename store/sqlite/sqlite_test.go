package sqlite_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
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

// TestDeployment: a store keeps the identity that it was made with, and no two have the same.
func TestDeployment(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	id := s.Deployment()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path, sqlite.Options{})
	if again.Deployment() != id || id == uuid.Nil {
		t.Errorf("%v became %v", id, again.Deployment())
	}
	if other := open(t, filepath.Join(tempDir(t), "store.db"), sqlite.Options{}); other.Deployment() == id {
		t.Error("two stores have one identity")
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, "UPDATE deployment SET uuid = x'00'")
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	wantFault(t, "a cut identity", err, fault.StoreCorrupted, "identity")
}

// TestOldRecordsGoWithNewOnes: idempotency records that nobody prunes do not gather.
func TestOldRecordsGoWithNewOnes(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	at := time.Now()
	for i := range 16 {
		r := &idempotency.Record{Tenant: uuid.New(), Key: "key", Resource: uuid.New(), CreatedAt: at}
		if i >= 10 {
			r.CreatedAt = at.Add(2 * idempotency.TTL)
		}
		commit(t, s, storetest.Item(s.InsertIdempotency(r)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var left int
	if err := db.QueryRow("SELECT COUNT(*) FROM idempotency").Scan(&left); err != nil || left != 6 {
		t.Errorf("%d records are left, %v", left, err)
	}
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
