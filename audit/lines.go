package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// LinesHeader begins a file of audit lines: it is followed by a blank and the index of the first entry.
const LinesHeader = "keywright-audit-lines/v1"

// VerifyLines reads a file of audit lines, from the first entry of the log on, and proves that they are the log that the checkpoint is of: nothing
// dropped, changed, reordered or added up to the checkpoint's size. What stands behind it is read, and counted in Size, but proven by a later
// checkpoint only. It trusts the verifier key alone. The errors are as those of VerifyExport.
func VerifyLines(r io.Reader, checkpoint []byte, verifierKey string) (Result, uint64, error) {
	kept, err := OpenCheckpoint(checkpoint, verifierKey)
	if err != nil {
		return Result{}, 0, fmt.Errorf("the checkpoint: %w", err)
	}
	v := verifier{in: bufio.NewReaderSize(r, MaxLeaf+2)}
	line, err := v.next()
	n, found := beginning(line)
	switch {
	case err != nil || !found:
		return Result{}, 0, v.headerError(err, "not a file of audit lines that begins with the first entry")
	case n != 0:
		return Result{}, 0, v.bad(fmt.Sprintf("the file begins with entry %d: it is proven together with those before it, which stand in the file before or were pruned", n))
	}
	result := Result{Checkpoint: kept, Kept: kept.Size}
	head := Head{}
	for {
		if head.Size == kept.Size && head.Root() != kept.Root {
			return Result{}, 0, v.badEntry(0, max(kept.Size, 1)-1, "the entries are not those of the checkpoint")
		}
		line, err := v.next()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break // the end, or a line that is being written
		}
		if errors.Is(err, errLongLine) {
			return Result{}, 0, v.badEntry(head.Size, head.Size, err.Error())
		}
		if err != nil {
			return Result{}, 0, err
		}
		if n, found := beginning(line); found && n > head.Size {
			return Result{}, 0, v.badEntry(head.Size, n-1, "missing: they were pruned before this file has taken them")
		}
		e, err := ParseLeaf(line)
		if err != nil {
			return Result{}, 0, v.badEntry(head.Size, head.Size, err.Error())
		}
		if head.Size == 0 {
			result.First = e.Time
		}
		if head.Size < kept.Size {
			result.Last = e.Time
		}
		head.add(LeafHash(line), nil)
	}
	if head.Size < kept.Size {
		return Result{}, 0, v.badEntry(head.Size, head.Size, fmt.Sprintf("missing: the file ends here, and the checkpoint is of %d entries", kept.Size))
	}
	return result, head.Size, nil
}

// beginning reads the line with which a file begins, or goes on behind a gap.
func beginning(line []byte) (first uint64, ok bool) {
	text, ok := strings.CutPrefix(string(line), LinesHeader+" ")
	if !ok {
		return 0, false
	}
	first, err := strconv.ParseUint(text, 10, 63)
	return first, err == nil
}
