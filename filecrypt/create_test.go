package filecrypt

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func content(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

// entries lists the folder: nothing but what should be there may be left.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := Create(path, false, content("one")); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st, err)
	}
	if err := Create(path, false, content("two")); !errors.Is(err, fs.ErrExist) || read(t, path) != "one" {
		t.Fatalf("replaced: %v", err)
	}
	failed := errors.New("failed")
	err = Create(path, true, func(w io.Writer) error {
		if err := content("three")(w); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) || read(t, path) != "one" {
		t.Fatalf("a failure changed the file: %v", err)
	}
	if err := Create(path, true, content("four")); err != nil || read(t, path) != "four" {
		t.Fatal(err)
	}
	if names := entries(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// TestCreateLate: a file that appears while the content is being written stays.
func TestCreateLate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	err := Create(path, false, func(w io.Writer) error {
		if err := os.WriteFile(path, []byte("theirs"), 0o644); err != nil {
			return err
		}
		return content("ours")(w)
	})
	if !errors.Is(err, fs.ErrExist) || read(t, path) != "theirs" {
		t.Fatalf("%v, %s", err, read(t, path))
	}
	if names := entries(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if err := Create(filepath.Join(dir, "no", "out"), false, content("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
