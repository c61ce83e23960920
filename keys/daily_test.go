package keys_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// perDay gives every plan but the one named free the limit.
func perDay(most int64) func(*keys.Options) {
	return func(o *keys.Options) {
		o.OperationsPerDay = func(plan string) int64 {
			if plan == "free" {
				return 0
			}
			return most
		}
	}
}

func TestOperationsPerDay(t *testing.T) {
	e := newEnv(t, perDay(100))
	k := e.create("k", backend.AES256GCM)
	do := func() error { return e.encryptAs(e.c, "k") }
	for i := range 100 {
		if err := do(); err != nil {
			t.Fatalf("operation %d: %v", i+1, err)
		}
	}
	err := do()
	wantCode(t, err, fault.DailyLimit, "one more than a day has")
	var f *fault.Error
	left := 24*time.Hour - time.Duration(e.clock.now().Unix()%86400)*time.Second
	if !errors.As(err, &f) || f.After > left || f.After < left-2*time.Second {
		t.Errorf("it ends in %v, want %v", f.After, left)
	}
	all := e.entries()
	if last := all[len(all)-1]; last.Action != "encrypt" || last.Outcome != string(fault.DailyLimit) || last.Key != k.ID {
		t.Errorf("the log says %+v", last)
	}
	// Refusals take nothing of what the key may protect, and managing goes on.
	before := e.counted(k.ID, 1)
	for range 50 {
		wantCode(t, do(), fault.DailyLimit, "again")
	}
	if after := e.counted(k.ID, 1); after != before {
		t.Errorf("refusals took %d uses of the key", after-before)
	}
	if _, err := e.Get(t.Context(), e.c, "k"); err != nil {
		t.Error(err)
	}
	if _, err := e.Rotate(t.Context(), e.c, "k"); err != nil {
		t.Error(err)
	}
	_, err = e.Random(t.Context(), e.c, "", 16)
	wantCode(t, err, fault.DailyLimit, "random bytes")
	// Another plan has another limit; and the next day is another day.
	free := *e.c.Principal
	free.Plan = "free"
	if err := e.encryptAs(keys.Caller{Principal: &free, RequestID: "r"}, "k"); err != nil {
		t.Error("without a limit:", err)
	}
	e.clock.advance(left)
	for range 100 {
		if err := do(); err != nil {
			t.Fatal("the next day:", err)
		}
	}
	wantCode(t, do(), fault.DailyLimit, "and that is over, too")
}

// TestOperationsPerDayOfBatches: each item counts, and what does not fit is refused as a whole while a smaller one does.
func TestOperationsPerDayOfBatches(t *testing.T) {
	e := newEnv(t, perDay(10))
	e.create("k", backend.AES256GCM)
	batch := func(n int) error {
		items := make([]keys.EncryptItem, n)
		for i := range items {
			items[i].Plaintext = []byte("x")
		}
		_, err := e.Encrypt(t.Context(), e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, items, false)
		return err
	}
	wantCode(t, batch(11), fault.DailyLimit, "more than a day has")
	if err := batch(7); err != nil {
		t.Fatal(err)
	}
	wantCode(t, batch(4), fault.DailyLimit, "more than what is left")
	if err := batch(3); err != nil {
		t.Fatal(err)
	}
	wantCode(t, batch(1), fault.DailyLimit, "nothing is left")
}

// TestOperationsPerDayOfNodes: several nodes on one store carry out as many together as a day has, whatever each has set aside, and none more; and an operation
// with a block in hand writes nothing.
func TestOperationsPerDayOfNodes(t *testing.T) {
	const most = 3000
	var writes atomic.Int64
	limited := func(o *keys.Options) {
		perDay(most)(o)
		o.Store = asked{o.Store, &writes}
	}
	e := newEnv(t, limited)
	e.create("k", backend.AES256GCM)
	nodes := []*keys.Service{e.Service, e.another(limited), e.another(limited)}
	var mu sync.Mutex // guards done
	done := 0
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range 4 {
			wg.Go(func() {
				for {
					_, err := n.Encrypt(t.Context(), e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x")}}, true)
					if fault.Has(err, fault.DailyLimit) {
						return
					}
					mu.Lock()
					done++
					over := done > most
					mu.Unlock()
					if err != nil || over {
						t.Error("beyond the day: ", err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	// What a node has in hand when the others run dry is given out by it: nothing is left but what an exact question has not asked for.
	if done > most || done < most*95/100 {
		t.Errorf("%d of %d were carried out", done, most)
	}
	if n := writes.Load(); n > most/10 {
		t.Errorf("%d writes for %d operations", n, done)
	}
}

// asked counts how often operations are set aside.
type asked struct {
	keys.Store
	n *atomic.Int64
}

func (a asked) ReserveOperations(r keys.DailyReservation) audit.Change {
	a.n.Add(1)
	return a.Store.ReserveOperations(r)
}

// TestOperationsPerDayAtMidnight: that a day is over, and is heard of on the next, says nothing of the next.
func TestOperationsPerDayAtMidnight(t *testing.T) {
	var e *env
	var left time.Duration // that passes while operations are set aside for the second time: no more than the operation needs, after a block was refused
	asked := 0
	late := func(o *keys.Options) {
		perDay(10)(o)
		o.Store = slow{o.Store, func() {
			if asked++; asked == 2 {
				e.clock.advance(left)
			}
		}}
	}
	e = newEnv(t, perDay(10))
	e.create("k", backend.AES256GCM)
	node := e.another(late)
	for range 10 {
		if err := e.encryptAs(e.c, "k"); err != nil {
			t.Fatal(err)
		}
	}
	left = 24*time.Hour - time.Duration(e.clock.now().Unix()%86400)*time.Second
	do := func() error {
		_, err := node.Encrypt(t.Context(), e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x")}}, true)
		return err
	}
	wantCode(t, do(), fault.DailyLimit, "as the day ends")
	for i := range 10 {
		if err := do(); err != nil {
			t.Fatalf("operation %d of the next day: %v", i+1, err)
		}
	}
}

// slow calls wait while operations are being set aside.
type slow struct {
	keys.Store
	wait func()
}

func (s slow) ReserveOperations(r keys.DailyReservation) audit.Change {
	s.wait()
	return s.Store.ReserveOperations(r)
}

// TestOperationsPerDayOfSmallerPlan: what a node has set aside under a larger plan is not good under a smaller one.
func TestOperationsPerDayOfSmallerPlan(t *testing.T) {
	e := newEnv(t, func(o *keys.Options) {
		o.OperationsPerDay = func(plan string) int64 {
			if plan == "small" {
				return 10
			}
			return 1_000_000
		}
	})
	e.create("k", backend.AES256GCM)
	for range 11 {
		if err := e.encryptAs(e.c, "k"); err != nil {
			t.Fatal(err)
		}
	}
	small := *e.c.Principal
	small.Plan = "small"
	c := keys.Caller{Principal: &small, RequestID: "r"}
	wantCode(t, e.encryptAs(c, "k"), fault.DailyLimit, "more than the smaller plan has")
	wantCode(t, e.encryptAs(c, "k"), fault.DailyLimit, "again")
	if err := e.encryptAs(e.c, "k"); err != nil {
		t.Error("with the larger plan again:", err)
	}
}

// TestOperationsPerDayOfWrongClock: a clock that was years ahead for a while does not end the day until then.
func TestOperationsPerDayOfWrongClock(t *testing.T) {
	e := newEnv(t, perDay(10))
	e.create("k", backend.AES256GCM)
	e.clock.advance(1000 * 24 * time.Hour)
	for range 10 {
		if err := e.encryptAs(e.c, "k"); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, e.encryptAs(e.c, "k"), fault.DailyLimit, "by the wrong clock")
	e.clock.advance(-1000 * 24 * time.Hour)
	for i := range 10 {
		if err := e.encryptAs(e.c, "k"); err != nil {
			t.Fatalf("operation %d by the right clock: %v", i+1, err)
		}
	}
	wantCode(t, e.encryptAs(e.c, "k"), fault.DailyLimit, "by the right clock")
}
