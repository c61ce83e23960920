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
	First, Last time.Time // of the first and the last entry
}

// BadExport tells where an export fails. First and Last are the entries among which the damage lies, as near as the export
// can tell: one entry when it does not parse, the 256 of a block when they do not give its hash.
type BadExport struct {
	Line        uint64 // of the file, from 1
	First, Last uint64 // Last ≥ First; both 0 when the damage is before the entries
	Reason      string
}

func (e *BadExport) Error() string {
	switch {
	case e.Last > e.First:
		return fmt.Sprintf("line %d: entries %d to %d: %s", e.Line, e.First, e.Last, e.Reason)
	case e.First > 0 || e.Last > 0:
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
	for v.head.Size < v.Size {
		if err := v.block(); err != nil {
			return Result{}, err
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
	return v.Result, nil
}

type verifier struct {
	Result
	in       *bufio.Reader
	progress func(n uint64)
	kept     *Checkpoint
	line     uint64 // number of the line read last
	head     Head   // of the entries read
	buf      []byte // 0x00 ‖ leaf
	proof    tlog.RecordProof
	raw      []byte
}

func (v *verifier) bad(reason string) error { return &BadExport{Line: v.line, Reason: reason} }

func (v *verifier) badEntry(first, last uint64, reason string) error {
	return &BadExport{Line: v.line, First: first, Last: last, Reason: reason}
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
	if err != nil || string(line) != exportHeader {
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
	return nil
}

func (v *verifier) headerError(err error, reason string) error {
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errLongLine) {
		return v.bad(reason)
	}
	return err
}

// block reads up to 256 entries and the line that proves them.
func (v *verifier) block() error {
	first := v.head.Size
	n := min(tile, v.Size-first)
	block := Head{Range: make([][32]byte, 0, NodeLevel+1)}
	for i := range n {
		if err := v.entry(first+i, &block); err != nil {
			return err
		}
	}
	last := first + n - 1
	line, err := v.next()
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errLongLine) {
		return err
	}
	if err != nil || len(line) == 0 || line[0] != blockMark {
		return v.badEntry(first, last, "the line that ends this block is missing: an entry was added, or the export was cut")
	}
	if !v.parseBlockLine(line, first/tile) {
		return v.badEntry(first, last, "the line that ends this block is malformed or of another block")
	}
	if tlog.CheckRecord(v.proof, int64(blockCount(v.Size)), v.Root, int64(first/tile), block.Root()) != nil {
		return v.badEntry(first, last, "an entry among these, or the line that ends them, is not what was recorded")
	}
	if v.progress != nil {
		v.progress(v.head.Size)
	}
	return nil
}

// entry reads one entry into the tree and into that of its block.
func (v *verifier) entry(index uint64, block *Head) error {
	line, err := v.next()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return v.badEntry(index, index, "missing: the export ends here")
	case errors.Is(err, errLongLine):
		return v.badEntry(index, index, errLongLine.Error())
	case err != nil:
		return err
	case len(line) > 0 && line[0] == blockMark:
		return v.badEntry(index/tile*tile, index, "an entry is missing from this block")
	}
	var raw rawEntry
	if err := raw.parse(line); err != nil {
		return v.badEntry(index, index, err.Error())
	}
	if index == 0 {
		v.First = raw.Time
	}
	v.Last = raw.Time
	v.buf = append(append(v.buf[:0], 0), line...)
	h := hashPrefixed(v.buf)
	block.add(h, nil)
	v.head.add(h, nil)
	return v.compareKept()
}

// compareKept compares the tree with the checkpoint kept from before when it has come to its size.
func (v *verifier) compareKept() error {
	if v.kept == nil || v.kept.Size != v.head.Size || v.head.Root() == v.kept.Root {
		return nil
	}
	last := v.head.Size
	if last > 0 {
		last--
	}
	return v.badEntry(0, last, "these are not the entries that the checkpoint kept from before was signed over: the log was rewritten")
}

// parseBlockLine reads the line into v.proof; it must be the one that blockLine writes for this number.
func (v *verifier) parseBlockLine(line []byte, number uint64) bool {
	v.proof = v.proof[:0]
	bare := blockLine(number, nil)
	rest, ok := bytes.CutPrefix(line, bare[:len(bare)-1])
	if !ok {
		return false
	}
	if len(rest) == 0 {
		return true
	}
	if rest[0] != ' ' || len(rest) > 1+base64.StdEncoding.EncodedLen(64*tlog.HashSize) {
		return false
	}
	var err error
	v.raw, err = base64.StdEncoding.Strict().AppendDecode(v.raw[:0], rest[1:])
	// A decoder that passes over line ends would let two forms through; there can be no \n here, and \r is refused.
	if err != nil || len(v.raw) == 0 || len(v.raw)%tlog.HashSize != 0 || bytes.IndexByte(rest, '\r') >= 0 {
		return false
	}
	for b := v.raw; len(b) > 0; b = b[tlog.HashSize:] {
		v.proof = append(v.proof, tlog.Hash(b[:tlog.HashSize]))
	}
	return true
}
