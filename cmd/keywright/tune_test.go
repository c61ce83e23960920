package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFollowLimit: the limit of the heap rises and falls with what the caches hold, and stays where the environment has put it.
func TestFollowLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	follow := func(t *testing.T, steps ...[2]int64) { // held, and the limit then
		synctest.Test(t, func(t *testing.T) {
			var held atomic.Int64
			ctx, cancel := context.WithCancel(t.Context())
			go followLimit(ctx, &held)
			for i, s := range steps {
				held.Store(s[0])
				time.Sleep(1100 * time.Millisecond)
				synctest.Wait()
				if got := debug.SetMemoryLimit(-1); got != s[1] {
					t.Errorf("step %d: the limit is %d, want %d", i, got, s[1])
				}
			}
			cancel()
		})
	}
	t.Setenv("GOMEMLIMIT", "")
	const mib = 1 << 20
	debug.SetMemoryLimit(softLimit)
	follow(t, [2]int64{mib, softLimit}, [2]int64{80 * mib, softLimit + 90*mib}, [2]int64{78 * mib, softLimit + 90*mib}, [2]int64{0, softLimit})
	t.Setenv("GOMEMLIMIT", "200MiB")
	debug.SetMemoryLimit(200 * mib)
	follow(t, [2]int64{80 * mib, 200 * mib})
}

// TestCacheOfConfig: the bound of opened keys is read in MiB; nothing is the default, and less than nothing no bound.
func TestCacheOfConfig(t *testing.T) {
	for text, want := range map[string]int64{"cache: {material_mib: 32}": 32 << 20, "cache: {}": 0, "cache: {material_mib: -1}": -1 << 20} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := loadConfig(path)
		if err != nil || c.Cache.materialBytes() != want {
			t.Errorf("%s: %d, %v", text, c.Cache.materialBytes(), err)
		}
	}
}
