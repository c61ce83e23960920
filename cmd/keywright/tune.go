package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// softLimit is what the Go heap aims to stay under, in bytes. The rest of the process (SQLite's caches, the program itself) is about
// 30 MB more.
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
