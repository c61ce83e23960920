package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"encoding/base64"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"
)

// nodeLevel is the lowest level of the tree whose nodes a store keeps (audit.NodeLevel).
const nodeLevel = 8

// ledger looks at the rows of the audit log on their way from one place to another, and shows at the end that they are one log: the
// entries, numbered without a gap, give the stored head and nodes (RFC 6962 section 2.1), and contain the tree of the checkpoint.
// Its memory does not grow with the log but for a hash a level.
type ledger struct {
	deployment uuid.UUID // as the header says; zero: not known
	checkpoint checkpoint
	reached    bool // the tree had the size and the root of the checkpoint

	size  uint64
	parts [][32]byte // compact range of the entries read, largest subtree first
	made  levels     // nodes that the entries gave
	kept  levels     // nodes that the store had
	head  []byte     // the stored one: its size, and the hashes
	known uuid.UUID  // the stored deployment
	rows  int64
	table int
}

// checkpoint is what the header's says. The zero value: none.
type checkpoint struct {
	origin string
	size   uint64
	root   [32]byte
}

// levels has a running hash over the nodes of each level, in their order.
type levels [64]struct {
	n uint64
	h hash.Hash
}

func (l *levels) add(level int, index uint64, node []byte) error {
	if level < nodeLevel || level >= len(l) || len(node) != sha256.Size || index != l[level].n {
		return inconsistent("a node of the audit tree is missing or malformed")
	}
	if l[level].h == nil {
		l[level].h = sha256.New()
	}
	l[level].n++
	l[level].h.Write(node)
	return nil
}

func (l *levels) equal(o *levels) bool {
	for i := range l {
		if l[i].n != o[i].n || l[i].n > 0 && string(l[i].h.Sum(nil)) != string(o[i].h.Sum(nil)) {
			return false
		}
	}
	return true
}

func inconsistent(what string) error { return fmt.Errorf("%w: %s", ErrInconsistent, what) }

// parseCheckpoint reads the text of a checkpoint; its signature is for audit.OpenCheckpoint.
func parseCheckpoint(signed string) (checkpoint, error) {
	lines := strings.SplitN(signed, "\n", 4)
	bad := fmt.Errorf("%w: the checkpoint in the header is malformed", ErrFormat)
	if len(lines) != 4 {
		return checkpoint{}, bad
	}
	size, err := strconv.ParseUint(lines[1], 10, 62)
	if err != nil {
		return checkpoint{}, bad
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return checkpoint{}, bad
	}
	return checkpoint{lines[0], size, [32]byte(root)}, nil
}

// watch gives rows with a look at each.
func (l *ledger) watch(t *Table, rows Rows) (Rows, error) {
	l.table++
	w := &watched{rows: rows, ledger: l}
	need := func(name string, kind Kind) int {
		i := t.column(name, kind)
		if i < 0 {
			w.missing = true
		}
		return i
	}
	switch t.Name {
	case "audit_entries":
		idx, leaf := need("idx", Int), need("leaf", Bytes)
		w.look = func(row []Value) error { return l.entry(row[idx], row[leaf]) }
	case "audit_pruned":
		n, hashes := need("tile", Int), need("hashes", Bytes)
		w.look = func(row []Value) error { return l.pruned(row[n], row[hashes]) }
	case "audit_nodes":
		level, idx, node := need("level", Int), need("idx", Int), need("hash", Bytes)
		w.look = func(row []Value) error { return l.kept.add(int(row[level].Int), uint64(row[idx].Int), row[node].Bytes) }
	case "audit_head":
		size, hashes := need("size", Int), need("hashes", Bytes)
		w.look = func(row []Value) error {
			l.head = append(binary.BigEndian.AppendUint64(nil, uint64(row[size].Int)), row[hashes].Bytes...)
			return nil
		}
	case "deployment":
		id := need("uuid", Bytes)
		w.look = func(row []Value) (err error) {
			if l.known, err = uuid.FromBytes(row[id].Bytes); err != nil {
				return inconsistent("the identity of the deployment is malformed")
			}
			return nil
		}
	}
	if w.missing {
		return nil, inconsistent("table " + t.Name + " lacks a column")
	}
	return w, nil
}

type watched struct {
	rows    Rows
	ledger  *ledger
	look    func([]Value) error // nil: nothing to see
	missing bool
}

func (w *watched) Next() ([]Value, error) {
	row, err := w.rows.Next()
	if err != nil {
		return nil, err
	}
	w.ledger.rows++
	if w.look != nil {
		if err := w.look(row); err != nil {
			return nil, err
		}
	}
	return row, nil
}

func (l *ledger) entry(idx, leaf Value) error {
	if idx.Null || leaf.Null || uint64(idx.Int) != l.size {
		return inconsistent(fmt.Sprintf("entry %d of the audit log is missing", l.size))
	}
	return l.add([32]byte(tlog.RecordHash(leaf.Bytes)))
}

// pruned takes a row of leaf hashes of entries that have no row of their own; they are the first ones of the log.
func (l *ledger) pruned(n, hashes Value) error {
	b := hashes.Bytes
	if n.Null || hashes.Null || n.Int < 0 || uint64(n.Int)<<nodeLevel != l.size || len(b) == 0 || len(b) > sha256.Size<<nodeLevel || len(b)%sha256.Size != 0 {
		return inconsistent(fmt.Sprintf("the hash of entry %d of the audit log, which is pruned, is missing or malformed", l.size))
	}
	for ; len(b) > 0; b = b[sha256.Size:] {
		if err := l.add([32]byte(b)); err != nil {
			return err
		}
	}
	return nil
}

// add puts a leaf hash at the end of the tree.
func (l *ledger) add(h [32]byte) error {
	if err := l.compare(); err != nil { // of the log as it was before this entry
		return err
	}
	for level := 1; ; level++ {
		if l.size>>(level-1)&1 == 0 {
			break
		}
		last := len(l.parts) - 1
		h = tlog.NodeHash(l.parts[last], tlog.Hash(h))
		l.parts = l.parts[:last]
		if level >= nodeLevel {
			if err := l.made.add(level, l.size>>level, h[:]); err != nil {
				return err
			}
		}
	}
	l.parts = append(l.parts, h)
	l.size++
	return nil
}

// compare looks whether the tree is that of the checkpoint, when it has come to its size.
func (l *ledger) compare() error {
	if l.reached || l.checkpoint.origin == "" || l.size != l.checkpoint.size {
		return nil
	}
	if l.root() != l.checkpoint.root {
		return inconsistent(fmt.Sprintf("the first %d entries of the audit log are not those of its checkpoint", l.size))
	}
	l.reached = true
	return nil
}

// root is the tree hash of the entries read.
func (l *ledger) root() [32]byte {
	if len(l.parts) == 0 {
		return sha256.Sum256(nil)
	}
	h := l.parts[len(l.parts)-1]
	for _, left := range slices.Backward(l.parts[:len(l.parts)-1]) {
		h = tlog.NodeHash(left, tlog.Hash(h))
	}
	return h
}

// finish is for when everything has been read.
func (l *ledger) finish() error {
	if l.checkpoint.origin != "" {
		if err := l.compare(); err != nil {
			return err
		}
		if !l.reached {
			return inconsistent(fmt.Sprintf("the audit log ends after %d entries, its checkpoint after %d", l.size, l.checkpoint.size))
		}
	}
	want := binary.BigEndian.AppendUint64(nil, l.size)
	for _, p := range l.parts {
		want = append(want, p[:]...)
	}
	switch {
	case len(l.parts) != bits.OnesCount64(l.size) || string(want) != string(l.head):
		return inconsistent("the head of the audit log is not that of its entries")
	case !l.made.equal(&l.kept):
		return inconsistent("the nodes of the audit tree are not those of its entries")
	case l.known == uuid.Nil:
		return inconsistent("there is no deployment")
	case l.deployment != uuid.Nil && l.known != l.deployment:
		return inconsistent("the content is of another deployment than the header says")
	case l.checkpoint.origin != "" && l.checkpoint.origin != "keywright/"+l.known.String():
		return inconsistent("the checkpoint is of another log")
	}
	return nil
}

func (l *ledger) summary() Summary {
	return Summary{Tables: l.table, Rows: l.rows, Entries: l.size, Root: l.root()}
}

// transfer loads every table that next gives into the target, which may be nil: then the rows are only looked at.
func transfer(l *ledger, target Target, load func(Table, Rows) error, next func() (*Table, Rows, error)) error {
	var want []Table
	if target != nil {
		want = target.Tables()
	}
	for i := 0; ; i++ {
		t, rows, err := next()
		if errors.Is(err, io.EOF) {
			if i < len(want) {
				return inconsistent("table " + want[i].Name + " is missing")
			}
			return l.finish()
		}
		if err != nil {
			return err
		}
		if target != nil && (i >= len(want) || want[i].Name != t.Name || !sameColumns(want[i].Columns, t.Columns)) {
			return inconsistent("table " + t.Name + " is not one of its schema, or in another place")
		}
		w, err := l.watch(t, rows)
		if err != nil {
			return err
		}
		if target == nil {
			err = each(w, func([]Value) error { return nil })
		} else {
			err = load(*t, w)
		}
		if err != nil {
			return err
		}
	}
}

func sameColumns(a, b []Column) bool { return slices.Equal(a, b) }
