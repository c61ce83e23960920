package audit

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// patience is what a record of these tests has, if it has any.
const patience = 2 * time.Millisecond

// took records and gives how long that took, by the clock of the bubble: nothing but waiting takes time.
func took(t *testing.T, l *Log, p time.Duration) time.Duration {
	start := time.Now()
	if _, err := l.Record(context.Background(), &Entry{Outcome: "ok", Patience: p}); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

// arrive records with patience every 100 microseconds, n times, and gives what each took, the slowest last.
func arrive(t *testing.T, l *Log, n int) []time.Duration {
	all := make(chan time.Duration, n)
	for range n {
		go func() { all <- took(t, l, patience) }()
		time.Sleep(100 * time.Microsecond)
	}
	var each []time.Duration
	for range n {
		each = append(each, <-all)
	}
	slices.Sort(each)
	return each
}

// Records that may wait share transactions with those that come right behind, and wait no longer than they may.
func TestPatienceGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		l := openLog(t, s, Options{})
		const n = 200
		if each := arrive(t, l, n); each[n-1] > patience {
			t.Errorf("a record with a patience of %v took %v", patience, each[n-1])
		}
		if len(s.leaves) != n || len(s.batches) > n/10 {
			t.Errorf("%d records in %d transactions", len(s.leaves), len(s.batches))
		}
	})
}

// One without patience takes all that wait along, at once.
func TestPatienceIsNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		l := openLog(t, s, Options{})
		arrive(t, l, 200)
		for range 3 {
			go took(t, l, patience)
		}
		synctest.Wait()
		before := len(s.batches)
		if d := took(t, l, 0); d != 0 {
			t.Errorf("a record without patience took %v", d)
		}
		if len(s.batches) != before+1 || s.batches[before] != 4 {
			t.Errorf("transactions of %v", s.batches[before:])
		}
	})
}

// The least patient decides, not who came first.
func TestPatienceOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, newMemStore(), Options{})
		arrive(t, l, 200)
		go took(t, l, patience)
		synctest.Wait()
		if d := took(t, l, patience/4); d != patience/4 {
			t.Errorf("a record with a patience of %v took %v", patience/4, d)
		}
	})
}

// Where nobody is to be expected, nobody is waited for; nor when the log closes.
func TestPatienceInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		l := openLog(t, s, Options{})
		for range 10 {
			if d := took(t, l, patience); d != 0 {
				t.Errorf("a lone record took %v", d)
			}
			time.Sleep(5 * time.Millisecond)
		}
		arrive(t, l, 200)
		go took(t, l, patience)
		synctest.Wait()
		start := time.Now()
		if err := l.Close(context.Background()); err != nil || time.Since(start) != 0 || len(s.leaves) != 211 {
			t.Errorf("closing: %v, after %v, with %d records", err, time.Since(start), len(s.leaves))
		}
	})
}

// A full batch is as much as can be waited for. The last batch is not full.
func TestPatienceEndsWithFullBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, newMemStore(), Options{MaxBatch: 5})
		const n, batch = 200, 5
		if each := arrive(t, l, n); each[n-batch] > (batch-1)*100*time.Microsecond {
			t.Errorf("a record took %v, until its batch of %d was full", each[n-batch], batch)
		}
	})
}
