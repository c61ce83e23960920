package backup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// The records of the content, by their first byte.
const (
	recordTable = 1 // name, columns
	recordRow   = 2 // a value for each column of the table
	recordEnd   = 3 // of the table, with the number of its rows
	recordLast  = 4 // with the number of tables; nothing follows
)

// maxValue bounds a text or byte value.
const maxValue = 64 << 20

// maxColumns bounds the columns of a table.
const maxColumns = 255

// encoder writes records. Its errors stay in the bufio.Writer until the end.
type encoder struct {
	w   *bufio.Writer
	buf []byte
}

func appendName(b []byte, name string) []byte { return append(append(b, byte(len(name))), name...) }

func (e *encoder) table(t *Table) error {
	if len(t.Columns) == 0 || len(t.Columns) > maxColumns || !wellNamed(t.Name) {
		return fmt.Errorf("table %q cannot be written", t.Name)
	}
	b := appendName(append(e.buf[:0], recordTable), t.Name)
	b = append(b, byte(len(t.Columns)))
	for _, c := range t.Columns {
		if !wellNamed(c.Name) {
			return fmt.Errorf("column %q of table %s cannot be written", c.Name, t.Name)
		}
		b = appendName(append(b, byte(c.Kind)), c.Name)
	}
	return e.write(b)
}

func (e *encoder) row(t *Table, row []Value) error {
	b := append(e.buf[:0], recordRow)
	for i, v := range row {
		if v.Null {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		if t.Columns[i].Kind == Int {
			b = binary.BigEndian.AppendUint64(b, uint64(v.Int))
			continue
		}
		if len(v.Bytes) > maxValue {
			return fmt.Errorf("a value in column %s of table %s is too long", t.Columns[i].Name, t.Name)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.Bytes)))
		b = append(b, v.Bytes...)
	}
	return e.write(b)
}

func (e *encoder) end(rows int64) error {
	return e.write(binary.BigEndian.AppendUint64(append(e.buf[:0], recordEnd), uint64(rows)))
}

func (e *encoder) last(tables int) error {
	return e.write(binary.BigEndian.AppendUint32(append(e.buf[:0], recordLast), uint32(tables)))
}

func (e *encoder) write(b []byte) error {
	e.buf = b
	_, err := e.w.Write(b)
	return err
}

// wellNamed reports whether a name is one of our schema's: it becomes part of statements.
func wellNamed(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', c == '_', i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return name != "" && len(name) <= 63
}

// decoder reads records. What it reads has been authenticated, but it checks as if it had not been.
type decoder struct {
	r      *bufio.Reader
	tables int
	table  *Table // the one whose rows come, nil between tables
	rows   int64
	row    []Value
	buf    []byte
}

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrDamaged, what) }

// next gives the next table, io.EOF after the last.
func (d *decoder) next() (*Table, error) {
	kind, err := d.r.ReadByte()
	if err != nil {
		return nil, cut(err)
	}
	switch kind {
	case recordTable:
		if d.table, err = d.readTable(); err != nil {
			return nil, err
		}
		d.rows = 0
		d.row = make([]Value, len(d.table.Columns))
		d.tables++
		return d.table, nil
	case recordLast:
		n, err := d.number(4)
		if err != nil {
			return nil, err
		}
		if n != uint64(d.tables) {
			return nil, malformed("it has another number of tables than it says")
		}
		// The end of the content is where its last segment is checked.
		if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
			if err == nil {
				return nil, malformed("there is more behind its end")
			}
			return nil, err
		}
		return nil, io.EOF
	}
	return nil, malformed("a record is of no known kind")
}

func (d *decoder) readTable() (*Table, error) {
	t := &Table{}
	var err error
	if t.Name, err = d.name(); err != nil {
		return nil, err
	}
	n, err := d.r.ReadByte()
	if err != nil {
		return nil, cut(err)
	}
	for range n {
		kind, err := d.r.ReadByte()
		if err != nil {
			return nil, cut(err)
		}
		c := Column{Kind: Kind(kind)}
		if c.Name, err = d.name(); err != nil {
			return nil, err
		}
		if c.Kind < Int || c.Kind > Bytes {
			return nil, malformed("a column is of no known kind")
		}
		t.Columns = append(t.Columns, c)
	}
	if len(t.Columns) == 0 {
		return nil, malformed("a table has no columns")
	}
	return t, nil
}

func (d *decoder) name() (string, error) {
	n, err := d.r.ReadByte()
	if err != nil {
		return "", cut(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(d.r, b); err != nil {
		return "", cut(err)
	}
	if !wellNamed(string(b)) {
		return "", malformed("a name is malformed")
	}
	return string(b), nil
}

// Next gives the next row of the table.
func (d *decoder) Next() ([]Value, error) {
	if d.table == nil {
		return nil, io.EOF
	}
	kind, err := d.r.ReadByte()
	if err != nil {
		return nil, cut(err)
	}
	switch kind {
	case recordRow:
	case recordEnd:
		n, err := d.number(8)
		if err != nil {
			return nil, err
		}
		if n != uint64(d.rows) {
			return nil, malformed("a table has another number of rows than it says")
		}
		d.table = nil
		return nil, io.EOF
	default:
		return nil, malformed("a record is of no known kind")
	}
	d.rows++
	d.buf = d.buf[:0]
	for i, c := range d.table.Columns {
		if d.row[i], err = d.value(c.Kind); err != nil {
			return nil, err
		}
	}
	return d.row, nil
}

func (d *decoder) value(kind Kind) (v Value, err error) {
	present, err := d.r.ReadByte()
	switch {
	case err != nil:
		return v, cut(err)
	case present > 1:
		return v, malformed("a value is neither there nor absent")
	case present == 0:
		return Value{Null: true}, nil
	case kind == Int:
		n, err := d.number(8)
		return Value{Int: int64(n)}, err
	}
	n, err := d.number(4)
	if err != nil {
		return v, err
	}
	if n > maxValue {
		return v, malformed("a value is too long")
	}
	// Values share one buffer. Those before keep the old one when it has to grow.
	from := len(d.buf)
	if cap(d.buf)-from < int(n) {
		d.buf, from = make([]byte, 0, max(int(n), 4096)), 0
	}
	d.buf = d.buf[:from+int(n)]
	v.Bytes = d.buf[from : from+int(n) : from+int(n)]
	if _, err := io.ReadFull(d.r, v.Bytes); err != nil {
		return v, cut(err)
	}
	if kind == Text && !utf8.Valid(v.Bytes) {
		return v, malformed("a text is not UTF-8")
	}
	return v, nil
}

// number reads an unsigned number of 4 or 8 bytes.
func (d *decoder) number(size int) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(d.r, b[8-size:]); err != nil {
		return 0, cut(err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// cut says that the content ended too early, and leaves other errors alone.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("its content ends in the middle")
	}
	return err
}
