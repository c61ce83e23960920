package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/store/migrations"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

func freshBacked(t *testing.T) storetest.Backed {
	return open(t, filepath.Join(tempDir(t), "store.db"), sqlite.Options{})
}

// place is somewhere for a new store.
func place(t *testing.T) storetest.Place {
	path := filepath.Join(tempDir(t), "new.db")
	return storetest.Place{
		Begin: func(ctx context.Context, schema int64) (*storetest.Loading, error) {
			l, err := sqlite.NewLoader(ctx, path, schema)
			if err != nil {
				return nil, err
			}
			return &storetest.Loading{Target: l, Commit: l.Commit, Close: l.Close,
				Open: func(ctx context.Context) (storetest.Backed, error) { return l.Open(ctx) }}, nil
		},
		Open: func(t *testing.T) storetest.Backed { return open(t, path, sqlite.Options{}) },
	}
}

func TestBackup(t *testing.T) {
	storetest.RunBackup(t, freshBacked, place)
}

// TestEveryTableIsDecidedAbout: the list has every table of the newest schema, and none that is not there.
func TestEveryTableIsDecidedAbout(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	snap, err := s.Snapshot(t.Context()) // which refuses a table that is not in the list
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, table := range migrations.Tables() {
		if table.Without == "" {
			want = append(want, table.Name)
		}
	}
	for _, table := range snap.Tables() {
		got = append(got, table.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("a backup has %v, want %v", got, want)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, "CREATE TABLE forgotten (id INTEGER PRIMARY KEY)")
	_, err = open(t, path, sqlite.Options{}).Snapshot(t.Context())
	wantFault(t, "a table that nobody has decided about", err, fault.StoreCorrupted, "forgotten")
}

// TestNewsBeginBehindTheLog: who joins a store that was loaded hears that news from before are lost.
func TestNewsBeginBehindTheLog(t *testing.T) {
	s := open(t, filepath.Join(tempDir(t), "store.db"), sqlite.Options{})
	storetest.Fill(t, s, 20)
	path := filepath.Join(tempDir(t), "new.db")
	l, err := sqlite.NewLoader(t.Context(), path, newest(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // looked at below
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sum, err := backup.Copy(t.Context(), snap, l, nil)
	if err := errors.Join(err, snap.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := number(t, path, "SELECT idx FROM news_floor"); got != int64(sum.Entries) {
		t.Errorf("news begin at %d, want %d", got, sum.Entries)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*restoring*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("the new store is %v, %v", info.Mode(), err)
	}
}

// TestLongSnapshot: a snapshot that keeps the write-ahead log from being begun anew for too long is given up.
func TestLongSnapshot(t *testing.T) {
	s := open(t, filepath.Join(tempDir(t), "store.db"), sqlite.Options{MaxSnapshotLog: 1})
	storetest.Fill(t, s, 5000)
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storetest.Fill(t, s, 5000)
	var code fault.Code
	for _, table := range snap.Tables() {
		rows, err := snap.Rows(t.Context(), table)
		for err == nil {
			_, err = rows.Next()
		}
		if c := fault.CodeOf(err); c != fault.Internal { // io.EOF is none
			code = c
		}
	}
	if code != fault.StoreUnavailable {
		t.Errorf("it ended with %q", code)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenSource: a store is copied as it lies there, while nobody else has it.
func TestOpenSource(t *testing.T) {
	path := filepath.Join(tempDir(t), "store.db")
	s := open(t, path, sqlite.Options{})
	storetest.Fill(t, s, 5)
	_, err := sqlite.OpenSource(t.Context(), path)
	wantFault(t, "a store in use", err, fault.StoreUnavailable, "in use")
	want := storetest.Digests(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := sqlite.OpenSource(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	wantFault(t, "a service on the source", err, fault.StoreUnavailable, "in use")
	got := map[string]string{}
	for _, table := range snap.Tables() {
		n, err := snap.Count(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		got[table.Name] = fmt.Sprint(n) + want[table.Name][len(fmt.Sprint(n)):]
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the source was changed: %v", err)
	}
	missing := filepath.Join(tempDir(t), "none.db")
	_, err = sqlite.OpenSource(t.Context(), missing)
	wantFault(t, "a store that is not there", err, fault.StoreUnavailable, "no store")
	if left, err := filepath.Glob(missing + "*"); err != nil || len(left) > 0 {
		t.Errorf("looking for it made %v, %v", left, err)
	}
}

func newest(t *testing.T) int64 {
	t.Helper()
	n, err := migrations.Newest()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// number reads one number of a file that nobody has open.
func number(t *testing.T, path, query string) (n int64) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // only read
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
