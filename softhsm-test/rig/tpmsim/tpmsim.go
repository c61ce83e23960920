// Package tpmsim is a second TPM 2.0 for tests: the simulator of go-tpm-tools, which is linked into the test and served on a Unix
// socket. It differs from swtpm: it refuses RSA keys of 3,072 bits, and a reset does not make it ask for TPM2_Startup. It is a package
// of its own because it takes a C compiler a while and needs OpenSSL's headers.
//
// It is for tests only, and there is one per process: a second one waits for the end of the first.
package tpmsim

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm-tools/simulator"
)

// TPM is the simulator behind a socket.
type TPM struct {
	URI string

	mu  sync.Mutex // guards sim: one command at a time
	sim *simulator.Simulator
}

// Start starts a TPM fresh from the factory. It ends with the test.
func Start(t testing.TB) *TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "kwtpm") // a socket's path is short, which t.TempDir need not be
	if err != nil {
		t.Fatalf("making a directory: %v", err)
	}
	sim, err := simulator.Get()
	if err != nil {
		t.Fatalf("starting the simulator: %v", err)
	}
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket) //nolint:noctx // it does not wait
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	m := &TPM{URI: "tpm:unix:" + socket, sim: sim}
	var running sync.WaitGroup
	stop := make(chan struct{})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				done := make(chan struct{})
				running.Go(func() {
					select {
					case <-stop:
					case <-done:
					}
					hangUp(c)
				})
				defer close(done)
				// It ends when the other side does.
				_ = m.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		hangUp(l)
		close(stop)
		running.Wait()
		if err := sim.Close(); err != nil {
			t.Errorf("stopping the simulator: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the simulator's directory: %v", err)
		}
	})
	return m
}

// Cycle restarts the TPM as a machine's restart does, TPM2_Startup included. Its connections stay.
func (m *TPM) Cycle(t testing.TB) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.sim.Reset(); err != nil {
		t.Errorf("resetting the simulator: %v", err)
	}
}

// hangUp closes a line; what that says is nobody's matter any more.
func hangUp(c io.Closer) { c.Close() }

func (m *TPM) serve(c net.Conn) error {
	for {
		var header [10]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(header[2:])
		if size < 10 || size > 1<<16 {
			return errors.New("a command has an impossible size")
		}
		command := make([]byte, size)
		copy(command, header[:])
		if _, err := io.ReadFull(c, command[10:]); err != nil {
			return err
		}
		response, err := m.run(command)
		if err != nil {
			return err
		}
		if _, err := c.Write(response); err != nil {
			return err
		}
	}
}

func (m *TPM) run(command []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.sim.Write(command); err != nil {
		return nil, err
	}
	return io.ReadAll(m.sim)
}
