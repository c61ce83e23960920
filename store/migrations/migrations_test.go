package migrations

import (
	"io/fs"
	"strings"
	"testing"
)

func TestEveryWordIsReplaced(t *testing.T) {
	for name, tree := range map[string]fs.FS{"sqlite": SQLite(), "postgres": Postgres()} {
		files, err := fs.Glob(tree, "*.sql")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", name, len(files), err)
		}
		for _, f := range files {
			text, err := fs.ReadFile(tree, f)
			if err != nil {
				t.Fatal(err)
			}
			_, body, found := strings.Cut(string(text), "-- +goose Up")
			if !found {
				t.Errorf("%s: %s has no Up section", name, f)
			}
			if strings.Contains(body, "${") {
				t.Errorf("%s: %s keeps a word of no dialect", name, f)
			}
		}
	}
}
