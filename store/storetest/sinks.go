package storetest

import (
	"testing"
	"time"

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
	if err := e.SaveSinkCursor(t.Context(), "file/node", 3); err != nil {
		t.Fatal(err)
	}
	all, err := e.SinkCursors(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "file/node" || all[0].Next != 3 || all[1].Name != "syslog" || all[1].Next != 9 {
		t.Errorf("all cursors: %+v, %v", all, err)
	}
	for _, c := range all {
		if age := time.Since(c.SaidAt); age < -time.Minute || age > time.Minute {
			t.Errorf("%s was said at %v", c.Name, c.SaidAt)
		}
	}
	wantSame(t, "entries", e.size(t), size)
}
