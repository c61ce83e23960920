package token

import (
	"testing"

	"github.com/keywright/keywright/backend"
)

// TestListSearchesOnce: a list goes through the token a few times, not once for each key, which takes minutes with thousands.
func TestListSearchesOnce(t *testing.T) {
	b := breakable(t)
	const n = 20
	want := map[ID]bool{}
	for range n {
		o, err := b.Generate(t.Context(), newID(), backend.ECDSAP256, backend.PurposeSigning, false)
		if err != nil {
			t.Fatal(err)
		}
		want[o.ID] = true
	}
	b.DropSessions(t) // a new generation knows no handles
	b.recovers(t)
	b.ResetCounts(t)
	list, err := b.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		if want[o.ID] && len(o.Public) == 0 {
			t.Errorf("%x has no public key", o.ID)
		}
		delete(want, o.ID)
	}
	if len(want) > 0 {
		t.Errorf("%d keys are not in the list", len(want))
	}
	if searches := b.Count(t, "C_FindObjectsInit"); searches > 3*len(labels)+2 {
		t.Errorf("%d searches for %d keys", searches, len(list))
	}
}
