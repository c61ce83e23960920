package cursor

import (
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

func FuzzParse(f *testing.F) {
	for _, c := range []string{"", "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAQ", "AAAAAAAAAAAAAAAAAAAAAR", "AAAAAAAAAAA\rAAAAAAAAAAQ", "AAAAAAAAAAAAAAAAAAAAAQ==", "x",
		Behind(uuid.MustParse("01a20538-5ae6-785d-be72-c11a41969f6d"))} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, c string) {
		id, err := Parse(c)
		switch {
		case err != nil && !fault.Has(err, fault.BadCursor):
			t.Error(err)
		case err == nil && (id == uuid.Nil) != (c == ""), err == nil && c != "" && Behind(id) != c:
			t.Errorf("%q is taken for %s", c, id)
		}
	})
}

func TestParse(t *testing.T) {
	id := uuid.New()
	if got, err := Parse(Behind(id)); err != nil || got != id {
		t.Errorf("%s %v, want %s", got, err, id)
	}
	for _, c := range []string{"AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAR", "AAAAAAAAAAA\rAAAAAAAAAAQ", "AAAAAAAAAAAAAAAAAAAAAQ==", "AAAA"} {
		if _, err := Parse(c); !fault.Has(err, fault.BadCursor) {
			t.Errorf("%q: %v", c, err)
		}
	}
}
