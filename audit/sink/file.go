package sink

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/keywright/keywright/audit"
)

// file is a place: lines in a file, which is its own cursor. Its first line says with which entry it begins; one that was moved away is
// followed by a new one that goes on.
type file struct {
	path string
	log  Entries
	f    *os.File
	next uint64
	size int64 // bytes of what is there
	// empty: there is its first line and nothing behind it.
	empty bool
	line  []byte
}

// NewFile hands on to a file, made with mode 0600, each entry a line; docs/formats/audit.md has the layout. Each node writes its own, whole.
func NewFile(name, path string, o Options) *Sink {
	return &Sink{name: name, local: true, place: &file{path: path, log: o.Entries}, o: o}
}

// begin opens the file, takes a line that was cut away, and counts what is there. A new one goes on where this process was.
func (p *file) begin(ctx context.Context) (uint64, error) {
	f, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	p.f = f
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return 0, errors.Join(fmt.Errorf("reading %s: %w", p.path, errHeader), err) // of a pipe nothing would ever come
	}
	first, lines, whole, last, err := count(f)
	if err == nil {
		err = p.check(ctx, first+lines, last, whole)
	}
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", p.path, err)
	}
	if err := f.Truncate(whole); err != nil {
		return 0, err
	}
	p.size = whole
	if whole == 0 {
		n, err := fmt.Fprintf(f, "%s %d\n", audit.LinesHeader, p.next)
		if err != nil {
			return 0, err
		}
		p.size, p.empty = int64(n), true
		return p.next, f.Sync()
	}
	p.next, p.empty = first+lines, false
	return p.next, nil
}

var (
	errHeader = errors.New("it is not a file of audit lines")
	errOther  = errors.New("it ends with an entry that is not in the log, which is another or an older copy of it: move the file away, and a new one begins with the first entry")
)

// check holds the last line, which stands in the file from last to end, against the log. A store that was restored is behind its file, and what stands there
// is not what it will have in these places.
func (p *file) check(ctx context.Context, next uint64, last, end int64) error {
	if next == 0 {
		return nil
	}
	there, err := p.log.AuditEntries(ctx, next-1, 1)
	if err != nil {
		return err
	}
	same := len(there) == 1
	if same && last > 0 {
		line := make([]byte, end-last-1)
		if _, err := p.f.ReadAt(line, last); err != nil {
			return err
		}
		same = audit.LeafHash(line) == there[0].LeafHash()
	}
	if !same {
		p.next = 0
		return errOther
	}
	return nil
}

// skip says in the file that it goes on with another entry: by a line like its first one, or by that one when nothing stands behind it.
func (p *file) skip(next uint64) error {
	if p.empty {
		if err := p.f.Truncate(0); err != nil {
			return err
		}
		p.size = 0
	}
	n, err := fmt.Fprintf(p.f, "%s %d\n", audit.LinesHeader, next)
	if err != nil {
		return err
	}
	p.next, p.size = next, p.size+int64(n)
	return p.f.Sync()
}

// count gives the first entry of a file, or of what stands behind its last gap, how many there are from there on, the bytes of its whole lines, and where the
// last of these entries begins; 0: there is none.
func count(r io.Reader) (first, lines uint64, whole, last int64, err error) {
	in := bufio.NewReaderSize(r, 256<<10)
	for {
		part, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return 0, 0, 0, 0, errHeader // longer than any entry
		case errors.Is(err, io.EOF):
			if whole == 0 && !cutHeader(string(part)) {
				return 0, 0, 0, 0, errHeader // of another kind, though it has no whole line
			}
			return first, lines, whole, last, nil // part: a line that was cut
		case err != nil:
			return 0, 0, 0, 0, err
		}
		n, header := bytes.CutPrefix(bytes.TrimSuffix(part, []byte("\n")), []byte(audit.LinesHeader+" "))
		switch begun := whole > 0; {
		case header:
			if first, err = strconv.ParseUint(string(n), 10, 63); err != nil {
				return 0, 0, 0, 0, errHeader
			}
			lines, last = 0, 0
		case begun:
			lines, last = lines+1, whole
		default:
			return 0, 0, 0, 0, errHeader
		}
		whole += int64(len(part))
	}
}

// cutHeader reports whether a first line may come of these bytes.
func cutHeader(part string) bool {
	const start = audit.LinesHeader + " "
	digits, whole := strings.CutPrefix(part, start)
	return strings.HasPrefix(start, part) || whole && strings.Trim(digits, "0123456789") == ""
}

func (p *file) write(ctx context.Context, entries []audit.Stored) error {
	if moved, err := p.moved(); err != nil {
		return err
	} else if moved {
		p.end()
		if _, err := p.begin(ctx); err != nil {
			return err
		}
		if p.next != entries[0].Index {
			return errors.New("the file has been exchanged for another") // it is begun anew, at that one's end
		}
	}
	p.empty = false
	p.line = p.line[:0]
	for _, e := range entries {
		p.line = append(append(p.line, e.Leaf...), '\n')
	}
	if _, err := p.f.Write(p.line); err != nil {
		return err
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	p.next, p.size = p.next+uint64(len(entries)), p.size+int64(len(p.line))
	return nil
}

// moved reports whether the path is another file by now, or none, or was cut where it is: what was its first line may be gone.
func (p *file) moved() (bool, error) {
	there, err := os.Stat(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	mine, err := p.f.Stat()
	return err == nil && (!os.SameFile(there, mine) || mine.Size() < p.size), err
}

func (p *file) saved(context.Context, uint64) error { return nil } // the file says it itself

func (p *file) end() {
	if p.f != nil {
		_ = p.f.Close() // what was written is synced; what was not is written again
		p.f = nil
	}
}
