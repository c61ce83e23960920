package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/fault"
)

// aged is a log of n entries, one a second, all older than MinRetention by the time of its clock but the last ones.
type aged struct {
	*Log
	s      *memStore
	signer *softSigner
	now    time.Time
}

func newAged(t testing.TB, n, young int) *aged {
	t.Helper()
	a := &aged{s: newMemStore(), signer: newSigner(t)}
	a.s.fill(t, n)
	a.now = testEntry(n - young).Time.Add(MinRetention)
	a.Log = openLog(t, a.s, Options{Signer: a.signer.open, CheckpointEvery: -1, Now: func() time.Time { return a.now }})
	return a
}

func (a *aged) retention(t testing.TB, o RetentionOptions) *Retention {
	t.Helper()
	if o.Keep == 0 {
		o.Keep = MinRetention
	}
	r, err := NewRetention(a.Log, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (a *aged) sign(t testing.TB) {
	t.Helper()
	if _, err := a.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestPrune(t *testing.T) {
	ctx := context.Background()
	a := newAged(t, 2000, 300)
	reg := prometheus.NewPedanticRegistry()
	r := a.retention(t, RetentionOptions{Registerer: reg})
	// Nothing is signed yet.
	if n, err := r.Prune(ctx); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	a.sign(t)
	before := *a.head.Load()
	n, err := r.Prune(ctx)
	if err != nil || n != 1700 || a.s.kept != 1700 {
		t.Fatalf("%d pruned, kept from %d: %v", n, a.s.kept, err)
	}
	last, err := a.Get(ctx, a.Size()-1)
	if err != nil || last.Entry.Action != ActionPrune || last.Entry.Resource != "entries:0-1699" || last.Entry.Items != 1700 || last.Index != 2000 {
		t.Errorf("told by %+v, %v", last, err)
	}
	if n, err := r.Prune(ctx); n != 0 || err != nil || a.Size() != 2001 {
		t.Errorf("again: %d, %v", n, err)
	}
	// Everything but the bodies is there.
	_, err = a.Get(ctx, 1699)
	wantFault(t, err, fault.EntryPruned)
	if _, err := a.Get(ctx, 1700); err != nil {
		t.Error(err)
	}
	_, err = a.Get(ctx, 2001)
	wantFault(t, err, fault.EntryNotFound)
	for _, i := range []uint64{0, 255, 256, 1699, 1700, 2000} {
		p, err := a.Prove(ctx, i)
		if err != nil || p.LeafHash != a.s.hashes[i] || (p.Leaf == nil) != (i < 1700) {
			t.Fatalf("proof of %d: %+v, %v", i, p, err)
		}
		c, err := OpenCheckpoint(p.Checkpoint, mustKey(t, a.Log))
		path := make(tlog.RecordProof, len(p.Hashes))
		for j := range path {
			path[j] = p.Hashes[j]
		}
		if err != nil || tlog.CheckRecord(path, int64(c.Size), c.Root, int64(i), a.s.hashes[i]) != nil {
			t.Errorf("proof of %d does not hold: %v", i, err)
		}
	}
	if root, err := a.Root(ctx, 2000); err != nil || root != before.Root() {
		t.Error("the tree is another", err)
	}
	if p, err := a.ConsistencyProof(ctx, 700, 2001); err != nil || len(p) == 0 {
		t.Error(p, err)
	}
	found, seen := 0, math.MaxInt
	for cursor := ""; ; {
		page, next, err := a.List(ctx, Filter{}, cursor, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page {
			found, seen = found+1, min(seen, int(f.Index))
		}
		if cursor = next; next == "" {
			break
		}
	}
	if found != 301 || seen != 1700 {
		t.Errorf("a search finds %d, from %d on", found, seen)
	}
	var b bytes.Buffer
	if _, err := a.Export(ctx, &b, nil); err != nil {
		t.Fatal(err)
	}
	v, err := VerifyExport(&b, nil, mustKey(t, a.Log), nil)
	if err != nil || v.Size != 2001 || v.Pruned != 1700 || !v.First.Equal(testEntry(1700).Time) {
		t.Errorf("%+v, %v", v, err)
	}
	again := openLog(t, a.s, Options{Signer: a.signer.open, CheckpointEvery: -1})
	if again.Size() != 2001 {
		t.Error(again.Size())
	}
	for i, want := range []float64{1700, 0, 1700, float64(testEntry(1700).Time.UnixMicro()) / 1e6} {
		if got := testutil.ToFloat64(r.all[i]); got != want {
			t.Errorf("metric %d is %v, want %v", i, got, want)
		}
	}
	if n, err := testutil.GatherAndCount(reg); n != 4 || err != nil {
		t.Errorf("%d metrics, %v", n, err)
	}
}

// Nothing goes that is not old, signed and taken, and little by little nothing goes in a hurry.
func TestPruneLimits(t *testing.T) {
	ctx := context.Background()
	t.Run("signed", func(t *testing.T) {
		a := newAged(t, 700, 100)
		a.sign(t)
		a.s.fill(t, 1000)
		a.now = a.now.Add(time.Hour)
		if n, err := a.retention(t, RetentionOptions{}).Prune(ctx); n != 700 || err != nil {
			t.Error(n, err)
		}
	})
	t.Run("taken", func(t *testing.T) {
		a := newAged(t, 700, 100)
		a.sign(t)
		var taken uint64
		var log bytes.Buffer
		r := a.retention(t, RetentionOptions{Taken: func(context.Context) (uint64, string, error) { return taken, "the-archive", nil }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for range 3 {
			if n, err := r.Prune(ctx); n != 0 || err != nil {
				t.Error(n, err)
			}
		}
		if strings.Count(log.String(), "the-archive") != 1 {
			t.Errorf("it is said as %q", log.String())
		}
		taken = 300
		if n, err := r.Prune(ctx); n != 300 || err != nil {
			t.Error(n, err)
		}
		taken = 3000
		if n, err := r.Prune(ctx); n != 300 || err != nil {
			t.Error(n, err)
		}
		broken := errors.New("broken")
		r.o.Taken = func(context.Context) (uint64, string, error) { return 0, "", broken }
		a.now = a.now.Add(48 * time.Hour)
		if _, err := r.Prune(ctx); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
	t.Run("few", func(t *testing.T) {
		a := newAged(t, 700, 500) // 200 are due
		a.sign(t)
		r := a.retention(t, RetentionOptions{})
		if n, err := r.Prune(ctx); n != 0 || err != nil {
			t.Error(n, err)
		}
		a.now = a.now.Add(pruneLate)
		if n, err := r.Prune(ctx); n != 700 || err != nil {
			t.Error(n, err)
		}
	})
	t.Run("clock", func(t *testing.T) { // an entry of the future keeps what comes behind it
		a := newAged(t, 300, 0)
		a.s.append(&Entry{Time: a.now.AddDate(10, 0, 0), Principal: "system", Action: "test", Outcome: "ok"})
		a.s.append(testEntry(3))
		a.sign(t)
		if n, err := a.retention(t, RetentionOptions{}).Prune(ctx); n != 300 || err != nil {
			t.Error(n, err)
		}
	})
	t.Run("short", func(t *testing.T) {
		if _, err := NewRetention(newAged(t, 1, 1).Log, RetentionOptions{Keep: MinRetention - 1}); err == nil {
			t.Error("a retention of less than a week")
		}
	})
}

// What is not what the checkpoint was signed over is not pruned, and what tells of a run comes before it.
func TestPruneFaults(t *testing.T) {
	ctx := context.Background()
	t.Run("damaged", func(t *testing.T) {
		a := newAged(t, 700, 100)
		a.sign(t)
		a.s.leaves[300] = AppendLeaf(nil, testEntry(301))
		n, err := a.retention(t, RetentionOptions{}).Prune(ctx)
		if f := wantFault(t, err, fault.StoreCorrupted); n != 0 || a.s.kept != 0 || a.Size() != 700 || !strings.Contains(f.Message, "256 to 511") {
			t.Errorf("%d pruned of a damaged log: %v", n, err)
		}
	})
	t.Run("locked", func(t *testing.T) {
		a := newAged(t, 700, 100)
		a.sign(t)
		other := openLog(t, a.s, Options{Signer: func(context.Context) (CheckpointSigner, error) { return nil, fault.New(fault.Locked, "locked") }, CheckpointEvery: -1,
			Now: func() time.Time { return a.now }})
		r, err := NewRetention(other, RetentionOptions{Keep: MinRetention})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.Prune(ctx); n != 0 || !fault.Has(err, fault.Locked) {
			t.Error(n, err)
		}
	})
	t.Run("device away", func(t *testing.T) { // the entry is there, but no checkpoint covers it: nothing goes
		a := newAged(t, 700, 100)
		a.sign(t)
		a.signer.err = fault.New(fault.BackendUnavailable, "away")
		if n, err := a.retention(t, RetentionOptions{}).Prune(ctx); n != 0 || !fault.Has(err, fault.BackendUnavailable) || a.s.kept != 0 || a.Size() != 701 {
			t.Error(n, err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		a := newAged(t, 2000, 100)
		a.sign(t)
		r := a.retention(t, RetentionOptions{})
		ctx, cancel := context.WithCancel(ctx)
		a.s.onPrune = func() {
			if a.s.kept >= 600 {
				a.s.pruneErr = fault.New(fault.StoreUnavailable, "gone")
			}
		}
		n, err := r.Prune(ctx)
		cancel()
		if !fault.Has(err, fault.StoreUnavailable) || n != 1024 || a.s.kept != 1024 {
			t.Fatalf("%d pruned, %v", n, err)
		}
		a.wantVerifies(t, 1024)
		a.s.pruneErr, a.s.onPrune = nil, nil
		if n, err := r.Prune(context.Background()); n != 876 || err != nil {
			t.Error(n, err)
		}
		a.wantVerifies(t, 1900)
	})
	t.Run("during an export", func(t *testing.T) {
		a := newAged(t, 12000, 100)
		a.sign(t)
		r := a.retention(t, RetentionOptions{})
		var b bytes.Buffer
		done := false
		_, err := a.Export(ctx, &b, func(uint64) {
			if !done {
				done = true
				if _, err := r.Prune(ctx); err != nil {
					t.Error(err)
				}
			}
		})
		wantFault(t, err, fault.Conflict)
		a.wantVerifies(t, 11900)
	})
}

func (a *aged) wantVerifies(t *testing.T, pruned uint64) {
	t.Helper()
	var b bytes.Buffer
	if _, err := a.Export(context.Background(), &b, nil); err != nil {
		t.Fatal(err)
	}
	if r, err := VerifyExport(&b, nil, mustKey(t, a.Log), nil); err != nil || r.Pruned != pruned || r.Size != a.Size() {
		t.Errorf("%+v, %v, want %d pruned", r, err, pruned)
	}
}

// A long log goes in runs, each with an entry of its own.
func TestPruneRuns(t *testing.T) {
	a := newAged(t, 2*pruneRun+500, 100)
	a.sign(t)
	r := a.retention(t, RetentionOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); a.first() < 2*pruneRun+400; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("pruned up to %d only", a.first())
		}
	}
	cancel()
	<-done
	for i, want := range []string{"entries:0-65535", "entries:65536-131071"} {
		if e, err := a.Get(context.Background(), uint64(2*pruneRun+500+i)); err != nil || e.Entry.Resource != want {
			t.Errorf("entry %d: %+v, %v", i, e, err)
		}
	}
	a.wantVerifies(t, 2*pruneRun+400)
}

func (a *aged) first() uint64 {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.s.kept
}

func TestPruneEntry(t *testing.T) {
	for _, c := range []struct {
		e   Entry
		end uint64
	}{
		{*pruneEntry(0, 1), 1},
		{*pruneEntry(5, 1<<40), 1 << 40},
		{Entry{Principal: "api-key:x", Action: ActionPrune, Outcome: "ok", Resource: "entries:0-5"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ERR_X", Resource: "entries:0-5"}, 0},
		{Entry{Principal: "system", Action: "encrypt", Outcome: "ok", Resource: "entries:0-5"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok", Resource: "entries:0-5", Tenant: testKey(1)}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok", Resource: "entries:6-5"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok", Resource: "entries:5"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok", Resource: "entries:0-x"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok", Resource: "entries:-1-5"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok", Resource: "entries:0-9223372036854775807"}, 0},
		{Entry{Principal: "system", Action: ActionPrune, Outcome: "ok"}, 0},
	} {
		var raw rawEntry
		if err := raw.parse(AppendLeaf(nil, &c.e)); err != nil {
			t.Fatal(err)
		}
		if end, ok := raw.prunes(); end != c.end || ok != (c.end > 0) {
			t.Errorf("%s: %d, %v", c.e.Resource, end, ok)
		}
	}
	if e := pruneEntry(3, 1<<40); e.Items != math.MaxInt32 || e.Resource != fmt.Sprintf("entries:3-%d", 1<<40-1) {
		t.Errorf("%+v", e)
	}
}

// A file of lines that lacks entries does not pass for one that has them all, and says what it lacks.
func TestVerifyLinesBehind(t *testing.T) {
	a := newAged(t, 50, 50)
	kept, err := a.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	lines := func(from, to int) string { return string(bytes.Join(a.s.leaves[from:to], []byte("\n"))) + "\n" }
	verify := func(text string) (Result, uint64, error) {
		return VerifyLines(strings.NewReader(text), kept, mustKey(t, a.Log))
	}
	if _, n, err := verify(LinesHeader + " 0\n" + lines(0, 50)); n != 50 || err != nil {
		t.Error(n, err)
	}
	for text, want := range map[string]BadExport{
		LinesHeader + " 20\n" + lines(20, 50):                                       {Line: 1},
		LinesHeader + " 0\n" + lines(0, 10) + LinesHeader + " 20\n" + lines(20, 50): {Line: 12, First: 10, Last: 19},
		LinesHeader + " 0\n" + lines(0, 10) + LinesHeader + " 10\n" + lines(10, 50): {Line: 12, First: 10, Last: 10},
		LinesHeader + " 0\n" + lines(0, 10) + LinesHeader + " x\n" + lines(10, 50):  {Line: 12, First: 10, Last: 10},
		LinesHeader + " x\n" + lines(0, 50):                                         {Line: 1},
	} {
		var bad *BadExport
		_, _, err := verify(text)
		if !errors.As(err, &bad) || bad.Line != want.Line || bad.First != want.First || bad.Last != want.Last {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// A file that cannot be read, or whose reading was ended, is not called a damaged one.
func TestVerifyLinesUnread(t *testing.T) {
	a := newAged(t, 50, 50)
	kept, err := a.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	in := io.MultiReader(strings.NewReader(LinesHeader+" 0\n"+string(bytes.Join(a.s.leaves[:20], []byte("\n")))+"\n"), iotest.ErrReader(broken))
	var bad *BadExport
	if _, _, err := VerifyLines(in, kept, mustKey(t, a.Log)); !errors.Is(err, broken) || errors.As(err, &bad) {
		t.Error(err)
	}
}
