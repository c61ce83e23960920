package keys

import (
	"sync"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// DailyReservation sets aside operations of a tenant on a day.
type DailyReservation struct {
	Tenant uuid.UUID
	Day    int64 // see auth.DayOf
	N      int64 // how many; positive, and at most Max
	Max    int64 // that the tenant may carry out on a day
}

const maxDaily = 1 << 14 // tenants whose tallies are kept

// days has the tallies of the tenants' operations of today on this node. Blocks of them are set aside by the commits of operations, as uses of key versions are: see
// tally. What is forgotten, or in hand when the process ends, was counted.
type days struct {
	mu  sync.Mutex // guards both
	day int64
	of  map[daily]*tally
}

// daily is what a tally is of: what was set aside under one plan is not good under a smaller one.
type daily struct {
	tenant uuid.UUID
	most   int64
}

func (d *days) tally(of daily, day int64) *tally {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == nil || d.day != day {
		d.day, d.of = day, map[daily]*tally{}
	}
	t := d.of[of]
	if t == nil {
		for old := range d.of {
			if len(d.of) < maxDaily {
				break
			}
			delete(d.of, old) // whichever comes first
		}
		t = &tally{}
		d.of[of] = t
	}
	return t
}

// countDaily takes operations of the tenant's day, just before they are carried out. What is not in hand becomes a change of the request's record.
func (q *request) countDaily(items int) error {
	s := q.s
	most := s.daily(q.caller.Principal.Plan)
	if most <= 0 {
		return nil
	}
	day, l := auth.DayOf(s.now()), limits{max: amount{messages: most}}
	q.day = s.days.tally(daily{q.tenant(), most}, day)
	if err := q.day.take(&q.daily, amount{messages: int64(items)}, &l, q.exactDay); err != nil {
		return s.dayIsOver()
	}
	if q.daily.asks() {
		q.changes = append(q.changes, s.store.ReserveOperations(DailyReservation{Tenant: q.tenant(), Day: day, N: q.daily.ask.messages, Max: most}))
	}
	return nil
}

// fewerToday is the answer to a day's limit that operations were refused for: the operation begins again when it had asked for more than it needs; else the day is
// over, and this node knows it from now on.
func (q *request) fewerToday() error {
	over := q.s.dayIsOver()
	if q.daily.extra() && !q.exactDay {
		q.exactDay = true
		return again{over}
	}
	if q.daily.ask.messages == 1 { // what is left may be enough for fewer items
		most := q.s.daily(q.caller.Principal.Plan)
		q.day.learn(amount{messages: most}, &limits{}) // q.day may be over by now, and another have begun
	}
	return over
}

func (s *Service) dayIsOver() error {
	now := s.now()
	return fault.New(fault.DailyLimit, "the tenant's plan does not allow so many more operations today").RetryAfter(auth.DayEnd(now).Sub(now))
}
