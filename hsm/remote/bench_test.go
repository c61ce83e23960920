package remote

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

// BenchmarkCall is a call that does nothing, through one child, by so many callers. p50-us is the middle latency of one call.
func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, err := Open(b.Context(), token.Config{Module: "noop", InitArgs: b.TempDir(), PIN: secret.Bytes("1")}, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			call := token.Call{Op: token.Sign, Algorithm: backend.ECDSAP256, Input: make([]byte, 32)}
			measure(b, callers, func() error {
				_, err := s.Use(b.Context(), call)
				return err
			})
		})
	}
}

// BenchmarkEcho is what there is to gain: frames of the same size between two Go processes with nothing around them, one
// connection for each caller.
func BenchmarkEcho(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			free := make(chan net.Conn, callers)
			for range callers {
				free <- startEcho(b)
			}
			measure(b, callers, func() error {
				conn := <-free
				defer func() { free <- conn }()
				var p [echoSize]byte
				if _, err := conn.Write(p[:]); err != nil {
					return err
				}
				_, err := io.ReadFull(conn, p[:])
				return err
			})
		})
	}
}

const echoSize = 110

func startEcho(b *testing.B) net.Conn {
	cmd := rogue("echo")()
	l := newLauncher()
	p, conn, err := start(cmd, l, discard, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(); p.kill(); l.close() })
	return conn
}

func measure(b *testing.B, callers int, call func() error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	times := make([][]time.Duration, callers)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				t := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				times[i] = append(times[i], time.Since(t))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(times...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2])/1e3, "p50-us")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
