package rig

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// TPMProxy stands on the wire before a TPM: it slows it down, records what passes, answers in its place and cuts the line. Its methods
// may be called by several goroutines at any time.
type TPMProxy struct {
	URI string // what to open instead of the TPM's

	network, address string // the TPM's
	listener         net.Listener
	running          sync.WaitGroup

	mu        sync.Mutex // guards what follows
	conns     map[net.Conn]bool
	slow      map[uint32]time.Duration
	intercept func(command []byte) TPMFault
	recording bool
	wire      []TPMExchange
	commands  int
	away      bool
	closed    bool
}

// TPMExchange is a command and its response as they passed. Response is nil when the line was cut before it came.
type TPMExchange struct{ Command, Response []byte }

// Code is the command's code.
func (e TPMExchange) Code() uint32 { return binary.BigEndian.Uint32(e.Command[6:]) }

// TPMFault is what happens to a command. The zero value: nothing.
type TPMFault struct {
	Delay     time.Duration // before the response
	Answer    []byte        // given instead of asking the TPM; TPMRefusal makes one
	CutBefore bool          // the line is cut, and the TPM does not see the command
	CutAfter  bool          // the line is cut when the TPM has carried the command out
}

// TPMRefusal is a response that refuses a command.
func TPMRefusal(code uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, code)
}

// Proxy puts a proxy before the TPM, on a Unix socket. It ends with the test.
func (m *TPM) Proxy(t testing.TB) *TPMProxy {
	t.Helper()
	network, address := m.Address()
	p, err := NewTPMProxy(filepath.Join(tempDir(t), "proxy"), network, address)
	if err != nil {
		t.Fatalf("starting the proxy: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing the proxy: %v", err)
		}
	})
	return p
}

// NewTPMProxy listens on a Unix socket and passes on to a TPM's ("unix" or "tcp"). The TPM is only reached when somebody connects.
func NewTPMProxy(socket, network, address string) (*TPMProxy, error) {
	l, err := net.Listen("unix", socket) //nolint:noctx // it does not wait
	if err != nil {
		return nil, err
	}
	p := &TPMProxy{URI: "tpm:unix:" + socket, network: network, address: address, listener: l,
		conns: map[net.Conn]bool{}, slow: map[uint32]time.Duration{}}
	p.running.Go(p.accept)
	return p, nil
}

// Close cuts every line and ends the proxy.
func (p *TPMProxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.listener.Close()
	p.Cut()
	p.running.Wait()
	return err
}

// Slow makes every command of a code take so much longer; code 0 is every command. One line is served by one command at a time, as by
// a TPM.
func (p *TPMProxy) Slow(code uint32, by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow[code] = by
}

// Intercept lets f decide what happens to each command, in the order in which they come. Nil: nothing happens to any.
func (p *TPMProxy) Intercept(f func(command []byte) TPMFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.intercept = f
}

// Record begins a record anew. Wire gives it.
func (p *TPMProxy) Record() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recording, p.wire = true, nil
}

// Wire gives what has passed since Record.
func (p *TPMProxy) Wire() []TPMExchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.wire)
}

// Commands is how many have come since the proxy was made.
func (p *TPMProxy) Commands() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commands
}

// Cut cuts every line that is open.
func (p *TPMProxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		hangUp(c)
	}
}

// Away cuts every line and those that are made from now on, until Back: the TPM is gone.
func (p *TPMProxy) Away() {
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	p.Cut()
}

// Back ends Away.
func (p *TPMProxy) Back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}

// Behind makes lines that are made from now on lead to another TPM, and cuts those that are open.
func (p *TPMProxy) Behind(m *TPM) {
	network, address := m.Address()
	p.mu.Lock()
	p.network, p.address = network, address
	p.mu.Unlock()
	p.Cut()
}

func (p *TPMProxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		network, address, refused := p.network, p.address, p.away || p.closed
		if !refused {
			p.conns[c] = true
		}
		p.mu.Unlock()
		if refused {
			hangUp(c)
			continue
		}
		p.running.Go(func() {
			defer func() {
				hangUp(c)
				p.mu.Lock()
				delete(p.conns, c)
				p.mu.Unlock()
			}()
			up, err := net.Dial(network, address) //nolint:noctx // a local socket; a TPM that is down refuses at once
			if err != nil {
				return
			}
			defer hangUp(up)
			// It ends when either side does; a test has nothing to learn from how.
			_ = p.serve(c, up)
		})
	}
}

// hangUp closes a line; what that says is nobody's matter any more.
func hangUp(c io.Closer) { c.Close() }

var errCut = errors.New("the line was cut")

func (p *TPMProxy) serve(c, up net.Conn) error {
	for {
		command, err := readMessage(c)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.commands++
		code := binary.BigEndian.Uint32(command[6:])
		delay := p.slow[0] + p.slow[code]
		var fault TPMFault
		if p.intercept != nil {
			fault = p.intercept(command)
		}
		at := -1
		if p.recording {
			at = len(p.wire)
			p.wire = append(p.wire, TPMExchange{Command: command})
		}
		p.mu.Unlock()
		if fault.CutBefore {
			return errCut
		}
		response := fault.Answer
		if response == nil {
			if _, err := up.Write(command); err != nil {
				return err
			}
			if response, err = readMessage(up); err != nil {
				return err
			}
		}
		if fault.CutAfter {
			return errCut
		}
		time.Sleep(delay + fault.Delay)
		p.mu.Lock()
		if at >= 0 && at < len(p.wire) {
			p.wire[at].Response = response
		}
		p.mu.Unlock()
		if _, err := c.Write(response); err != nil {
			return err
		}
	}
}

// readMessage reads a command or a response: both have their size in octets 2 to 5.
func readMessage(r io.Reader) ([]byte, error) {
	b := make([]byte, 10, 1024)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(b[2:])
	if size < 10 || size > 1<<16 {
		return nil, errors.New("a message has an impossible size")
	}
	b = append(b, make([]byte, size-10)...)
	_, err := io.ReadFull(r, b[10:])
	return b, err
}
