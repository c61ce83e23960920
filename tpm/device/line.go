package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	headerSize  = 10   // tag, size, code (TPM 2.0 part 1, 18)
	bufferSize  = 8192 // more than TPM_PT_MAX_RESPONSE_SIZE of any TPM: they have 4096
	writeFor    = 10 * time.Second
	tagNone     = 0x8001 // TPM_ST_NO_SESSIONS
	tagSessions = 0x8002 // TPM_ST_SESSIONS
	tagRefused  = 0x00c4 // TPM_ST_RSP_COMMAND: what answers a command that has no valid tag
)

var errFraming = errors.New("the TPM's response is malformed")

// stream is a connection or a character device.
type stream interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// line carries one command at a time to the TPM and its response back. Only interrupt may be called while another method runs.
type line struct {
	s    stream
	have int // octets of the response that have come
	buf  [bufferSize]byte
}

// dial reaches the TPM, or says why not.
func dial(ctx context.Context, u URI) (*line, error) {
	switch u.Network {
	case Unix, TCP:
		network := "unix"
		if u.Network == TCP {
			network = "tcp"
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, u.Address)
		if err != nil {
			return nil, fmt.Errorf("reaching the TPM: %w", err)
		}
		return &line{s: c}, nil
	case Character:
		info, err := os.Stat(u.Address)
		if err == nil && info.Mode()&os.ModeCharDevice == 0 {
			err = errors.New("it is not a character device")
		}
		var f *os.File
		if err == nil {
			f, err = os.OpenFile(u.Address, os.O_RDWR, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("opening the TPM's device: %w", err)
		}
		return &line{s: f}, nil
	}
	return nil, errAddress
}

// send gives the TPM a whole command, in one write as a character device demands.
func (l *line) send(command []byte) error {
	l.have = 0
	if err := l.s.SetWriteDeadline(time.Now().Add(writeFor)); err != nil {
		return fmt.Errorf("writing to the TPM: %w", err)
	}
	if _, err := l.s.Write(command); err != nil {
		return fmt.Errorf("writing to the TPM: %w", err)
	}
	return nil
}

// until bounds the reading that follows, and undoes an interrupt.
func (l *line) until(t time.Time) error { return l.s.SetReadDeadline(t) }

// interrupt makes a receive that is under way, or the next one, end with os.ErrDeadlineExceeded.
func (l *line) interrupt() {
	// It fails only on a closed line, where receive has ended already.
	_ = l.s.SetReadDeadline(time.Unix(1, 0))
}

// receive gives the whole response, in memory of its own. After os.ErrDeadlineExceeded it may be called again and goes on.
func (l *line) receive() ([]byte, error) {
	for {
		if l.have >= headerSize {
			size := int(min(binary.BigEndian.Uint32(l.buf[2:]), bufferSize+1))
			tag := binary.BigEndian.Uint16(l.buf[:])
			if size < headerSize || size > bufferSize || l.have > size || tag != tagNone && tag != tagSessions && tag != tagRefused {
				return nil, errFraming
			}
			if l.have == size {
				return append(make([]byte, 0, size), l.buf[:size]...), nil
			}
		}
		n, err := l.s.Read(l.buf[l.have:])
		l.have += n
		if err != nil && n == 0 {
			return nil, fmt.Errorf("reading from the TPM: %w", err)
		}
	}
}

func (l *line) close() error { return l.s.Close() }
