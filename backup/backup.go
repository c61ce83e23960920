// Package backup makes one file of everything that a store keeps, and fills an empty store of either kind from it. The file is
// encrypted under a key derived from the root and signed by the service: docs/formats/backup.md.
//
// It trusts the store to show one moment while it reads, and the root to be nobody else's. It trusts nothing about a file: no row is
// handed on before the segment that it stands in is authenticated, and whoever loads one must show none of it before Restore has returned nil.
// Key material passes through as it lies in the store: sealed. The file adds a second seal, and opens neither.
package backup

import (
	"context"
	"errors"
	"io"
)

// Label names the backup key among those that are derived from the root (HKDF-SHA-256, 32 bytes).
const Label = "keywright/v1/backup"

// Kind is what the values of a column are.
type Kind uint8

const (
	Int   Kind = 1 // 64 bits, signed
	Text  Kind = 2 // UTF-8
	Bytes Kind = 3
)

// Column is one column of a table.
type Column struct {
	Name string
	Kind Kind
}

// Table is a table and its columns in the order of its rows' values.
type Table struct {
	Name    string
	Columns []Column
}

// column gives the place of a column, -1 when there is none of the kind.
func (t *Table) column(name string, kind Kind) int {
	for i, c := range t.Columns {
		if c.Name == name && c.Kind == kind {
			return i
		}
	}
	return -1
}

// Value is one value of a row: Int of an Int column, Bytes of the others.
type Value struct {
	Null  bool
	Int   int64
	Bytes []byte
}

// Rows gives the rows of a table one after another. It is for one goroutine.
type Rows interface {
	// Next gives the next row, io.EOF after the last. What it gives is valid until the next call, and not to be changed.
	Next() ([]Value, error)
}

// Source is an open store that can be backed up while it is in use.
type Source interface {
	// Snapshot holds on to what is committed now. It keeps the store from tidying up behind it until it is closed.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// Snapshot is a store at one moment. It is for one goroutine.
type Snapshot interface {
	// Schema is the number of the last migration made in the store.
	Schema() int64
	// Tables gives the tables that a backup has, in the order in which they can be loaded.
	Tables() []Table
	// Count gives the number of rows of a table.
	Count(ctx context.Context, t Table) (int64, error)
	// Rows reads a table in the order of its primary key, the same in every kind of store. It ends when ctx does. The one before must
	// have been read to its end, or failed.
	Rows(ctx context.Context, t Table) (Rows, error)
	// Close ends the snapshot. It is called once.
	Close() error
}

// Target is an empty store of the schema that is being loaded.
type Target interface {
	// Tables gives the tables that its schema has to be given, in order.
	Tables() []Table
	// Load fills a table: all rows up to io.EOF. Any other error of rows is given back.
	Load(ctx context.Context, t Table, rows Rows) error
}

var (
	// ErrFormat is wrapped when the input is not a backup of a known version.
	ErrFormat = errors.New("not a backup of a known version")
	// ErrDamaged is wrapped when the file was changed, cut, extended, or is not what it says.
	ErrDamaged = errors.New("the backup is damaged or incomplete")
	// ErrRoot is given when the content does not open under the root.
	ErrRoot = errors.New("the backup does not open: it is of another root, or its header was changed")
	// ErrSignature is wrapped when the signature is wrong, or of another key than the one that was asked for.
	ErrSignature = errors.New("the signature of the backup does not verify")
	// ErrInconsistent is wrapped when what was read does not fit together: its audit log does not give its tree, or tables are missing.
	ErrInconsistent = errors.New("what the store holds does not fit together")
)

// Summary says what a backup holds.
type Summary struct {
	Tables  int
	Rows    int64
	Entries uint64   // of the audit log
	Root    [32]byte // of the tree of all entries (RFC 6962 section 2.1)
	Bytes   int64    // of the file; 0 when there is none
	Sum     [32]byte // SHA-256 of the file up to its signature: what the signature is over
}

// each reads rows to the end.
func each(rows Rows, f func([]Value) error) error {
	for {
		row, err := rows.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(row); err != nil {
			return err
		}
	}
}
