package backendtest

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

// want fails the test unless err is a fault with one of the codes.
func want(t testing.TB, what string, err error, codes ...fault.Code) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want %v", what, codes)
		return
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Errorf("%s: error %v is no fault, want %v", what, err, codes)
		return
	}
	if !slices.Contains(codes, f.Code) {
		t.Errorf("%s: error %v, want %v", what, err, codes)
	}
}

// alike collects failures that must not be told apart: one code, one message.
type alike struct {
	code    fault.Code
	message string
	seen    int
}

// add fails the test when err differs from those before, or out is not empty.
func (a *alike) add(t testing.TB, what string, out []byte, err error) {
	t.Helper()
	if len(out) != 0 {
		t.Errorf("%s: %d bytes came out beside error %v", what, len(out), err)
	}
	want(t, what, err, a.code)
	var f *fault.Error
	if !errors.As(err, &f) {
		return // want has said so
	}
	if a.seen == 0 {
		a.message = f.Message
	}
	a.seen++
	if f.Message != a.message {
		t.Errorf("%s: message %q, another failure says %q", what, f.Message, a.message)
	}
}

// property checks f on many inputs, as a test of its own: rapid takes none that has failed before.
func property(t *testing.T, f func(*rapid.T)) {
	t.Helper()
	t.Run("any", func(t *testing.T) { rapid.Check(t, f) })
}

// seeded draws the source of a case's bytes: a case is found again by its seed, which drawing each byte would make slow.
func seeded(t *rapid.T) *rand.Rand {
	return rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)) //nolint:gosec // test data, not keys
}

func filled(gen *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(gen.Uint32())
	}
	return b
}

// positions samples indexes of n bytes: all of a short value, and both ends and every so many of a long one.
func positions(n int) []int {
	const most = 96
	var out []int
	for i := range n {
		if n <= most || i < 24 || i >= n-24 || i%(n/48+1) == 0 {
			out = append(out, i)
		}
	}
	return out
}

// flip copies b with one bit of byte i changed.
func flip(b []byte, i int) []byte {
	c := slices.Clone(b)
	c[i] ^= 1 << (i % 8)
	return c
}

// settled waits until no more goroutines run than before, and fails the test when they do not end.
func settled(t testing.TB, before int) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Second)
	for {
		n := runtime.NumGoroutine()
		if n <= before {
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Errorf("%d goroutines before Open, %d after Close:\n%s", before, n, buf[:runtime.Stack(buf, true)])
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
