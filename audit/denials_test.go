package audit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// denied counts what the log holds of denials.
func denied(t *testing.T, s *memStore) (requests int, all []Entry) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, leaf := range s.leaves {
		e, err := ParseLeaf(leaf)
		if err != nil {
			t.Fatal(err)
		}
		requests += e.Items
		all = append(all, e)
	}
	return requests, all
}

func TestDenials(t *testing.T) {
	s := newMemStore()
	l := openLog(t, s, Options{})
	d := NewDenials(l, nil)
	start := time.Now()
	d.Add("malformed")
	waitFor(t, func() bool { return l.Size() == 1 })
	if time.Since(start) > 900*time.Millisecond {
		t.Error("the first one waits")
	}
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for range 5000 {
				d.Add([]string{"unknown", "expired"}[c%2])
			}
		})
	}
	wg.Wait()
	if err := d.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if most := 3 + uint64(time.Since(start)/time.Second); l.Size() > most {
		t.Errorf("%d entries in %v", l.Size(), time.Since(start))
	}
	n, all := denied(t, s)
	if n != 40_001 {
		t.Errorf("%d requests in the log, want 40001", n)
	}
	if e := all[0]; e.Principal != "anonymous" || e.Action != "authenticate" || e.Outcome != string(fault.Unauthenticated) ||
		e.Detail != "malformed=1" || e.Time.Before(start.Add(-time.Millisecond)) {
		t.Errorf("%+v", e)
	}
	if e := all[len(all)-1]; !strings.Contains(e.Detail, "unknown=20000") || !strings.Contains(e.Detail, "expired=20000") {
		t.Errorf("%+v", e)
	}
	d.Add("late")
	if err := d.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if n, _ := denied(t, s); n != 40_001 {
		t.Error("counted after Close")
	}
}

// A flood makes one entry a period, and none is lost over periods in which the log cannot be written.
func TestDenialsRetry(t *testing.T) {
	s := newMemStore()
	s.onCommit = func(n int, _ []*Item) error {
		if n <= 3 {
			return fault.New(fault.StoreUnavailable, "full")
		}
		return nil
	}
	l := openLog(t, s, Options{})
	d := newDenials(l, nil, 5*time.Millisecond, unauthenticated)
	for i := range 1000 {
		d.Add(fmt.Sprint("made-up-", i)) // more reasons than there can be
	}
	waitFor(t, func() bool { n, _ := denied(t, s); return n == 1000 })
	_, all := denied(t, s)
	for _, e := range all {
		if strings.Count(e.Detail, "=") > maxReasons || len(e.Detail) > MaxString {
			t.Errorf("detail %q", e.Detail)
		}
	}
	if err := d.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestDenialsCloseErrors(t *testing.T) {
	s := newMemStore()
	s.onCommit = func(int, []*Item) error { return fault.New(fault.StoreUnavailable, "full") }
	d := NewDenials(openLog(t, s, Options{}), nil)
	d.Add("unknown")
	wantFault(t, d.Close(context.Background()), fault.AuditUnavailable)

	s = newMemStore()
	started, let := held(s)
	d = NewDenials(openLog(t, s, Options{}), nil)
	d.Add("unknown")
	<-started
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	wantFault(t, d.Close(ctx), fault.Timeout)
	close(let)
	if err := d.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
