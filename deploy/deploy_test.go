// Package deploy_test holds what is handed to operators against what reads it: systemd, container builders, Compose, load balancers, Kubernetes.
package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

var built struct {
	sync.Once
	dir, path string
	out       []byte
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			code = 1
		}
	}
	os.Exit(code)
}

// binary gives the program.
func binary(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "kwdeploy"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "keywright")
		// Others than this test's user start it too.
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil { //nolint:gosec // see above
			return
		}
		built.out, built.err = exec.Command("go", "build", "-o", built.path, "../cmd/keywright").CombinedOutput()
	})
	if built.err != nil {
		t.Fatalf("building the program: %v\n%s", built.err, built.out)
	}
	return built.path
}

// process is a program that runs beside a test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *buffer
	done chan error
	over bool
}

// buffer is written by a process and read by a test.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startWith starts the program with these variables alone.
func startWith(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return begin(t, cmd)
}

func begin(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: new(buffer), done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, p.log.String())
		}
		p.kill()
	})
	return p
}

// kill ends it without a warning.
func (p *process) kill() {
	p.t.Helper()
	if p.over {
		return
	}
	p.over = true
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Logf("killing %s: %v", p.cmd.Path, err)
	}
	<-p.done // an error: it was killed
}

// stop ends it as a service manager does, and wants it to end well.
func (p *process) stop() {
	p.t.Helper()
	p.over = true
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			p.t.Errorf("it ends with %v\n%s", err, p.log.String())
		}
	case <-time.After(30 * time.Second):
		p.over = false
		p.t.Fatal("it does not end")
	}
}
