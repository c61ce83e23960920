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
	first, found := strings.CutPrefix(string(line), LinesHeader+" ")
	if n, bad := strconv.ParseUint(first, 10, 63); err != nil || !found || bad != nil || n != 0 {
		return Result{}, 0, v.headerError(err, "not a file of audit lines that begins with the first entry")
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
		if err != nil {
			return Result{}, 0, v.badEntry(head.Size, head.Size, "longer than an entry can be")
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
