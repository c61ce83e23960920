package sink_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/audit/sink"
)

// TestLargeEntries: whoever makes many large entries does not make a batch that a receiver with the usual limit of 1 MiB refuses for ever.
func TestLargeEntries(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	failed := make([]int, 1000)
	for i := range failed {
		failed[i] = i
	}
	const n = 400
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			if _, err := e.log.Record(t.Context(), &audit.Entry{Principal: "p", Action: "decrypt", Outcome: "ok", Items: len(failed), Failed: failed}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var mu sync.Mutex // guards got
	got := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		first, err := strconv.Atoi(r.Header.Get(sink.HeaderFirst))
		mu.Lock()
		defer mu.Unlock()
		if err != nil || first != got {
			t.Errorf("a batch at %d behind %d, %v", first, got, err)
		}
		got += strings.Count(string(body), "\n")
	}))
	defer s.Close()
	k, err := sink.NewHTTP("siem", s.URL, "", nil, e.options(t))
	if err != nil {
		t.Fatal(err)
	}
	run(t, k)
	wait(t, "all", func() bool { mu.Lock(); defer mu.Unlock(); return got == n })
}

// TestQueryStaysSecret: what stands in the address of a receiver, as a token does for some, does not come into the service's log.
func TestQueryStaysSecret(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.add(t, 1)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	closed.Close()
	var mu sync.Mutex // guards said
	var said strings.Builder
	o := e.options(t)
	o.Logger = slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return said.Write(b) }), nil))
	registry := prometheus.NewRegistry()
	if o.Metrics, err = sink.NewMetrics(registry); err != nil {
		t.Fatal(err)
	}
	k, err := sink.NewHTTP("siem", "http://"+address+"/in?token=s3cret", "", nil, o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, k)
	text := func() string { mu.Lock(); defer mu.Unlock(); return said.String() }
	wait(t, "a warning", func() bool { return strings.Contains(text(), "cannot be handed on") })
	if n, err := testutil.GatherAndCount(registry, "keywright_audit_sink_next"); n != 1 || err != nil {
		t.Errorf("of a place that is away nobody knows how far behind it is: %d, %v", n, err)
	}
	if got := text(); strings.Contains(got, "s3cret") || !strings.Contains(got, address) {
		t.Errorf("the log says %s", got)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// TestSyslogClosed: a server that closes its connections while nothing is under way, as one that is restarted does, misses nothing.
func TestSyslogClosed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex // guards what follows
	got := map[string]bool{}
	var open net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = c
			mu.Unlock()
			go func() {
				in := bufio.NewReader(c)
				for {
					size, err := in.ReadString(' ')
					if err != nil {
						return
					}
					k, err := strconv.Atoi(strings.TrimSpace(size))
					if err != nil {
						t.Errorf("%q is no size", size)
						return
					}
					b := make([]byte, k)
					if _, err := io.ReadFull(in, b); err != nil {
						return
					}
					if m := message.FindSubmatch(b); m != nil {
						mu.Lock()
						got[string(m[1])] = true
						mu.Unlock()
					}
				}
			}()
		}
	}()
	s, err := sink.NewSyslog("syslog", "tcp://"+l.Addr().String(), nil, e.options(t))
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	for round := 1; round <= 3; round++ {
		e.add(t, 5)
		wait(t, fmt.Sprintf("the entries of round %d", round), func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 5*round })
		mu.Lock()
		open.Close()
		mu.Unlock()
		time.Sleep(50 * time.Millisecond) // it is quiet
	}
}

// TestFileCutInPlace: a file that was emptied where it is, as by copytruncate, is a file of lines from then on as well.
func TestFileCutInPlace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	path := filepath.Join(e.dir, "audit.lines")
	open := func() func() { return run(t, sink.NewFile("file", path, e.options(t))) }
	stop := open()
	e.add(t, 20)
	wait(t, "the file", func() bool { return len(read(t, path)) == 21 })
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	e.add(t, 5)
	wait(t, "what comes behind", func() bool { return strings.HasSuffix(strings.Join(read(t, path), "\n"), e.lines(t)[24]) })
	stop()
	open()
	e.add(t, 5)
	wait(t, "the rest", func() bool {
		got := read(t, path)
		return got[0] == audit.LinesHeader+" 20" && strings.Join(got[1:], "\n") == strings.Join(e.lines(t)[20:], "\n")
	})
}

// TestFileOfAnotherLog: a file that has entries which the log has not, since the store was exchanged for an older copy, is not gone on with as if they were
// the same; once it is moved away the next one has the whole log.
func TestFileOfAnotherLog(t *testing.T) {
	t.Parallel()
	for name, older := range map[string]int{"shorter": 10, "changed": 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, after := newEnv(t), newEnv(t)
			path := filepath.Join(before.dir, "audit.lines")
			before.add(t, 20)
			stop := run(t, sink.NewFile("file", path, before.options(t)))
			wait(t, "the file", func() bool { return len(read(t, path)) == 21 })
			stop()
			was := strings.Join(read(t, path), "\n")
			var mu sync.Mutex // guards said
			var said strings.Builder
			o := after.options(t)
			o.Logger = slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return said.Write(b) }), nil))
			after.add(t, older)
			run(t, sink.NewFile("file", path, o))
			wait(t, "a warning", func() bool { mu.Lock(); defer mu.Unlock(); return strings.Contains(said.String(), "not in the log") })
			after.add(t, 30)
			time.Sleep(600 * time.Millisecond)
			if strings.Join(read(t, path), "\n") != was {
				t.Error("the file of another log is gone on with")
			}
			if err := os.Rename(path, path+".before"); err != nil {
				t.Fatal(err)
			}
			wait(t, "the whole log", func() bool {
				got := read(t, path)
				return got[0] == audit.LinesHeader+" 0" && strings.Join(got[1:], "\n") == strings.Join(after.lines(t), "\n")
			})
		})
	}
}

// TestForeignFileIsLeftAlone: what is no file of lines is not emptied because it has no whole line; what is the beginning of one is.
func TestForeignFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x", "\x00\x01key of 32 bytes, without an end", audit.LinesHeader + " 0x", audit.LinesHeader[:9] + "x"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.add(t, 3)
			path := filepath.Join(e.dir, "other")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			stop := run(t, sink.NewFile("file", path, e.options(t)))
			time.Sleep(300 * time.Millisecond)
			stop()
			if b, err := os.ReadFile(path); string(b) != text {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	for _, text := range []string{"", audit.LinesHeader[:9], audit.LinesHeader + " ", audit.LinesHeader + " 12"} {
		t.Run("cut "+text, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.add(t, 3)
			path := filepath.Join(e.dir, "cut")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, sink.NewFile("file", path, e.options(t)))
			wait(t, "the file", func() bool { return len(read(t, path)) == 4 })
		})
	}
}

// TestNoRegularFile: a path that is a pipe is refused, and does not hold up the end of the service.
func TestNoRegularFile(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.add(t, 3)
	path := filepath.Join(e.dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	s := sink.NewFile("file", path, e.options(t))
	go func() { defer close(ended); s.Run(ctx) }()
	time.Sleep(100 * time.Millisecond)
	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the sink does not end")
	}
}
