package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

func commit(t testing.TB, s *sqlite.Store, items ...*audit.Item) {
	t.Helper()
	if err := s.Commit(t.Context(), items, storetest.Extend); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	for _, it := range items {
		if it.Err != nil {
			t.Fatalf("change: %v", it.Err)
		}
	}
}

func wantFault(t *testing.T, what string, err error, code fault.Code, says string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code || !strings.Contains(f.Message, says) {
		t.Errorf("%s: got %v, want %s: …%s…", what, err, code, says)
	}
}

func TestSecondOpener(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	wantFault(t, "second opener", err, fault.StoreUnavailable, "in use by another process")
	commit(t, s, storetest.Item())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path, sqlite.Options{})
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	commit(t, s, storetest.Item())
	check := func() {
		t.Helper()
		for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
			info, err := os.Stat(path + suffix)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%q: %v, %v", suffix, info, err)
			}
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // as a careless restore leaves it
		t.Fatal(err)
	}
	commit(t, open(t, path, sqlite.Options{}), storetest.Item())
	check()
}

func TestStrangePaths(t *testing.T) {
	dir := filepath.Join(tempDir(t), "a?b#c%20 d&_query_only=1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "é?mode=memory.db")
	s := open(t, path, sqlite.Options{})
	commit(t, s, storetest.Item())
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("the file is %v, %v", info, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := tempDir(t)
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	other := filepath.Join(dir, "other.db")
	db, err := sql.Open("sqlite3", other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE songs (id INTEGER)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		code       fault.Code
		says       string
	}{
		{"no directory", filepath.Join(dir, "none", "store.db"), fault.StoreUnavailable, "directory of the store does not exist"},
		{"a directory", inner, fault.StoreUnavailable, "not a file"},
		{"text", file("text.db", "this is not a database, but longer than the header of one\n"), fault.StoreCorrupted, "not a database"},
		{"a short file", file("short.db", "SQLite"), fault.StoreCorrupted, "not a database"},
		{"a header and nothing", file("header.db", "SQLite format 3\x00"+strings.Repeat("x", 4096)), fault.StoreCorrupted, ""},
		{"another program's", other, fault.StoreCorrupted, "not a Keywright store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, readErr := os.ReadFile(c.path)
			_, err := sqlite.Open(t.Context(), c.path, sqlite.Options{})
			wantFault(t, c.name, err, c.code, c.says)
			if readErr == nil {
				after, err := os.ReadFile(c.path)
				if err != nil || string(after) != string(before) {
					t.Errorf("the refused file was changed (%v)", err)
				}
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = sqlite.Open(ended, filepath.Join(dir, "new.db"), sqlite.Options{})
	wantFault(t, "ended context", err, fault.Timeout, "")
}

// edit changes a closed store behind its back.
func edit(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenChecksTheLog: whatever is changed in the last entries, the nodes or the head, the store does not open.
func TestOpenChecksTheLog(t *testing.T) {
	for name, c := range map[string]struct{ code, do string }{
		"last entry removed":  {string(fault.StoreCorrupted), "DELETE FROM audit_entries WHERE idx = 699"},
		"entry removed":       {string(fault.StoreCorrupted), "DELETE FROM audit_entries WHERE idx = 600"},
		"leaf changed":        {string(fault.StoreCorrupted), "UPDATE audit_entries SET leaf = x'00' WHERE idx = 690"},
		"entry added":         {string(fault.StoreCorrupted), "INSERT INTO audit_entries (idx, at, principal, action, outcome, leaf) VALUES (700, 0, '', '', '', x'00')"},
		"all entries removed": {string(fault.StoreCorrupted), "DELETE FROM audit_entries"},
		"node removed":        {string(fault.StoreCorrupted), "DELETE FROM audit_nodes WHERE level = 9"},
		"node changed":        {string(fault.StoreCorrupted), "UPDATE audit_nodes SET hash = zeroblob(32) WHERE level = 9"},
		"node cut":            {string(fault.StoreCorrupted), "UPDATE audit_nodes SET hash = x'00' WHERE level = 9"},
		"size changed":        {string(fault.StoreCorrupted), "UPDATE audit_head SET size = 698"},
		"negative size":       {string(fault.StoreCorrupted), "UPDATE audit_head SET size = -1"},
		"range changed":       {string(fault.StoreCorrupted), "UPDATE audit_head SET hashes = zeroblob(length(hashes))"},
		"range cut":           {string(fault.StoreCorrupted), "UPDATE audit_head SET hashes = x'00'"},
		"head removed":        {string(fault.StoreCorrupted), "DELETE FROM audit_head"},
		"newer schema":        {string(fault.StoreUnavailable), "INSERT INTO schema_version (version_id, is_applied) VALUES (9999, 1)"},
		"nothing":             {"", "ANALYZE"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "store.db")
			s := open(t, path, sqlite.Options{})
			items := make([]*audit.Item, 700)
			for i := range items {
				items[i] = storetest.Item()
			}
			commit(t, s, items...)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			edit(t, path, c.do)
			again, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if fault.CodeOf(err) != fault.Code(c.code) {
				t.Errorf("got %v, want %q", err, c.code)
			}
			if err == nil {
				if err := again.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestDamagedPages overwrites one page after the other: every call answers without a panic, with the data as it was or
// with StoreCorrupted. (Damage inside a value that still parses as a record is for the audit log and the seals to find.)
func TestDamagedPages(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	tenant := uuid.New()
	s := open(t, path, sqlite.Options{})
	var ids []uuid.UUID
	for i := range 120 { // enough that most pages are of what is read below
		k, v := storetest.NewKey(tenant, fmt.Sprintf("key-%d", i))
		k.Labels = map[string]string{"env": "prod"}
		commit(t, s, storetest.Item(s.InsertKey(k, v)))
		ids = append(ids, k.ID)
	}
	session := &auth.Session{ID: uuid.New(), Tenant: tenant, MAC: [32]byte{1}, CreatedAt: time.Now(), SeenAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
	commit(t, s, storetest.Item(s.InsertSession(session, auth.SessionBounds{})))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reported := 0
	for page := range len(whole) / 4096 {
		damaged := append([]byte(nil), whole...)
		for i := range 4096 {
			damaged[page*4096+i] = 0xa5
		}
		copyPath := filepath.Join(tempDir(t), "store.db")
		if err := os.WriteFile(copyPath, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		check := func(what string, err error) {
			switch fault.CodeOf(err) {
			case fault.StoreCorrupted:
				reported++
			case "":
			default:
				t.Errorf("page %d: %s: %v", page, what, err)
			}
		}
		s, err := sqlite.Open(t.Context(), copyPath, sqlite.Options{})
		check("Open", err)
		if err != nil {
			continue
		}
		for _, id := range ids[:5] {
			_, err := s.KeyByID(t.Context(), tenant, id)
			check("KeyByID", err)
			_, err = s.Version(t.Context(), id, 1)
			check("Version", err)
		}
		for _, f := range []keys.Filter{{}, {Algorithm: "AES-256-GCM"}, {State: keys.StateActive}, {Label: "env"}, {Label: "env=prod"}} {
			_, err := s.Keys(t.Context(), tenant, f, "", 1000)
			check("Keys", err)
		}
		_, err = s.SessionByMAC(t.Context(), session.MAC)
		check("SessionByMAC", err)
		_, err = s.Session(t.Context(), tenant, session.ID)
		check("Session", err)
		_, err = s.Sessions(t.Context(), tenant, uuid.Nil, auth.Alive{}, 10)
		check("Sessions", err)
		check("PruneSessions", s.PruneSessions(t.Context(), time.Now()))
		k, v := storetest.NewKey(tenant, "new")
		item := storetest.Item(s.InsertKey(k, v))
		err = s.Commit(t.Context(), []*audit.Item{item}, storetest.Extend)
		check("Commit", err)
		if err == nil {
			check("change", item.Err)
		}
		if err := s.Close(); err != nil {
			check("Close", err)
		}
	}
	if reported < len(whole)/4096 {
		t.Errorf("damage in %d pages was reported %d times", len(whole)/4096, reported)
	}
}

// TestFullThenSpace: what does not fit is not stored, reads go on, and with space again writes do, without a restart.
func TestFullThenSpace(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{MaxPages: 200})
	tenant := uuid.New()
	var acknowledged []*keys.Key
	for i := 0; ; i++ {
		k, v := storetest.NewKey(tenant, fmt.Sprintf("key-%d", i))
		v.Blob = make([]byte, 8000)
		good, item := storetest.Item(), storetest.Item(s.InsertKey(k, v))
		err := s.Commit(t.Context(), []*audit.Item{good, item}, storetest.Extend)
		if err != nil {
			wantFault(t, "full", err, fault.StoreUnavailable, "disk of the store is full")
			break
		}
		if item.Err != nil {
			t.Fatal(item.Err)
		}
		acknowledged = append(acknowledged, k)
	}
	if len(acknowledged) == 0 {
		t.Fatal("nothing fitted")
	}
	check := func(entries uint64) {
		t.Helper()
		head, err := s.AuditHead(t.Context())
		if err != nil || head.Size != entries {
			t.Errorf("%d entries, %v, want %d", head.Size, err, entries)
		}
		list, err := s.Keys(t.Context(), tenant, keys.Filter{}, "", 1000)
		if err != nil || len(list) != len(acknowledged) {
			t.Errorf("%d keys, %v, want %d", len(list), err, len(acknowledged))
		}
	}
	n := uint64(2 * len(acknowledged))
	check(n)
	// Space again: a key loses its material, and its pages are free.
	v, err := s.Version(t.Context(), acknowledged[0].ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	v.State, v.Blob = keys.StateDestroyed, nil
	commit(t, s, storetest.Item(s.UpdateVersion(v)))
	commit(t, s, storetest.Item())
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("ping after a good commit: %v", err)
	}
	check(n + 2)
}

// TestDestroyedMaterialIsErased: what a destroyed version held is not to be found in the file any more.
func TestDestroyedMaterialIsErased(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	k, v := storetest.NewKey(uuid.New(), "k")
	v.Blob = []byte(strings.Repeat("sealed material ", 600))
	commit(t, s, storetest.Item(s.InsertKey(k, v)))
	v.State, v.Blob = keys.StateDestroyed, nil
	commit(t, s, storetest.Item(s.UpdateVersion(v)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(path + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || strings.Contains(string(content), "sealed material ") {
			t.Errorf("%q: %v, or the material is still there", suffix, err)
		}
	}
}

// TestLogIsBegunAnew: under constant writing and reading the write-ahead log stays bounded.
func TestLogIsBegunAnew(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{MaxLog: 8})
	stop, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for stop.Err() == nil {
			if _, err := s.AuditEntries(t.Context(), 0, 200); err != nil {
				t.Error(err)
				return
			}
		}
	})
	largest := int64(0)
	for written := 0; written < 100<<20; {
		var batch []*audit.Item
		for range 256 {
			it := entry(uuid.New())
			it.Leaf = append(it.Leaf, make([]byte, 4000)...)
			batch, written = append(batch, it), written+len(it.Leaf)
		}
		// The hash is that of the shorter leaf, which nobody looks at here.
		commit(t, s, batch...)
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	cancel()
	group.Wait()
	if largest > 64<<20 {
		t.Errorf("the log grew to %d bytes", largest)
	}
}

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]string{
		"sqlite:a.db": "a.db", "sqlite:/var/lib/a.db": "/var/lib/a.db", "sqlite:///var/lib/a.db": "/var/lib/a.db",
		"sqlite:a b%20?c": "a b%20?c", "sqlite:./d/a.db": "./d/a.db",
		"": "", "a.db": "", "sqlite:": "", "sqlite://": "", "sqlite://host/a.db": "", "sqlite:d/": "", "sqlite:a\x00b": "",
		"postgres://x": "", "SQLITE:a.db": "",
	} {
		got, err := sqlite.ParseURI(uri)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", uri, got, err)
		}
	}
	path := filepath.Join(tempDir(t), "store.db")
	s, err := sqlite.OpenURI(t.Context(), "sqlite:"+path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Path() != path {
		t.Errorf("opened %q", s.Path())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
