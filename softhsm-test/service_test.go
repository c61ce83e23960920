// Package softhsmtest runs the real binary with its real parts and breaks them: kill -9 under load, a full disk, damaged
// files, hostile clients. (The modules and fault rigs for devices live here too as they come.)
package softhsmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var kills = flag.Int("kills", 8, "how often the crash test kills the service")

var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "keywright-it-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "keywright")
	build := exec.Command("go", "build", "-o", binary, "../cmd/keywright")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the service:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// service is a running `keywright serve`.
type service struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	log  *logBuffer
	done chan error
	base string
	key  string
	http *http.Client
}

// command prepares the service over dir without starting it.
func command(dir string, args ...string) *exec.Cmd {
	return exec.Command(binary, append([]string{"serve", "--dev", "--data", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, args...)...)
}

// start runs the service over dir and waits until it answers.
func start(t *testing.T, dir string, args ...string) *service {
	t.Helper()
	s := launch(t, dir, args...)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case err := <-s.done:
			t.Fatalf("the service ended at start: %v\n%s", err, s.log)
		default:
		}
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		if err == nil && len(bytes.TrimSpace(address)) > 0 {
			s.base = "http://" + strings.TrimSpace(string(address))
			if r, err := s.http.Get(s.base + "/health"); err == nil {
				r.Body.Close()
				if r.StatusCode == http.StatusOK {
					key, err := os.ReadFile(filepath.Join(dir, "owner.key"))
					if err != nil {
						t.Fatal(err)
					}
					s.key = strings.TrimSpace(string(key))
					return s
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("the service did not answer within 20 s\n%s", s.log)
	return nil
}

// launch starts the process and nothing more.
func launch(t *testing.T, dir string, args ...string) *service {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "address")); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EROFS) {
		t.Fatal(err)
	}
	s := &service{t: t, dir: dir, log: &logBuffer{}, done: make(chan error, 1)}
	s.http = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	s.cmd = command(dir, args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	})
	return s
}

// kill ends the service without warning.
func (s *service) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	<-s.done
	s.http.CloseIdleConnections()
}

// stop ends it in good order, which must take no more than ten seconds and end without error.
func (s *service) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Fatalf("the service ended with %v\n%s", err, s.log)
		}
	case <-time.After(10 * time.Second):
		s.t.Fatalf("the service did not stop within 10 s\n%s", s.log)
	}
	s.http.CloseIdleConnections()
}

// answer is a response: status, error code, and data still as JSON.
type answer struct {
	status    int
	code      string
	requestID string
	data      json.RawMessage
	after     string // Retry-After
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.data, v); err != nil {
		t.Fatalf("%s: %v", a.data, err)
	}
}

// call sends one request with the owner's key. The error is that of the connection.
func (s *service) call(method, path string, body any) (answer, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	if body == nil {
		b = nil
	}
	req, err := http.NewRequestWithContext(context.Background(), method, s.base+"/api/v1"+path, bytes.NewReader(b))
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	var v struct {
		Data  json.RawMessage `json:"data"`
		Error struct {
			Code string `json:"error_code"`
		} `json:"error"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return answer{}, fmt.Errorf("status %d, body %.200q: %w", resp.StatusCode, raw, err)
	}
	return answer{resp.StatusCode, v.Error.Code, v.RequestID, v.Data, resp.Header.Get("Retry-After")}, nil
}

// must is call, expecting the status.
func (s *service) must(status int, method, path string, body any) answer {
	s.t.Helper()
	a, err := s.call(method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", method, path, err, s.log)
	}
	if a.status != status {
		s.t.Fatalf("%s %s: status %d %s, want %d", method, path, a.status, a.code, status)
	}
	return a
}

type m = map[string]any

// cli runs the command line against the service and gives its output.
func (s *service) cli(args ...string) (string, error) {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "KEYWRIGHT_ADDR="+s.base, "KEYWRIGHT_API_KEY="+s.key)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
