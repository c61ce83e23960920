package storetest

import (
	"testing"

	"github.com/keywright/keywright/fault"
)

func testSinkCursors(t *testing.T, e *env) {
	want := func(name string, n uint64) {
		t.Helper()
		got, err := e.SinkCursor(t.Context(), name)
		wantFault(t, name, err, fault.Code(""))
		wantSame(t, name, got, n)
	}
	size := e.size(t)
	want("syslog", 0)
	for _, n := range []uint64{5, 9, 7} { // what is behind moves nothing back
		if err := e.SaveSinkCursor(t.Context(), "syslog", n); err != nil {
			t.Fatal(err)
		}
	}
	e.reopen(t)
	want("syslog", 9)
	want("other", 0)
	wantSame(t, "entries", e.size(t), size)
}
