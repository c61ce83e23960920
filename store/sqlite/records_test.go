package sqlite_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// TestVersionRecords reads all versions, over several pages, beside the store that is open.
func TestVersionRecords(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	want := map[uuid.UUID]*keys.Version{}
	const n = 2500
	for i := 0; i < n; {
		var batch []*audit.Item
		for range 100 {
			k, v := storetest.NewKey(uuid.New(), fmt.Sprint("key", i))
			want[k.ID] = v
			batch = append(batch, storetest.Item(s.InsertKey(k, v)))
			i++
		}
		commit(t, s, batch...)
	}
	seen := 0
	err := sqlite.VersionRecords(t.Context(), path, func(r sqlite.VersionRecord) error {
		v := want[r.Key]
		if v == nil || r.Version != v.Version || r.State != string(v.State) || r.Backend != v.BackendID || !bytes.Equal(r.Material, v.Blob) {
			return fmt.Errorf("%+v is not what was written", r)
		}
		seen++
		return nil
	})
	if err != nil || seen != n {
		t.Fatalf("%d of %d versions: %v", seen, n, err)
	}
	stop := errors.New("enough")
	if err := sqlite.VersionRecords(t.Context(), path, func(sqlite.VersionRecord) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error: %v", err)
	}
	// And it has taken nothing from the store.
	k, v := storetest.NewKey(uuid.New(), "after")
	commit(t, s, storetest.Item(s.InsertKey(k, v)))
}

func TestVersionRecordsRefuses(t *testing.T) {
	dir := tempDir(t)
	none := func(sqlite.VersionRecord) error { t.Error("there is no record"); return nil }
	missing := filepath.Join(dir, "missing.db")
	if err := sqlite.VersionRecords(t.Context(), missing, none); !fault.Has(err, fault.StoreUnavailable) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no database "), 200), 0o600); err != nil {
		t.Fatal(err)
	}
	err := sqlite.VersionRecords(t.Context(), text, none)
	wantFault(t, "a text", err, fault.StoreCorrupted, "database")
	other := filepath.Join(dir, "other.db")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "an empty file", sqlite.VersionRecords(t.Context(), other, none), fault.StoreCorrupted, "not a Keywright store")
}
