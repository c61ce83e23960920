package softhsmtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// resident gives the service's resident memory in MB (10^6 bytes).
func (s *service) resident() float64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return kb * 1024 / 1e6
		}
	}
	s.t.Fatal("no VmRSS")
	return 0
}

// raw sends bytes as a body with a content type and gives status and body.
func (s *service) raw(path, contentType string, body io.Reader) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.base+"/api/v1"+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatalf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestHostileBodies: each is refused with its own code, and the service is as before.
func TestHostileBodies(t *testing.T) {
	s := start(t, t.TempDir())
	s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "AES-256-GCM"})
	const js = "application/json"
	deep := strings.Repeat(`{"plaintext":`, 100_000)
	for _, c := range []struct {
		name, contentType, body string
		status                  int
		code                    string
	}{
		{"10 MB", js, `{"plaintext":"` + strings.Repeat("A", 10<<20) + `"}`, 413, "ERR_BODY_TOO_LARGE"},
		{"deep", js, deep, 400, "ERR_INVALID_JSON"},
		{"deep arrays", js, `{"items":` + strings.Repeat("[", 200_000), 400, "ERR_INVALID_JSON"},
		{"not JSON", js, "plaintext=x", 400, "ERR_INVALID_JSON"},
		{"empty", js, "", 400, "ERR_INVALID_JSON"},
		{"trailing", js, `{"plaintext":"eA=="}{}`, 400, "ERR_INVALID_JSON"},
		{"twice", js, `{"plaintext":"eA==","plaintext":"eA=="}`, 400, "ERR_INVALID_JSON"},
		{"unknown field", js, `{"plaintext":"eA==","color":"red"}`, 400, "ERR_UNKNOWN_FIELD"},
		{"other case", js, `{"Plaintext":"eA=="}`, 400, "ERR_UNKNOWN_FIELD"},
		{"unpadded", js, `{"plaintext":"eA"}`, 400, "ERR_INVALID_ENCODING"},
		{"URL alphabet", js, `{"plaintext":"-_-_"}`, 400, "ERR_INVALID_ENCODING"},
		{"line break", js, `{"plaintext":"eA\n=="}`, 400, "ERR_INVALID_ENCODING"},
		{"nothing", js, `{}`, 400, "ERR_MISSING_FIELD"},
		{"both", js, `{"plaintext":"eA==","items":[{"plaintext":"eA=="}]}`, 400, "ERR_MISSING_FIELD"},
		{"no items", js, `{"items":[]}`, 400, "ERR_TOO_MANY_ITEMS"},
		{"1,001 items", js, `{"items":[` + strings.TrimSuffix(strings.Repeat(`{"plaintext":"eA=="},`, 1001), ",") + `]}`, 400, "ERR_TOO_MANY_ITEMS"},
		{"form", "application/x-www-form-urlencoded", `{"plaintext":"eA=="}`, 415, "ERR_UNSUPPORTED_MEDIA_TYPE"},
		{"text", "text/plain", `{"plaintext":"eA=="}`, 415, "ERR_UNSUPPORTED_MEDIA_TYPE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := s.raw("/keys/k/encrypt", c.contentType, strings.NewReader(c.body))
			if status != c.status || !strings.Contains(body, `"`+c.code+`"`) {
				t.Errorf("status %d, body %.300s; want %d %s", status, body, c.status, c.code)
			}
		})
	}
	s.must(200, "POST", "/keys/k/encrypt", m{"plaintext": []byte("x")})
	if mb := s.resident(); mb > 150 {
		t.Errorf("%.0f MB resident after hostile bodies", mb)
	}
	s.stop()
}

// TestIdleConnections: ten thousand connections that say nothing cost bounded memory, and new clients are served.
func TestIdleConnections(t *testing.T) {
	s := start(t, t.TempDir())
	s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "AES-256-GCM"})
	address := strings.TrimPrefix(s.base, "http://")
	conns := make([]net.Conn, 0, 10_000)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range cap(conns) {
		c, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			t.Fatalf("after %d connections: %v", len(conns), err)
		}
		conns = append(conns, c)
	}
	before := time.Now()
	s.must(200, "POST", "/keys/k/encrypt", m{"plaintext": []byte("x")})
	if d := time.Since(before); d > 2*time.Second {
		t.Errorf("a request took %v beside ten thousand idle connections", d)
	}
	if mb := s.resident(); mb > 150 {
		t.Errorf("%.0f MB resident with ten thousand idle connections", mb)
	}
	s.stop()
}

// TestSlowClients: a hundred clients that send their body byte by byte hold up nobody else and are cut off in the end.
func TestSlowClients(t *testing.T) {
	s := start(t, t.TempDir())
	s.must(201, "POST", "/keys", m{"name": "k", "algorithm": "AES-256-GCM"})
	address := strings.TrimPrefix(s.base, "http://")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 100 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			var head bytes.Buffer
			fmt.Fprintf(&head, "POST /api/v1/keys/k/encrypt HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", address, s.key)
			if _, err := c.Write(head.Bytes()); err != nil {
				return
			}
			for ctx.Err() == nil {
				if _, err := c.Write([]byte(" ")); err != nil {
					return // cut off, as it should be
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	for range 50 {
		before := time.Now()
		s.must(200, "POST", "/keys/k/encrypt", m{"plaintext": []byte("x")})
		if d := time.Since(before); d > time.Second {
			t.Errorf("a request took %v beside a hundred slow clients", d)
		}
	}
	cancel()
	wg.Wait()
	s.stop()
}
