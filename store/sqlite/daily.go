package sqlite

import (
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// reserveOperations is a Change.
type reserveOperations struct {
	prepared
	r keys.DailyReservation
}

// ReserveOperations sets aside operations of a tenant's day; see keys.Store.
func (s *Store) ReserveOperations(r keys.DailyReservation) audit.Change {
	return &reserveOperations{r: r}
}

func (c *reserveOperations) apply(w *writer) error {
	r := &c.r
	if r.N <= 0 {
		return fault.New(fault.Internal, "operations are not taken back")
	}
	over := fault.New(fault.DailyLimit, "the tenant has carried out as many operations today as its plan allows")
	if r.N > r.Max {
		return over
	}
	n, err := w.exec(sqlReserveOperations, r.Tenant[:], r.Day, r.N, r.Max)
	if err == nil && n == 0 {
		return over
	}
	return err
}

// A node whose clock is a little behind the others' counts on their day. A day further ahead is of a clock that was wrong, and would be the tenant's last.
const sqlReserveOperations = `INSERT INTO tenant_operations (tenant, day, taken) VALUES (?1, ?2, ?3) ON CONFLICT (tenant) DO UPDATE SET
	taken = CASE WHEN tenant_operations.day IN (excluded.day, excluded.day + 1) THEN tenant_operations.taken + excluded.taken ELSE excluded.taken END,
	day = CASE WHEN tenant_operations.day IN (excluded.day, excluded.day + 1) THEN tenant_operations.day ELSE excluded.day END
	WHERE tenant_operations.day NOT IN (excluded.day, excluded.day + 1) OR tenant_operations.taken <= ?4 - excluded.taken`
