package rig

import (
	"strconv"
	"syscall"
	"testing"
	"time"
)

// P11KitServer is a SoftHSM token behind p11-kit's server, and the module is the server's client: an HSM on the network.
type P11KitServer struct {
	*Part
	pid int // leader of the server's process group; 0 while it is down
}

// P11Kit starts the server. It ends with the test.
func P11Kit(t testing.TB) *P11KitServer {
	t.Helper()
	s := &P11KitServer{}
	dir := tempDir(t)
	t.Cleanup(func() { s.end(t, dir) })
	s.start(t, dir)
	return s
}

// Kill ends the server and its child per connection, without warning, and waits until they are gone.
func (s *P11KitServer) Kill(t testing.TB) {
	t.Helper()
	s.end(t, s.Dir)
}

// Stop freezes the server: calls through it block without end.
func (s *P11KitServer) Stop(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
}

// Continue lets a frozen server go on.
func (s *P11KitServer) Continue(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGCONT)
}

// Restart brings the server up again, on the same socket, in front of the same token. A running one is killed first.
func (s *P11KitServer) Restart(t testing.TB) {
	t.Helper()
	s.end(t, s.Dir)
	s.start(t, s.Dir)
}

func (s *P11KitServer) start(t testing.TB, dir string) {
	t.Helper()
	part, values := setUp(t, "p11kit.sh", dir)
	pid, err := strconv.Atoi(values["HSM_SERVER_PID"])
	if err != nil || pid <= 1 {
		t.Fatalf("p11kit.sh gave the server's pid as %q", values["HSM_SERVER_PID"])
	}
	if s.Part == nil {
		s.Part = part
	}
	s.pid = pid
}

func (s *P11KitServer) end(t testing.TB, dir string) {
	t.Helper()
	if _, err := run("p11kit.sh", dir, "stop"); err != nil {
		t.Errorf("stopping the server: %v", err)
	}
	s.pid = 0
}

func (s *P11KitServer) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if s.pid == 0 {
		t.Fatal("the server is down")
	}
	if err := syscall.Kill(-s.pid, signal); err != nil {
		t.Fatalf("signalling the server: %v", err)
	}
	// A stop is asynchronous; a call begun within the same moment could still be answered.
	time.Sleep(10 * time.Millisecond)
}
