package sink

import (
	"bytes"
	"testing"

	"github.com/keywright/keywright/audit"
)

// FuzzCount: whatever a file holds, what is counted are its whole lines, and nothing is taken for a file of lines that does not begin as one.
func FuzzCount(f *testing.F) {
	for _, s := range []string{"", "\n", audit.LinesHeader + " 0\n", audit.LinesHeader + " 7\na\nb\nc", audit.LinesHeader + " -1\n", audit.LinesHeader + " 0", "x\ny\n", audit.LinesHeader + " 0 \n",
		audit.LinesHeader + " 0\na\n" + audit.LinesHeader + " 9\nb\nc\n", audit.LinesHeader + " 0\n" + audit.LinesHeader + " x\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, lines, whole, last, err := count(bytes.NewReader(b))
		if err != nil {
			return
		}
		// What is counted stands behind the last line that says where the file goes on.
		behind := uint64(0)
		for line := range bytes.Lines(b[:whole]) {
			if behind++; bytes.HasPrefix(line, []byte(audit.LinesHeader+" ")) {
				behind = 0
			}
		}
		if lines > 0 != (last > 0) || last > 0 && bytes.IndexByte(b[last:], '\n') != int(whole-last)-1 {
			t.Errorf("the last of %d lines in %d bytes of %q begins at %d", lines, whole, b, last)
		}
		if whole != int64(bytes.LastIndexByte(b, '\n')+1) || lines != behind || whole > 0 && !bytes.HasPrefix(b, []byte(audit.LinesHeader+" ")) || whole == 0 && first != 0 {
			t.Errorf("%d from %d in %d bytes of %q", lines, first, whole, b)
		}
	})
}
