package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Result says what a verified export holds.
type Result struct {
	Checkpoint            // the export's own, whose tree the entries are
	Kept        uint64    // size of the checkpoint kept from before that the export was compared with; 0 when none was
	Pruned      uint64    // so many entries, the first ones, are there as their hashes alone, and the log itself tells that they were pruned
	First, Last time.Time // of the first and the last entry that is there
}

// BadExport tells where an export fails. First and Last are the entries among which the damage lies, as near as the export
// can tell: one entry when it is not the one that was recorded, the 256 of a block when the line of their hashes is damaged.
type BadExport struct {
	Line        uint64 // of the file, from 1
	First, Last uint64 // Last ≥ First; both 0 when the damage is before the entries
	Reason      string
	entries     bool // the damage is among the entries: 0 is one, too
}

func (e *BadExport) Error() string {
	switch {
	case e.Last > e.First:
		return fmt.Sprintf("line %d: entries %d to %d: %s", e.Line, e.First, e.Last, e.Reason)
	case e.entries || e.First > 0:
		return fmt.Sprintf("line %d: entry %d: %s", e.Line, e.First, e.Reason)
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
}

// VerifyExport reads an export and proves that it is the log that the holder of the key has signed: nothing dropped,
// changed, reordered or added. It trusts the verifier key alone (VerifierKey's form), which must come from elsewhere than
// the export.
//
// A checkpoint kept from before, when not nil, must be signed by the same key and the export must contain its tree: this
// proves that the log has not been rewritten since, which a signature of today cannot. Its size may be anything up to the
// export's.
//
// The error is a *BadExport for an export that fails, wraps ErrCheckpoint for a checkpoint or key that does, and is r's own
// otherwise. progress, when not nil, is called after each 256 entries. The memory is constant.
func VerifyExport(r io.Reader, checkpoint []byte, verifierKey string, progress func(n uint64)) (Result, error) {
	v := verifier{in: bufio.NewReaderSize(r, MaxLeaf+2), progress: progress}
	if len(checkpoint) > 0 {
		kept, err := OpenCheckpoint(checkpoint, verifierKey)
		if err != nil {
			return Result{}, fmt.Errorf("the checkpoint kept from before: %w", err)
		}
		v.kept = &kept
	}
	if err := v.header(verifierKey); err != nil {
		return Result{}, err
	}
	if v.kept != nil {
		switch {
		case v.kept.Origin != v.Origin:
			return Result{}, v.bad("the export is of another log than the checkpoint kept from before")
		case v.kept.Size > v.Size:
			return Result{}, v.bad(fmt.Sprintf("the export ends after %d entries, the checkpoint kept from before after %d", v.Size, v.kept.Size))
		}
		v.Kept = v.kept.Size
	}
	if err := v.compareKept(); err != nil {
		return Result{}, err
	}
	block := v.block
	if v.version == 1 {
		block = v.blockV1
	}
	for v.read < v.Size {
		if err := block(); err != nil {
			return Result{}, err
		}
		if v.progress != nil {
			v.progress(v.read)
		}
	}
	if _, err := v.in.ReadByte(); !errors.Is(err, io.EOF) {
		if err != nil {
			return Result{}, fmt.Errorf("reading the export: %w", err)
		}
		v.line++
		return Result{}, v.bad("there is more than the entries of the checkpoint")
	}
	// Each block was proven in its place; that all of them together give the root is the same statement once more,
	// by other code.
	if v.head.Root() != v.Root {
		return Result{}, v.bad("the entries are not those of the checkpoint")
	}
	if v.told < v.Pruned {
		v.line = v.lineOf(v.told)
		return Result{}, v.badEntry(v.told, v.Pruned-1, "not there, and the log does not tell that they were pruned")
	}
	return v.Result, nil
}

type verifier struct {
	Result
	in       *bufio.Reader
	progress func(n uint64)
	kept     *Checkpoint
	version  int
	line     uint64 // number of the line read last
	start    uint64 // number of the first line behind the checkpoint
	read     uint64 // entries
	head     Head   // of the entries read; of version 2: of their blocks
	buf      []byte // 0x00 ‖ leaf
	hashes   []tlog.Hash
	proof    tlog.RecordProof
	raw      []byte
	block256 Head   // of the block
	told     uint64 // so many entries are pruned, as the log says
}

func (v *verifier) bad(reason string) error { return &BadExport{Line: v.line, Reason: reason} }

func (v *verifier) badEntry(first, last uint64, reason string) *BadExport {
	return &BadExport{Line: v.line, First: first, Last: last, Reason: reason, entries: true}
}

var errLongLine = errors.New("longer than an entry can be")

// next reads a line and gives it without its end, valid until the next call. It gives io.ErrUnexpectedEOF when the export
// ends here, in the middle of a line or before it.
func (v *verifier) next() ([]byte, error) {
	v.line++
	b, err := v.in.ReadSlice('\n')
	switch {
	case err == nil:
		return b[:len(b)-1], nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errLongLine
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("reading the export: %w", err)
}

// header reads up to the first entry and verifies the export's checkpoint.
func (v *verifier) header(verifierKey string) error {
	line, err := v.next()
	switch {
	case err == nil && string(line) == exportHeader:
		v.version = 2
	case err == nil && string(line) == exportHeaderV1:
		v.version = 1
	default:
		return v.headerError(err, "not an audit export of a known version")
	}
	var signed []byte
	for blank := 0; blank < 2; {
		if line, err = v.next(); err != nil {
			return v.headerError(err, "the export ends inside its checkpoint")
		}
		if len(signed) > 1<<16 {
			return v.bad("the checkpoint is too long")
		}
		if len(line) == 0 {
			if blank++; blank == 2 {
				break
			}
		}
		signed = append(append(signed, line...), '\n')
	}
	c, err := OpenCheckpoint(signed, verifierKey)
	if err != nil {
		return fmt.Errorf("the export's checkpoint: %w", err)
	}
	v.Checkpoint = c
	v.head.Range = make([][32]byte, 0, 64)
	v.block256.Range = make([][32]byte, 0, NodeLevel+1)
	v.start = v.line + 1
	return nil
}

func (v *verifier) headerError(err error, reason string) error {
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errLongLine) {
		return v.bad(reason)
	}
	return err
}

// block reads the line of a block's hashes and proves it against the checkpoint, then up to 256 entries, each of which has to be the one
// that is hashed there.
func (v *verifier) block() error {
	first := v.read
	n := min(tile, v.Size-first)
	last := first + n - 1
	line, err := v.next()
	switch {
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errLongLine):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return v.badEntry(first, last, "missing: the export ends here")
	case err != nil || len(line) == 0 || line[0] != blockMark:
		return v.badEntry(first, last, "the line of the hashes of these is missing, or there is a line more than there are entries before them")
	case !v.parseBlockLine(line, first/tile, int(n)):
		return v.badEntry(first, last, "the line of the hashes of these is malformed or of another block")
	}
	root := v.begin(v.hashes)
	if !v.proven(first, root) {
		return v.unproven(first, n)
	}
	if v.kept != nil && first < v.kept.Size && v.kept.Size <= last+1 {
		v.begin(v.hashes[:v.kept.Size-first])
		if err := v.compareKept(); err != nil {
			return err
		}
	}
	for i := range n {
		if err := v.entry(first+i, i); err != nil {
			return err
		}
	}
	v.head.add(root, nil)
	v.read += n
	return nil
}

// begin makes the tree of the block's first entries.
func (v *verifier) begin(hashes []tlog.Hash) (root [32]byte) {
	v.block256 = Head{Range: v.block256.Range[:0]}
	for _, h := range hashes {
		v.block256.add(h, nil)
	}
	return v.block256.Root()
}

// proven reports whether the block that begins with the entry has this hash in the checkpoint's tree.
func (v *verifier) proven(first uint64, root [32]byte) bool {
	return tlog.CheckRecord(v.proof, int64(blockCount(v.Size)), v.Root, int64(first/tile), root) == nil
}

// unproven says what can be known when the line of hashes is not proven: whether its damage is all there is, or the entries have some too.
func (v *verifier) unproven(first, n uint64) error {
	bad := v.badEntry(first, first+n-1, "the line of the hashes of these is not proven by the checkpoint")
	v.block256 = Head{Range: v.block256.Range[:0]}
	for i := range n {
		line, err := v.next()
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errLongLine):
			return bad
		case err != nil:
			return err
		case string(line) == prunedLine:
			v.block256.add(v.hashes[i], nil)
		default:
			v.block256.add(v.leafHash(line), nil)
		}
	}
	if v.proven(first, v.block256.Root()) {
		bad.Reason = "the line of the hashes of these is damaged; the entries themselves are those that were recorded"
	}
	return bad
}

func (v *verifier) leafHash(line []byte) tlog.Hash {
	v.buf = append(append(v.buf[:0], 0), line...)
	return hashPrefixed(v.buf)
}

// entry reads one entry, the i-th of its block, whose hashes are proven.
func (v *verifier) entry(index, i uint64) error {
	line, err := v.next()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return v.badEntry(index, index, "missing: the export ends here")
	case errors.Is(err, errLongLine):
		return v.badEntry(index, index, errLongLine.Error())
	case err != nil:
		return err
	case string(line) == prunedLine:
		if v.Pruned != index {
			return v.badEntry(index, index, "not there, though one before it is: entries are pruned from the first on")
		}
		v.Pruned++
		return nil
	}
	h := v.leafHash(line)
	if h != v.hashes[i] {
		reason := "not the one that was recorded"
		if len(line) > 0 && line[0] == blockMark || int(i)+1 < len(v.hashes) && h == v.hashes[i+1] {
			reason = "missing: what comes behind it stands in its place"
		}
		return v.badEntry(index, index, reason)
	}
	var raw rawEntry
	if err := raw.parse(line); err != nil {
		return v.badEntry(index, index, err.Error())
	}
	if index == v.Pruned {
		v.First = raw.Time
	}
	v.Last = raw.Time
	if told, ok := raw.prunes(); ok && told <= index {
		v.told = max(v.told, told)
	}
	return nil
}

// lineOf gives the line of an entry.
func (v *verifier) lineOf(index uint64) uint64 { return v.start + index + index/tile + 1 }

// parseBlockLine reads the line into v.hashes and v.proof; it must be the one form that there is for this number.
func (v *verifier) parseBlockLine(line []byte, number uint64, n int) bool {
	v.hashes, v.proof = v.hashes[:0], v.proof[:0]
	rest, ok := bytes.CutPrefix(line, blockStart(number))
	size := 1 + base64.StdEncoding.EncodedLen(n*tlog.HashSize)
	if !ok || len(rest) < size || rest[0] != ' ' {
		return false
	}
	if v.hashes, ok = v.decode(v.hashes, rest[1:size]); !ok || len(v.hashes) != n {
		return false
	}
	if rest = rest[size:]; len(rest) == 0 {
		return true
	}
	if rest[0] != ' ' || len(rest) > 1+base64.StdEncoding.EncodedLen(64*tlog.HashSize) {
		return false
	}
	v.proof, ok = v.decode(v.proof, rest[1:])
	return ok
}

// decode reads hashes, at least one.
func (v *verifier) decode(out []tlog.Hash, text []byte) ([]tlog.Hash, bool) {
	var err error
	v.raw, err = base64.StdEncoding.Strict().AppendDecode(v.raw[:0], text)
	// A decoder that passes over line ends would let two forms through; there can be no \n here, and \r is refused.
	if err != nil || len(v.raw) == 0 || len(v.raw)%tlog.HashSize != 0 || bytes.IndexByte(text, '\r') >= 0 {
		return out, false
	}
	for b := v.raw; len(b) > 0; b = b[tlog.HashSize:] {
		out = append(out, tlog.Hash(b[:tlog.HashSize]))
	}
	return out, true
}

// compareKept compares the tree with the checkpoint kept from before when it has come to its size: the blocks read and, of version 2, what
// there is of the next.
func (v *verifier) compareKept() error {
	if v.kept == nil || v.kept.Size != v.at() || v.rootSoFar() == v.kept.Root {
		return nil
	}
	return v.badEntry(0, max(v.kept.Size, 1)-1, "these are not the entries that the checkpoint kept from before was signed over: the log was rewritten")
}

func (v *verifier) at() uint64 { return v.read + v.block256.Size }

// rootSoFar puts the blocks read and the begun one together: RFC 6962 splits a tree at powers of two, so the one is the left part.
func (v *verifier) rootSoFar() [32]byte {
	if v.block256.Size == 0 {
		return v.head.Root()
	}
	root := v.block256.Root()
	for i := len(v.head.Range) - 1; i >= 0; i-- {
		root = nodeHash(v.head.Range[i], root)
	}
	return root
}
