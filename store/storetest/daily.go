package storetest

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// testDays: the operations of a tenant's day are counted up to what it may carry out, and each day begins anew.
func testDays(t *testing.T, e *env) {
	tenant, other := uuid.New(), uuid.New()
	reserve := func(tenant uuid.UUID, day, n, most int64) error {
		t.Helper()
		return e.do(t, e.ReserveOperations(keys.DailyReservation{Tenant: tenant, Day: day, N: n, Max: most}))
	}
	wantFault(t, "more than all at first", reserve(tenant, 100, 11, 10), fault.DailyLimit)
	wantFault(t, "some", reserve(tenant, 100, 7, 10), "")
	wantFault(t, "too many", reserve(tenant, 100, 4, 10), fault.DailyLimit)
	wantFault(t, "the rest", reserve(tenant, 100, 3, 10), "")
	e.reopen(t)
	wantFault(t, "one more", reserve(tenant, 100, 1, 10), fault.DailyLimit)
	wantFault(t, "one more of a larger plan", reserve(tenant, 100, 1, 11), "")
	wantFault(t, "another tenant's", reserve(other, 100, 10, 10), "")
	wantFault(t, "of the day before, when the day has come", reserve(tenant, 99, 1, 11), fault.DailyLimit)
	taken := func(tenant uuid.UUID, day int64) int64 {
		t.Helper()
		u, err := e.Usage(t.Context(), tenant, time.Unix(day*24*60*60+5, 0))
		if err != nil {
			t.Fatal(err)
		}
		return u.Operations
	}
	if a, b, c, d := taken(tenant, 99), taken(tenant, 100), taken(tenant, 101), taken(uuid.New(), 100); a != 0 || b != 11 || c != 0 || d != 0 {
		t.Errorf("taken of the day before, this day, the next, and of another tenant: %d, %d, %d, %d", a, b, c, d)
	}
	wantFault(t, "the next day", reserve(tenant, 101, 10, 10), "")
	wantFault(t, "which is over, too", reserve(tenant, 101, 1, 10), fault.DailyLimit)
	wantFault(t, "when the clock is right again", reserve(tenant, 50, 10, 10), "")
	wantFault(t, "and that day is over", reserve(tenant, 50, 1, 10), fault.DailyLimit)
	wantFault(t, "no limit to speak of", reserve(tenant, 102, 1, math.MaxInt64), "")
	wantFault(t, "none", reserve(tenant, 102, 0, 10), fault.Internal)
	wantFault(t, "taken back", reserve(tenant, 102, -1, 10), fault.Internal)
	// In one commit, each by itself: the one that is too much takes only its own item with it.
	change := func(n int64) audit.Change {
		return e.ReserveOperations(keys.DailyReservation{Tenant: other, Day: 103, N: n, Max: 10})
	}
	batch := []*audit.Item{Item(change(6)), Item(change(6)), Item(change(4)), Item(change(1))}
	if err := e.Commit(t.Context(), batch, Extend); err != nil {
		t.Fatal(err)
	}
	for i, code := range []fault.Code{"", fault.DailyLimit, "", fault.DailyLimit} {
		wantFault(t, "in one commit", batch[i].Err, code)
	}
}
