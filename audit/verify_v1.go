package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// Exports of version 1: entries as they are, and behind each 256 of them one line that proves the hash over all of them. They are read
// still; damage inside an entry that parses is known as its block's alone.

// blockV1 reads up to 256 entries and the line that proves them.
func (v *verifier) blockV1() error {
	first := v.read
	n := min(tile, v.Size-first)
	block := Head{Range: make([][32]byte, 0, NodeLevel+1)}
	for i := range n {
		if err := v.entryV1(first+i, &block); err != nil {
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
	if !v.parseBlockLineV1(line, first/tile) {
		return v.badEntry(first, last, "the line that ends this block is malformed or of another block")
	}
	if tlog.CheckRecord(v.proof, int64(blockCount(v.Size)), v.Root, int64(first/tile), block.Root()) != nil {
		return v.badEntry(first, last, "an entry among these, or the line that ends them, is not what was recorded")
	}
	return nil
}

// entryV1 reads one entry into the tree and into that of its block.
func (v *verifier) entryV1(index uint64, block *Head) error {
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
	v.read++
	return v.compareKept()
}

// parseBlockLineV1 reads the line into v.proof; it must be the one form that there is for this number.
func (v *verifier) parseBlockLineV1(line []byte, number uint64) bool {
	v.proof = v.proof[:0]
	rest, ok := bytes.CutPrefix(line, blockStart(number))
	if !ok {
		return false
	}
	if len(rest) == 0 {
		return true
	}
	if rest[0] != ' ' || len(rest) > 1+base64.StdEncoding.EncodedLen(64*tlog.HashSize) {
		return false
	}
	v.proof, ok = v.decode(v.proof, rest[1:])
	return ok
}
