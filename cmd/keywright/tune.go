package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// softLimit is what the Go heap aims to stay under, in bytes, beside what the caches of opened keys hold. The rest of the process (SQLite's
// caches, the program itself) is about 30 MB more.
const softLimit = 64 << 20

// tune fits the runtime to a server whose writer spends most of its time inside fsync. What the environment says (GOMAXPROCS,
// GOGC, GOMEMLIMIT) goes first.
func tune() {
	// A thread in a long system call keeps its processor until the scheduler's monitor takes it away, some 20 µs later and at the cost
	// of a wake-up. With one processor more than cores the others go on meanwhile.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
	// The live heap is a few megabytes, so the default would collect dozens of times a second under load; the limit takes over
	// when caches have filled.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(softLimit)
	}
}

// limitStep is by how many bytes held must have changed for the limit to follow: setting it stops the program for some microseconds.
const limitStep = 4 << 20

// followLimit keeps the limit of the heap above what the caches of opened keys hold, until ctx ends: a thousand ML-DSA keys are as large as the
// limit itself, and the collector would not stop any more.
func followLimit(ctx context.Context, held *atomic.Int64) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for set := int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := held.Load(); now > set+limitStep || now < set-limitStep {
			debug.SetMemoryLimit(softLimit + now + now/8) // the eighth: what lives for one request beside what is kept
			set = now
		}
	}
}
