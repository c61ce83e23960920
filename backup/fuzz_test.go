package backup

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
)

// vectorHeader gives the file of the vectors.
func vectorOf(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("../docs/formats/vectors/backup.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ File []byte }
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v.File
}

// FuzzOpen: what is taken for a header is in its one form, and the rest of a file ends with one of the known errors.
func FuzzOpen(f *testing.F) {
	file := vectorOf(f)
	f.Add(file)
	f.Add(file[:1500])
	f.Add([]byte("KWBK\x01\x00\x00\x00\x02{}"))
	f.Add([]byte("KWBK\x02\x00\x00\x00\x00"))
	f.Add([]byte("KWBK\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := Open(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if err := o.encode(); err != nil || !bytes.HasPrefix(b, o.raw) {
			t.Fatalf("a header of another form was taken: %v", err)
		}
		if _, err := o.Check(""); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrSignature) {
			t.Fatalf("got %v", err)
		}
	})
}

// FuzzRecords: what is decoded is encoded to the same bytes.
func FuzzRecords(f *testing.F) {
	var seed bytes.Buffer
	e := &encoder{w: bufio.NewWriter(&seed)}
	table := &Table{Name: "t_1", Columns: []Column{{"a", Int}, {"b", Text}, {"c", Bytes}}}
	for _, err := range []error{
		e.table(table),
		e.row(table, []Value{{Int: -1}, {Bytes: []byte("é")}, {Bytes: []byte{0, 255}}}),
		e.row(table, []Value{{Null: true}, {Null: true}, {Bytes: []byte{}}}),
		e.end(2), e.last(1), e.w.Flush(),
	} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(seed.Bytes())
	f.Add([]byte{recordLast, 0, 0, 0, 0})
	f.Add([]byte{recordTable, 1, 'a', 1, 3, 1, 'b', recordRow, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &decoder{r: bufio.NewReader(bytes.NewReader(b))}
		var out bytes.Buffer
		e := &encoder{w: bufio.NewWriter(&out)}
		for n := 0; ; n++ {
			table, err := d.next()
			if errors.Is(err, io.EOF) {
				if err := errors.Join(e.last(n), e.w.Flush()); err != nil || !bytes.Equal(out.Bytes(), b) {
					t.Fatalf("%x became %x: %v", b, out.Bytes(), err)
				}
				return
			}
			if err == nil {
				if err := e.table(table); err != nil {
					t.Fatal(err)
				}
				err = each(d, func(row []Value) error { return e.row(table, row) })
			}
			if err == nil {
				err = e.end(d.rows)
			}
			if err != nil {
				if !errors.Is(err, ErrDamaged) {
					t.Fatalf("got %v", err)
				}
				return
			}
		}
	})
}
