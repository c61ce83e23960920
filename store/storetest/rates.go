package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/ratelimit"
)

// testRates takes the cells of a bucket that fills slowly: its burst and not one more, whatever is asked for at a time.
func testRates(t *testing.T, e *env) {
	const interval = time.Hour
	b := ratelimit.Bucket{Kind: ratelimit.KindCredential, ID: uuid.New()}
	take := func(b ratelimit.Bucket, tolerance time.Duration, want int) (int, time.Duration) {
		t.Helper()
		got, ahead, err := e.TakeCells(t.Context(), b, interval, tolerance, want)
		if err != nil {
			t.Fatal(err)
		}
		return got, ahead
	}
	near := func(ahead, want time.Duration) {
		t.Helper()
		if ahead > want || ahead < want-time.Minute {
			t.Errorf("the bucket is %v ahead, want about %v", ahead, want)
		}
	}
	for _, step := range []struct{ want, got, ahead int }{{3, 3, 3}, {1, 1, 4}, {10, 6, 10}, {1, 0, 10}, {5, 0, 10}} {
		got, ahead := take(b, 10*interval, step.want)
		if got != step.got {
			t.Errorf("taking %d gave %d, want %d", step.want, got, step.got)
		}
		near(ahead, time.Duration(step.ahead)*interval)
	}
	if err := e.PruneCells(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := take(b, 10*interval, 1); got != 0 {
		t.Error("an empty bucket was forgotten")
	}
	// Another rate for the same bucket: a longer tolerance has room at once, a shorter one is no further behind than itself.
	if got, _ := take(b, 12*interval, 9); got != 2 {
		t.Errorf("the wider bucket gave %d, want 2", got)
	}
	_, ahead := take(b, 2*interval, 1)
	near(ahead, 2*interval)
	const most = ratelimit.MaxBurst
	long := ratelimit.Bucket{Kind: ratelimit.KindTenant, ID: uuid.New()}
	for range 2 {
		if got, ahead, err := e.TakeCells(t.Context(), long, time.Minute, time.Minute*most, most/2); got != most/2 || ahead <= 0 || err != nil {
			t.Errorf("the longest burst of the slowest rate: %d, %v ahead, %v", got, ahead, err)
		}
	}
	if got, _, err := e.TakeCells(t.Context(), long, time.Minute, time.Minute*most, 1); got != 0 || err != nil {
		t.Errorf("and one more: %d, %v", got, err)
	}
	other := ratelimit.Bucket{Kind: ratelimit.KindTenant, ID: b.ID}
	if got, _ := take(other, 10*interval, 20); got != 10 {
		t.Errorf("another kind of bucket gave %d, want 10", got)
	}
	quick := ratelimit.Bucket{Kind: ratelimit.KindCredential, ID: uuid.New()}
	if got, _, err := e.TakeCells(t.Context(), quick, time.Microsecond, time.Millisecond, 1000); got != 1000 || err != nil {
		t.Fatalf("a quick bucket gave %d, %v", got, err)
	}
	time.Sleep(3 * time.Millisecond)
	if err := e.PruneCells(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, ahead, err := e.TakeCells(t.Context(), quick, time.Microsecond, time.Millisecond, 10); got != 10 || ahead > time.Millisecond || err != nil {
		t.Errorf("a bucket that was forgotten gave %d, %v ahead, %v", got, ahead, err)
	}
}

// testRatesTogether has many take from one bucket at the same time: together they get its burst.
func testRatesTogether(t *testing.T, e *env) { takeTogether(t, e.Store) }

func takeTogether(t *testing.T, stores ...Store) {
	t.Helper()
	b := ratelimit.Bucket{Kind: ratelimit.KindTenant, ID: uuid.New()}
	var all atomic.Int64
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 20 {
				got, _, err := stores[i%len(stores)].TakeCells(t.Context(), b, time.Hour, 100*time.Hour, 1+i%3)
				if err != nil {
					t.Error(err)
					return
				}
				all.Add(int64(got))
			}
		})
	}
	group.Wait()
	if all.Load() != 100 {
		t.Errorf("%d cells were given of a bucket of 100", all.Load())
	}
	takeInTime(t, stores...)
}

// takeInTime has many ask without pause for a bucket that fills quickly: together they get its burst and what has come since, and not more.
func takeInTime(t *testing.T, stores ...Store) {
	t.Helper()
	const interval, burst = 2 * time.Millisecond, 20
	b := ratelimit.Bucket{Kind: ratelimit.KindTenant, ID: uuid.New()}
	var all atomic.Int64
	var group sync.WaitGroup
	begun := time.Now()
	for i := range 8 {
		group.Go(func() {
			for time.Since(begun) < 600*time.Millisecond {
				got, _, err := stores[i%len(stores)].TakeCells(t.Context(), b, interval, burst*interval, 1)
				if err != nil {
					t.Error(err)
					return
				}
				all.Add(int64(got))
			}
		})
	}
	group.Wait()
	may := float64(burst) + float64(time.Since(begun))/float64(interval)
	if n := float64(all.Load()); n > may+1 || n < burst {
		t.Errorf("%.0f cells were given, and %.0f had come", n, may)
	}
}

// testSharedRates has two nodes take from one bucket.
func testSharedRates(t *testing.T, nodes [2]*env, _ func(t *testing.T) Store) {
	takeTogether(t, nodes[0].Store, nodes[1].Store)
}
