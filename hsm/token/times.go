package token

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Timed is what an operation is counted as in Stats.Times. The operations of Use are counted as what they are.
type Timed uint8

const (
	TimeOther   Timed                  = 0                         // look-ups, lists, tests
	TimeMany    Timed                  = Timed(Decapsulate) + iota // many inputs to one operation, a turn of them
	TimeRandom                                                     // random bytes
	TimeMake                                                       // keys made, brought in or placed
	TimeDestroy                                                    // keys destroyed
	timedKinds  = int(TimeDestroy) + 1                             // how many there are
	TimedKinds  = timedKinds                                       // the length of Stats.Times
	firstBucket = 14                                               // 2^14 ns: 16.4 µs
	TimeBuckets = 20                                               // 2^33 ns: 8.6 s
)

var timedNames = [timedKinds]string{"other", "sign", "encrypt", "decrypt", "mac", "agree", "wrap", "unwrap", "decapsulate", "many", "random", "make", "destroy"}

func (t Timed) String() string {
	if int(t) < len(timedNames) {
		return timedNames[t]
	}
	return "other"
}

// Histogram counts times in buckets whose bounds are powers of two.
type Histogram struct {
	// Counts has in place i how many took less than TimeBound(i), and no less than the bound before; in the last place those above all bounds.
	Counts [TimeBuckets + 1]uint64
	Sum    time.Duration
}

// TimeBound is the upper bound of a bucket.
func TimeBound(i int) time.Duration { return 1 << (firstBucket + i) }

// Times are how long operations of a kind waited for a session, and how long they had one.
type Times struct{ Queue, Device Histogram }

// Add adds what another process has counted.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
	h.Sum += o.Sum
}

// timing is a Histogram that is counted in. Its parts are read one after the other: a scrape may miss the latest.
type timing struct {
	counts [TimeBuckets + 1]atomic.Uint64
	sum    atomic.Int64
}

func (t *timing) observe(d time.Duration) {
	i := min(bits.Len64(uint64(max(d, 0))>>firstBucket), TimeBuckets)
	t.counts[i].Add(1)
	t.sum.Add(int64(d))
}

func (t *timing) load() (h Histogram) {
	for i := range t.counts {
		h.Counts[i] = t.counts[i].Load()
	}
	h.Sum = time.Duration(t.sum.Load())
	return h
}

type timings [timedKinds]struct{ queue, device timing }

func (t *timings) load() (out [TimedKinds]Times) {
	for i := range t {
		out[i] = Times{t[i].queue.load(), t[i].device.load()}
	}
	return out
}

// as marks what a job is counted as.
func as(t Timed) jobFlags { return jobFlags(t) << 8 }

// timed is what a job is counted as: of those that must not be repeated, unless it is said, the making of a key.
func (f jobFlags) timed() Timed {
	if t := Timed(f >> 8); t != TimeOther || f&once == 0 {
		return t
	}
	return TimeMake
}
