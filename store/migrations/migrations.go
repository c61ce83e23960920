// Package migrations is the schema of the store: one tree of goose migrations for every dialect. It holds no secret and
// trusts nobody but its own files.
//
// The statements are written in what SQLite and PostgreSQL have in common. The few words that they do not share stand as
// ${NAME} and are replaced when a dialect asks for the tree.
package migrations

import (
	"bytes"
	"embed"
	"io/fs"
	"strings"
	"time"
)

//go:embed *.sql
var tree embed.FS

// SQLite gives the tree for SQLite.
func SQLite() fs.FS {
	return dialect{strings.NewReplacer(
		"${BYTEWISE}", "", // BINARY is the default collation
		"${CLUSTERED}", "WITHOUT ROWID",
		"${ROWNUMBER}", "INTEGER", // INTEGER PRIMARY KEY is the row's own number: no second tree
		"${EMPTY}", "x''",
	)}
}

// Postgres gives the tree for PostgreSQL.
func Postgres() fs.FS {
	return dialect{strings.NewReplacer(
		"${BYTEWISE}", `COLLATE "C"`,
		"${CLUSTERED}", "",
		"${ROWNUMBER}", "BIGINT",
		"${EMPTY}", "''",
	)}
}

// dialect is the tree with its words replaced: what goose reads of a file system, and no more.
type dialect struct{ words *strings.Replacer }

func (d dialect) Open(name string) (fs.File, error) {
	f, err := tree.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, err
	}
	text = []byte(d.words.Replace(string(text)))
	return &file{name: name, size: int64(len(text)), Reader: bytes.NewReader(text)}, nil
}

func (d dialect) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(tree, name) }

// file is one migration, open.
type file struct {
	name string
	size int64
	*bytes.Reader
}

func (f *file) Stat() (fs.FileInfo, error) { return info{f.name, f.size}, nil }
func (f *file) Close() error               { return nil }

type info struct {
	name string
	size int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return 0o444 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
