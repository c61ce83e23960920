package sink_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/audit/sink"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/store/sqlite"
)

// env is a real store with a real log.
type env struct {
	store *sqlite.Store
	log   *audit.Log
	dir   string
	n     int
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{dir: t.TempDir()}
	var err error
	if e.store, err = sqlite.Open(t.Context(), filepath.Join(e.dir, "store.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	if e.log, err = audit.Open(t.Context(), e.store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(e.log.Close(context.Background()), e.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// add records entries, each another one.
func (e *env) add(t *testing.T, n int) {
	t.Helper()
	var group sync.WaitGroup
	for range n {
		e.n++
		entry := &audit.Entry{Principal: "p", Action: "test", Outcome: "ok", Detail: fmt.Sprint("n\"", e.n)}
		group.Go(func() {
			if _, err := e.log.Record(t.Context(), entry); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// lines are those that the log has.
func (e *env) lines(t *testing.T) []string {
	t.Helper()
	all, err := e.store.AuditEntries(t.Context(), 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, len(all))
	for i := range all {
		out[i] = string(all[i].Leaf)
	}
	return out
}

func (e *env) options(t *testing.T) sink.Options {
	t.Helper()
	leases, err := cluster.NewLeases(cluster.LeasesOptions{Store: e.store, Holder: uuid.New(), TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return sink.Options{Entries: e.store, Cursors: e.store, Leases: leases, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// run runs a sink until stop is called, or the test ends.
func run(t *testing.T, s *sink.Sink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("too late: %s", what)
		}
	}
}

func read(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// TestFile: every entry once, over restarts, a line that was cut, and a file that is moved away.
func TestFile(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	path := filepath.Join(e.dir, "audit.lines")
	e.add(t, 700)
	open := func() func() { return run(t, sink.NewFile("file", path, e.options(t))) }
	want := func(n int) {
		t.Helper()
		wait(t, "the file is the log", func() bool {
			got := read(t, path)
			return len(got) == n+1 && got[0] == audit.LinesHeader+" 0" && strings.Join(got[1:], "\n") == strings.Join(e.lines(t), "\n")
		})
	}
	stop := open()
	want(700)
	e.add(t, 20)
	want(720)
	stop()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Truncate(path, info.Size()-10); err != nil {
		t.Fatal(err)
	}
	stop = open()
	want(720)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	e.add(t, 5)
	wait(t, "the next file", func() bool { return len(read(t, path)) == 6 })
	if got := read(t, path); got[0] != audit.LinesHeader+" 720" || strings.Join(got[1:], "\n") != strings.Join(e.lines(t)[720:], "\n") {
		t.Errorf("%q", got)
	}
	stop()
	if err := os.WriteFile(path, []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = open()
	time.Sleep(300 * time.Millisecond)
	stop()
	if got := read(t, path); len(got) != 1 {
		t.Errorf("a file of another kind is written to: %q", got)
	}
}

// TestHTTP: over TLS, in order, repeated as the same batch after failures, going on over restarts.
func TestHTTP(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var mu sync.Mutex // guards what follows
	var got []string
	calls := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		calls++
		first, e1 := strconv.Atoi(r.Header.Get(sink.HeaderFirst))
		n, e2 := strconv.Atoi(r.Header.Get(sink.HeaderCount))
		lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
		if errors.Join(err, e1, e2) != nil || n != len(lines) || r.Header.Get("Content-Type") != "application/x-ndjson" || r.Header.Get("Authorization") != "Bearer s3" {
			t.Errorf("%v, %d lines", r.Header, len(lines))
		}
		if calls%3 == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			if calls%2 == 0 {
				return // and took nothing
			}
		}
		if first > len(got) {
			t.Errorf("a batch at %d, behind %d", first, len(got))
		}
		got = append(got[:first], lines...) // as a receiver does that knows a batch by its index
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	token := filepath.Join(e.dir, "token")
	if err := os.WriteFile(token, []byte("s3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() func() {
		k, err := sink.NewHTTP("siem", s.URL+"/in", token, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, e.options(t))
		if err != nil {
			t.Fatal(err)
		}
		return run(t, k)
	}
	all := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(got, "\n") == strings.Join(e.lines(t), "\n")
	}
	e.add(t, 1200)
	stop := open()
	wait(t, "all", all)
	e.add(t, 3)
	wait(t, "the next", all)
	stop()
	mu.Lock()
	before := calls
	mu.Unlock()
	e.add(t, 1)
	open()
	wait(t, "the last", all)
	mu.Lock()
	defer mu.Unlock()
	if calls > before+2 {
		t.Errorf("%d calls for one entry", calls-before)
	}
	for _, bad := range []string{"http://siem.example.org/", "https://", "ftp://x/", "https://a:b@x/", "https://x/#y"} {
		if _, err := sink.NewHTTP("x", bad, "", nil, sink.Options{}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// message is RFC 5424 section 6, strictly, as far as this program uses it.
var message = regexp.MustCompile(`^<110>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} keywright - audit \[entry@32473 index="(\d+)"\] (\{.*\})$`)

// TestSyslog: octet-counted over TCP and TLS, one a datagram over UDP and a Unix socket; a server that comes back gets the rest.
func TestSyslog(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.add(t, 40)
	var mu sync.Mutex // guards got
	got := map[string]map[string]string{}
	take := func(name string, b []byte) {
		m := message.FindSubmatch(b)
		if m == nil {
			t.Errorf("%s: %q is no message", name, b)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if got[name] == nil {
			got[name] = map[string]string{}
		}
		got[name][string(m[1])] = string(m[2])
	}
	stream := func(name string, l net.Listener) {
		t.Cleanup(func() { l.Close() })
		go func() {
			for first := true; ; first = false {
				c, err := l.Accept()
				if err != nil {
					return
				}
				in := bufio.NewReader(c)
				for n := 0; ; n++ {
					size, err := in.ReadString(' ')
					if err != nil || first && n == 10 {
						break // the first connection is cut
					}
					k, err := strconv.Atoi(strings.TrimSuffix(size, " "))
					if err != nil || size[0] == '0' {
						t.Errorf("%s: %q is no size", name, size)
						break
					}
					b := make([]byte, k)
					if _, err := io.ReadFull(in, b); err != nil {
						break
					}
					take(name, b)
				}
				c.Close()
			}
		}()
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stream("tcp", tcp)
	borrowed := httptest.NewTLSServer(nil)
	defer borrowed.Close()
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: borrowed.TLS.Certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	stream("tls", secure)
	packets := func(name string, c net.PacketConn) {
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, _, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				take(name, bytes.Clone(b[:n]))
			}
		}()
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets("udp", udp)
	socket := filepath.Join(e.dir, "log")
	gram, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	packets("unixgram", gram)
	roots := x509.NewCertPool()
	roots.AddCert(borrowed.Certificate())
	for name, target := range map[string]string{"tcp": "tcp://" + tcp.Addr().String(), "tls": "tls://" + secure.Addr().String(),
		"udp": "udp://" + udp.LocalAddr().String(), "unixgram": "unixgram://" + socket} {
		s, err := sink.NewSyslog(name, target, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, e.options(t))
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
	}
	time.Sleep(500 * time.Millisecond) // the first connections are cut by now
	e.add(t, 40)
	time.Sleep(500 * time.Millisecond)
	e.add(t, 40)
	lines := e.lines(t)
	for _, name := range []string{"tcp", "tls", "udp", "unixgram"} {
		wait(t, name, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return got[name]["119"] == lines[119]
		})
		mu.Lock()
		for i, line := range got[name] {
			if n, err := strconv.Atoi(i); err != nil || lines[n] != line {
				t.Errorf("%s: entry %s is %q", name, i, line)
			}
		}
		if n := len(got[name]); n < 80 {
			t.Errorf("%s: only %d of 120 entries came", name, n)
		}
		mu.Unlock()
	}
	for _, bad := range []string{"", "tcp://x", "tls://:1", "http://x:1", "unix://host/x", "udp://a@x:1", "tcp://x:1/y"} {
		if _, err := sink.NewSyslog("x", bad, nil, sink.Options{}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
