package remote

import (
	"errors"
	"time"
)

const (
	leastOpening = 2 * time.Second  // that opening a token anew may take
	mostPatience = 10 * time.Second // of a grace that was doubled
	mostSlowness = 4 * time.Second  // of an opening that counts for the grace
)

// tempo is how quick the token is in one child's place, so that one that is slow today is not taken for one that hangs. Nothing in it is for
// several goroutines.
type tempo struct {
	usual   time.Duration // of an opening; 0: there was none
	slower  int           // openings in a row that took too long
	strikes int           // children in a row that were killed before they had done anything
}

// openingLimit is what the next opening may take.
func (t *tempo) openingLimit(most time.Duration) time.Duration {
	if t.usual == 0 {
		return most
	}
	return min(max(3*t.usual, leastOpening)<<min(t.slower, 5), most)
}

func (t *tempo) notOpened(err error) {
	if errors.Is(err, errSlowOpening) {
		t.slower++
	}
}

// opened gives a child that has opened the token its times. Nobody else has it yet.
func (t *tempo) opened(l *link, took, most time.Duration) {
	t.slower = 0
	if t.usual == 0 {
		t.usual = took
	}
	t.usual = (t.usual + took) / 2
	patience := min(max(l.grace, min(took, mostSlowness))<<min(t.strikes, 6), max(mostPatience, l.grace))
	l.patience.Store(int64(patience))
	l.openTime.Store(int64(t.openingLimit(most)))
}

// ended notes how a child has ended.
func (t *tempo) ended(l *link) {
	switch {
	case !errors.Is(l.why(), errHung) || l.good.Load() > 0:
		t.strikes = 0
	default:
		t.strikes++
	}
}
