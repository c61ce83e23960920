package token

import (
	"testing"
	"time"
)

func TestTimings(t *testing.T) {
	var all timings
	for _, d := range []time.Duration{-1, 0, TimeBound(0) - 1, TimeBound(0), TimeBound(3), TimeBound(TimeBuckets-1) - 1, TimeBound(TimeBuckets - 1), time.Hour} {
		all[Sign].device.observe(d)
	}
	got := all.load()[Sign].Device
	want := Histogram{Sum: -1 + 2*TimeBound(0) - 1 + TimeBound(3) + 2*TimeBound(TimeBuckets-1) - 1 + time.Hour}
	want.Counts[0], want.Counts[1], want.Counts[4], want.Counts[TimeBuckets-1], want.Counts[TimeBuckets] = 3, 1, 1, 1, 2
	if got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	got.Add(&want)
	if got.Counts[0] != 6 || got.Sum != 2*want.Sum {
		t.Errorf("added: %+v", got)
	}
	if as(TimeRandom).timed() != TimeRandom || (once|opens).timed() != TimeMake || opens.timed() != TimeOther || (once|as(TimeDestroy)).timed() != TimeDestroy {
		t.Error("jobs are counted as what they are not")
	}
	if Timed(Unwrap).String() != "unwrap" || Timed(Decapsulate).String() != "decapsulate" || TimeMany.String() != "many" || TimeDestroy.String() != "destroy" || TimeMany != Timed(Decapsulate)+1 || Timed(99).String() != "other" {
		t.Error("names and numbers do not fit")
	}
}

func BenchmarkTiming(b *testing.B) {
	var t timing
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			t.observe(123456)
		}
	})
}
