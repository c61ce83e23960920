package transport_test

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/api"
	"github.com/keywright/keywright/transport"
)

func TestEndpoints(t *testing.T) {
	for address, want := range map[string]struct{ ok, loopback bool }{
		"127.0.0.1:8200": {true, true}, "[::1]:0": {true, true}, "localhost:1": {true, true}, "0.0.0.0:8200": {true, false}, ":8200": {true, false},
		"unix:/run/k/api.sock": {true, true}, "example.org:443": {true, false},
		"8200": {false, false}, "host:": {false, false}, "host:http": {false, false}, "host:70000": {false, false},
		"unix:": {false, true}, "unix:api.sock": {false, true}, "unix:/a/../b": {false, true}, "unix:/" + strings.Repeat("x", 110): {false, true},
	} {
		e := transport.Endpoint{Address: address}
		if err := e.Check(); (err == nil) != want.ok || e.Loopback() != want.loopback {
			t.Errorf("%s: %v, loopback %v", address, err, e.Loopback())
		}
	}
	for _, e := range []transport.Endpoint{{Address: "127.0.0.1:1", Mode: 0o600}, {Address: "127.0.0.1:1", Group: "0"},
		{Address: "unix:/x", Mode: fs.ModeSetuid}, {Address: "unix:/x", Group: "no-such-group-here"}} {
		if e.Check() == nil {
			t.Errorf("%+v is taken", e)
		}
	}
}

// TestUnixSocket: the socket has its mode before anybody can connect, the peer is who the kernel says, and the place of one that was left behind is taken.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	e := transport.Endpoint{Address: "unix:" + path, Mode: 0o660, Group: strconv.Itoa(os.Getgid())}
	l, err := transport.Listen(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode() != fs.ModeSocket|0o660 {
		t.Fatalf("%v %v", st, err)
	}
	if _, err := transport.Listen(t.Context(), e); err == nil || !strings.Contains(err.Error(), "somebody listens") {
		t.Errorf("a second listener: %v", err)
	}
	peers := make(chan string, 1)
	serve(t, l, func(w http.ResponseWriter, r *http.Request) {
		p, ok := transport.PeerOf(r.Context())
		peers <- fmt.Sprintln(p.UID, p.GID, p.PID, ok)
	}, api.ServeOptions{})
	cmd := exec.CommandContext(t.Context(), "curl", "-sS", "-D", "-", "--unix-socket", path, "http://localhost/")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 200") || strings.Contains(string(out), "Strict-Transport") {
		t.Fatalf("%v %s", err, out)
	}
	if got, want := <-peers, fmt.Sprintln(os.Getuid(), os.Getgid(), cmd.Process.Pid, true); got != want {
		t.Errorf("the peer is %s, want %s", got, want)
	}
}

func TestSocketsLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	e := transport.Endpoint{Address: "unix:" + path}
	l, err := transport.Listen(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o600 || l.Addr().String() != path {
		t.Errorf("%v %v %v", st, err, l.Addr())
	}
	// What stands at the path by then is another's.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := transport.Listen(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("the successor's socket was removed")
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Listen(t.Context(), e); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("in the place of a file: %v", err)
	}
}

func TestNoPeerOnTCP(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	known := make(chan bool, 1)
	serve(t, l, func(_ http.ResponseWriter, r *http.Request) {
		_, ok := transport.PeerOf(r.Context())
		known <- ok || transport.ClientChain(r) != nil
	}, api.ServeOptions{})
	if out, err := exec.CommandContext(t.Context(), "curl", "-sS", "http://"+l.Addr().String()+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if <-known {
		t.Error("a TCP client has a credential")
	}
	if _, ok := transport.PeerOf(context.Background()); ok {
		t.Error("nobody is somebody")
	}
}

func TestHeaders(t *testing.T) {
	const console = "https://console.example.org"
	h := transport.Headers(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "mine")
		w.WriteHeader(http.StatusTeapot)
	}), transport.CORS{Origins: []string{console}})
	plain := transport.Headers(http.NotFoundHandler(), transport.CORS{})
	do := func(h http.Handler, method string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "/", nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		"Strict-Transport-Security": "", "Access-Control-Allow-Origin": "", "Vary": ""} {
		if got := do(plain, "GET", "Origin", console).Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := do(h, "GET").Header().Get("Content-Security-Policy"); got != "mine" {
		t.Errorf("a handler's own policy became %q", got)
	}
	preflight := []string{"Access-Control-Request-Method", "POST"}
	for _, c := range []struct {
		method, origin string
		more           []string
		status         int
		allow          string
		methods        bool
	}{
		{"GET", "", nil, 418, "", false},
		{"GET", console, nil, 418, console, false},
		{"OPTIONS", console, preflight, 204, console, true},
		{"OPTIONS", console, nil, 418, console, false},
		{"OPTIONS", console + ".evil.example", preflight, 418, "", false},
		{"GET", "https://CONSOLE.example.org", nil, 418, "", false},
		{"GET", "null", nil, 418, "", false},
		{"GET", "http://console.example.org", nil, 418, "", false},
	} {
		headers := c.more
		if c.origin != "" {
			headers = append([]string{"Origin", c.origin}, headers...)
		}
		w := do(h, c.method, headers...)
		if w.Code != c.status || w.Header().Get("Access-Control-Allow-Origin") != c.allow || (w.Header().Get("Access-Control-Allow-Methods") != "") != c.methods ||
			w.Header().Get("Access-Control-Allow-Credentials") != "" || !strings.HasPrefix(w.Header().Get("Vary"), "Origin") {
			t.Errorf("%s of %q: %d %v", c.method, c.origin, w.Code, w.Header())
		}
	}
	for origin, ok := range map[string]bool{console: true, "https://a:8443": true, "http://localhost:3000": true, "http://127.0.0.1": true, "http://example.org": false, "*": false,
		"null": false, "https://a/": false, "https://a/b": false, "https://u@a": false, "a.example": false, "https://": false, "ftp://a": false, "https://*.a": false} {
		if err := (transport.CORS{Origins: []string{origin}}).Check(); (err == nil) != ok {
			t.Errorf("%s: %v", origin, err)
		}
	}
}

// TestSocketFromItsBeginning: nobody can connect to a socket before it has its mode, whatever the umask lets others do.
func TestSocketFromItsBeginning(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	stop, seen := make(chan struct{}), make(chan fs.FileMode, 1)
	go func() {
		var all fs.FileMode
		for {
			if info, err := os.Lstat(path + ".new"); err == nil {
				all |= info.Mode().Perm()
			}
			select {
			case <-stop:
				seen <- all
				return
			default:
			}
		}
	}()
	for range 300 {
		l, err := transport.Listen(t.Context(), transport.Endpoint{Address: "unix:" + path})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if mode := <-seen; mode&^0o600 != 0 {
		t.Errorf("the socket had mode %o", mode)
	}
}
