package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/fault"
)

func TestRecord(t *testing.T) {
	s := newMemStore()
	now := time.Date(2027, 3, 4, 5, 6, 7, 89_000, time.UTC)
	l := openLog(t, s, Options{Now: func() time.Time { return now }})
	ctx := context.Background()
	for i := range 3 {
		e := &Entry{Principal: "system", Action: "key.create", Outcome: "ok"}
		index, err := l.Record(ctx, e, memChange{name: fmt.Sprint("c", i)}, memChange{name: "all"})
		if err != nil {
			t.Fatal(err)
		}
		if index != uint64(i) || !e.Time.Equal(now) {
			t.Errorf("index %d, time %v", index, e.Time)
		}
	}
	if l.Size() != 3 || s.applied["all"] != 3 || s.applied["c2"] != 1 {
		t.Errorf("size %d, applied %v", l.Size(), s.applied)
	}
	found, err := l.Get(ctx, 1)
	if err != nil || found.Index != 1 || found.Entry.Action != "key.create" || !found.Entry.Time.Equal(now) {
		t.Errorf("got %+v, %v", found, err)
	}
	_, err = l.Get(ctx, 3)
	wantFault(t, err, fault.EntryNotFound)
	_, err = l.Get(ctx, 1<<63)
	wantFault(t, err, fault.EntryNotFound)
}

// Everything that was answered lies at the index that was answered, with its own changes, each exactly once.
func TestRecordersTogether(t *testing.T) {
	s := newMemStore()
	s.onCommit = func(int, []*Item) error { time.Sleep(50 * time.Microsecond); return nil }
	l := openLog(t, s, Options{MaxBatch: 40})
	const callers, each = 64, 40
	var wg sync.WaitGroup
	answers := make([][]uint64, callers)
	for c := range callers {
		answers[c] = make([]uint64, each)
		wg.Go(func() {
			for i := range each {
				var err error
				name := fmt.Sprintf("%d/%d", c, i)
				if answers[c][i], err = l.Record(context.Background(), &Entry{RequestID: name, Outcome: "ok"}, memChange{name: name}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if l.Size() != callers*each || len(s.leaves) != callers*each {
		t.Fatalf("%d entries, %d leaves", l.Size(), len(s.leaves))
	}
	for c := range callers {
		for i, index := range answers[c] {
			e, err := ParseLeaf(s.leaves[index])
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%d/%d", c, i)
			if e.RequestID != name || s.applied[name] != 1 {
				t.Fatalf("entry %d is %q with %d changes, want %q", index, e.RequestID, s.applied[name], name)
			}
			if i > 0 && index <= answers[c][i-1] {
				t.Fatalf("caller %d: entry %d after %d", c, index, answers[c][i-1])
			}
		}
	}
	if len(s.batches) >= callers*each/4 {
		t.Errorf("%d batches for %d records: they do not gather", len(s.batches), callers*each)
	}
	for _, n := range s.batches {
		if n > 40 {
			t.Errorf("a batch of %d", n)
		}
	}
	if s.head.Root() != mth(s.hashes) {
		t.Error("the head is not that of the leaves")
	}
}

func TestChangeRefused(t *testing.T) {
	s := newMemStore()
	l := openLog(t, s, Options{})
	taken := fault.New(fault.NameTaken, "taken")
	_, err := l.Record(context.Background(), &Entry{}, memChange{name: "a"}, memChange{err: taken})
	if !errors.Is(err, taken) || err != error(taken) { //nolint:errorlint // as the store made it, not wrapped
		t.Fatalf("got %v", err)
	}
	if l.Size() != 0 || len(s.leaves) != 0 || s.applied["a"] != 0 {
		t.Error("something of the refused item was stored")
	}
	if i, err := l.Record(context.Background(), &Entry{}); err != nil || i != 0 {
		t.Errorf("then: %d, %v", i, err)
	}
}

// held is a store hook that keeps the first commit until it is let go.
func held(s *memStore) (started, let chan struct{}) {
	started, let = make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.onCommit = func(int, []*Item) error {
		once.Do(func() { close(started); <-let })
		return nil
	}
	return started, let
}

func TestMixedBatch(t *testing.T) {
	s := newMemStore()
	started, let := held(s)
	l := openLog(t, s, Options{})
	conflict := fault.New(fault.Conflict, "conflict")
	var wg sync.WaitGroup
	record := func(i int) {
		wg.Go(func() {
			c := memChange{name: "odd"}
			if i%2 == 0 {
				c.err = conflict
			}
			index, err := l.Record(context.Background(), &Entry{Items: i + 1}, c)
			if i%2 == 0 {
				if err != error(conflict) { //nolint:errorlint // as the store made it
					t.Errorf("%d: %v", i, err)
				}
				return
			}
			if err != nil {
				t.Errorf("%d: %v", i, err)
			} else if f, err := l.Get(context.Background(), index); err != nil || f.Entry.Items != i+1 {
				t.Errorf("%d: entry %d is %+v, %v", i, index, f.Entry, err)
			}
		})
	}
	record(1)
	<-started
	for i := range 20 {
		record(i + 2)
	}
	waitFor(t, func() bool { return l.depth() == 20 })
	close(let)
	wg.Wait()
	if l.Size() != 11 || s.applied["odd"] != 11 || len(s.batches) != 2 {
		t.Errorf("size %d, applied %d, batches %v", l.Size(), s.applied["odd"], s.batches)
	}
}

func (l *Log) depth() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}

func TestFailClosed(t *testing.T) {
	s := newMemStore()
	full := errors.New("disk full")
	s.onCommit = func(n int, _ []*Item) error {
		if n >= 3 && n <= 5 {
			return full
		}
		return nil
	}
	var logged bytes.Buffer
	l := openLog(t, s, Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	ctx := context.Background()
	for i := 1; i <= 7; i++ {
		index, err := l.Record(ctx, &Entry{}, memChange{name: fmt.Sprint(i)})
		if i >= 3 && i <= 5 {
			f := wantFault(t, err, fault.AuditUnavailable)
			if !errors.Is(f, full) || bytes.Contains([]byte(f.Message), []byte("disk")) {
				t.Errorf("%v", f)
			}
			if s.applied[fmt.Sprint(i)] != 0 {
				t.Error("a refused change was made")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(i - 1); i < 3 && index != want || i > 5 && index != want-3 {
			t.Errorf("record %d at %d", i, index)
		}
	}
	if n := bytes.Count(logged.Bytes(), []byte("cannot be written")); n != 1 {
		t.Errorf("%d log lines for one fault:\n%s", n, logged.String())
	}
	if !bytes.Contains(logged.Bytes(), []byte("failed_batches=3")) {
		t.Errorf("recovery is not told:\n%s", logged.String())
	}
}

// A commit that became durable although the store says otherwise must not be written over.
func TestDurableDespiteError(t *testing.T) {
	s := newMemStore()
	s.afterward = func(n int) error {
		if n == 1 {
			return errors.New("connection lost")
		}
		return nil
	}
	l := openLog(t, s, Options{})
	_, err := l.Record(context.Background(), &Entry{Action: "a"})
	wantFault(t, err, fault.AuditUnavailable)
	if l.Size() != 1 {
		t.Errorf("size %d: the head was not read again", l.Size())
	}
	if i, err := l.Record(context.Background(), &Entry{Action: "b"}); err != nil || i != 1 {
		t.Errorf("%d, %v", i, err)
	}
}

// A store that gives an older or another head than it had is not written to.
func TestStoreRolledBack(t *testing.T) {
	for name, spoil := range map[string]func(*memStore){
		"older":     func(s *memStore) { s.head = Head{} },
		"other":     func(s *memStore) { s.head = s.head.clone(); s.head.Range[0][0] ^= 1 },
		"malformed": func(s *memStore) { s.head.Range = nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemStore()
			s.fill(t, 5)
			l := openLog(t, s, Options{})
			spoil(s)
			for range 2 {
				_, err := l.Record(context.Background(), &Entry{})
				f := wantFault(t, err, fault.AuditUnavailable)
				wantFault(t, f.Unwrap(), fault.StoreCorrupted)
			}
			if len(s.leaves) != 5 || l.Size() != 5 {
				t.Error("it was written to")
			}
		})
	}
}

func TestStoreForgetsToExtend(t *testing.T) {
	l := openLog(t, forgetful{newMemStore()}, Options{})
	_, err := l.Record(context.Background(), &Entry{})
	if f := wantFault(t, err, fault.AuditUnavailable); !errors.Is(f, errNotExtended) {
		t.Error(f)
	}
}

type forgetful struct{ *memStore }

func (forgetful) Commit(context.Context, []*Item, func(Head, []*Item) (Head, []Node, error)) error {
	return nil
}

func TestDeadlines(t *testing.T) {
	s := newMemStore()
	started, let := held(s)
	l := openLog(t, s, Options{Queue: 2})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.Record(ctx, &Entry{})
	wantFault(t, err, fault.Timeout)
	if l.depth() != 0 || !errors.Is(err, ErrLate) {
		t.Error("a record of a caller who had gone was queued")
	}

	short, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	e := &Entry{Action: "first", Failed: []int{1, 2}}
	for i := range 3 { // one in the store, two in the queue
		wg.Go(func() {
			c := *e
			_, err := l.Record(short, &c)
			if wantFault(t, err, fault.Timeout); errors.Is(err, ErrLate) {
				t.Error("a record that is under way is said not to be")
			}
		})
		if i == 0 {
			<-started
		}
	}
	waitFor(t, func() bool { return l.depth() == 2 })
	_, err = l.Record(context.Background(), &Entry{Action: "too many"})
	if f := wantFault(t, err, fault.Overloaded); f.After <= 0 {
		t.Error("does not say when to try again")
	}
	cancel()
	wg.Wait()
	// The callers have gone; their entries are their own all the same, whatever becomes of what they passed.
	e.Failed[0], e.Failed[1] = -1, -1
	close(let)
	waitFor(t, func() bool { return l.Size() == 3 })
	for i := range uint64(3) {
		if f, err := l.Get(context.Background(), i); err != nil || f.Entry.Action != "first" || f.Entry.Failed[0] != 1 {
			t.Errorf("%+v, %v", f.Entry, err)
		}
	}
}

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	s := newMemStore()
	started, let := held(s)
	reg := prometheus.NewRegistry()
	signer := newSigner(t)
	l, err := Open(context.Background(), s, Options{Origin: testOrigin, Registerer: reg, Signer: signer.open})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if _, err := l.Record(context.Background(), &Entry{}); err != nil {
				t.Error(err)
			}
		})
		if i == 0 {
			<-started
		}
	}
	waitFor(t, func() bool { return l.depth() == 9 })
	time.AfterFunc(10*time.Millisecond, func() { close(let) })
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if len(s.leaves) != 10 {
		t.Errorf("%d entries after Close", len(s.leaves))
	}
	if c, err := OpenCheckpoint(s.note, mustKey(t, l)); err != nil || c.Size != 10 {
		t.Errorf("last checkpoint: %+v, %v", c, err)
	}
	_, err = l.Record(context.Background(), &Entry{})
	wantFault(t, err, fault.Unavailable)
	if err := l.Close(context.Background()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	// A new log over the same store and registry goes on.
	l2 := openLog(t, s, Options{Registerer: reg})
	if i, err := l2.Record(context.Background(), &Entry{}); err != nil || i != 10 {
		t.Errorf("%d, %v", i, err)
	}
	if err := l2.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= before })
}

// A store that hangs does not hang Close, and those who wait are told.
func TestCloseOutOfTime(t *testing.T) {
	s := newMemStore()
	started, hang := held(s)
	l, err := Open(context.Background(), s, Options{Origin: testOrigin})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 3 { // one in the store, two in the queue
		wg.Go(func() {
			_, err := l.Record(context.Background(), &Entry{})
			wantFault(t, err, fault.AuditUnavailable)
		})
		if i == 0 {
			<-started
		}
	}
	waitFor(t, func() bool { return l.depth() == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantFault(t, l.Close(ctx), fault.Timeout)
	close(hang)
	wg.Wait()
	if err := l.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if len(s.leaves) != 0 {
		t.Error("committed after it was cancelled")
	}
}

// Every commit in turn is made to fail, before or after it became durable; what was answered is there, and the log opens.
func TestCommitFaults(t *testing.T) {
	for n := 1; n <= 6; n++ {
		for _, after := range []bool{false, true} {
			s := newMemStore()
			s.fill(t, 250) // a tile is completed on the way
			fail := errors.New("fault")
			if after {
				s.afterward = func(i int) error {
					if i == n {
						return fail
					}
					return nil
				}
			} else {
				s.onCommit = func(i int, _ []*Item) error {
					if i == n {
						return fail
					}
					return nil
				}
			}
			l := openLog(t, s, Options{MaxBatch: 4})
			var wg sync.WaitGroup
			var answered sync.Map
			for c := range 8 {
				wg.Go(func() {
					for i := range 4 {
						name := fmt.Sprintf("%d/%d", c, i)
						index, err := l.Record(context.Background(), &Entry{RequestID: name}, memChange{name: name})
						if err != nil {
							wantFault(t, err, fault.AuditUnavailable)
							continue
						}
						answered.Store(name, index)
					}
				})
			}
			wg.Wait()
			answered.Range(func(name, index any) bool {
				e, err := ParseLeaf(s.leaves[index.(uint64)])
				if err != nil || e.RequestID != name || s.applied[name.(string)] != 1 {
					t.Errorf("%v at %v: %+v, %v", name, index, e, err)
				}
				return true
			})
			if s.head.Root() != mth(s.hashes) {
				t.Error("the head is not that of the leaves")
			}
			openLog(t, s, Options{})
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	s := newMemStore()
	s.fill(t, 4)
	l := openLog(t, s, Options{Registerer: reg})
	if _, err := l.Record(context.Background(), &Entry{}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if h := f.Metric[0].GetHistogram(); h != nil {
			got[f.GetName()] = float64(h.GetSampleCount())
		} else {
			got[f.GetName()] = f.Metric[0].GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"keywright_audit_batch_size": 1, "keywright_audit_commit_seconds": 1, "keywright_audit_queue_depth": 0, "keywright_audit_size": 5,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	if _, err := Open(context.Background(), s, Options{Origin: testOrigin, Registerer: reg}); err == nil {
		t.Error("two logs in one registry")
	}
}

// The index of an answer never depends on who came when: in the log, a record that began after another was answered comes
// after it.
func TestOrder(t *testing.T) {
	s := newMemStore()
	s.onCommit = func(int, []*Item) error {
		if rand.IntN(3) == 0 {
			runtime.Gosched()
		}
		return nil
	}
	l := openLog(t, s, Options{MaxBatch: 3})
	var newest atomic.Int64 // the largest index answered
	newest.Store(-1)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 100 {
				floor := newest.Load()
				index, err := l.Record(context.Background(), &Entry{})
				if err != nil || int64(index) <= floor {
					t.Errorf("entry %d begun after %d was answered: %v", index, floor, err)
				}
				for {
					n := newest.Load()
					if int64(index) <= n || newest.CompareAndSwap(n, int64(index)) {
						break
					}
				}
			}
		})
	}
	wg.Wait()
}
