package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// pieces is a stream that gives what it has in pieces.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.data[:min(len(p.data), p.size)])
	p.data = p.data[n:]
	return n, nil
}
func (p *pieces) Write(b []byte) (int, error)      { return len(b), nil }
func (p *pieces) Close() error                     { return nil }
func (p *pieces) SetReadDeadline(time.Time) error  { return nil }
func (p *pieces) SetWriteDeadline(time.Time) error { return nil }

func FuzzReceive(f *testing.F) {
	ok := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2}
	f.Add(ok, 1)
	f.Add(ok[:11], 4)
	f.Add(append(slices.Clone(ok), 3), 100)
	f.Add([]byte{0x80, 0x02, 0, 0, 0, 10, 0, 0, 1, 0x44}, 10)
	f.Add([]byte{0x00, 0xc4, 0, 0, 0, 9, 0, 0, 0, 0x1e}, 10)
	f.Add([]byte{0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 3)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		l := &line{s: &pieces{data: data, size: max(size, 1)}}
		rsp, err := l.receive()
		if err != nil {
			if rsp != nil || !errors.Is(err, errFraming) && !errors.Is(err, io.EOF) {
				t.Errorf("got %x, %v", rsp, err)
			}
			return
		}
		if len(rsp) < headerSize || len(rsp) != int(binary.BigEndian.Uint32(rsp[2:])) || !bytes.HasPrefix(data, rsp) {
			t.Errorf("of %x the response is %x", data, rsp)
		}
	})
}

func FuzzSessionsOf(f *testing.F) {
	// A command with one handle and two sessions, of 4 and 0 octets of nonce, 2 and 3 of HMAC.
	command := []byte{0x80, 0x02, 0, 0, 0, 47, 0, 0, 1, 0x5d, 0x80, 0, 0, 1, 0, 0, 0, 27,
		2, 0, 0, 1, 0, 4, 1, 2, 3, 4, 0x21, 0, 2, 9, 9, 3, 0, 0, 2, 0, 0, 0x40, 0, 3, 8, 8, 8, 7, 7}
	f.Add(command, 1)
	f.Add(command[:30], 1)
	f.Add([]byte{0x80, 0x02, 0, 0, 0, 14, 0, 0, 1, 0x5d, 0xff, 0xff, 0xff, 0xff}, 0)
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x5d}, 3)
	f.Fuzz(func(t *testing.T, command []byte, handles int) {
		n := 0
		for s := range sessionsOf(command, handles&7) {
			if n++; s.handle == uint32(tpm2.TPMRSPW) {
				t.Error("a password is no session")
			}
		}
		if n*9 > len(command) {
			t.Errorf("%d sessions in %d octets", n, len(command))
		}
	})
}

func TestSessionsOf(t *testing.T) {
	auth := func(handle uint32, attributes byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, handle)
		b = append(b, 0, 3, 1, 2, 3, attributes, 0, 1, 5)
		return b
	}
	area := slices.Concat(auth(0x02000001, 1), auth(uint32(tpm2.TPMRSPW), 0), auth(0x03000000, 0x60))
	command := slices.Concat([]byte{0x80, 0x02, 0, 0, 0, 0, 0, 0, 1, 0x5d, 0x80, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(area))), area, []byte{1, 2, 3})
	want := []used{{0x02000001, 1}, {0x03000000, 0x60}}
	if got := slices.Collect(sessionsOf(command, 1)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzSplit(f *testing.F) {
	rsp := []byte{0x80, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 9, 0, 2, 1, 2, 0x41, 0, 3, 7, 7, 7}
	f.Add(rsp)
	f.Add(rsp[:20])
	f.Add(append(slices.Clone(rsp), 0))
	f.Add([]byte{0x80, 0x02, 0, 0, 0, 14, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, rsp []byte) {
		params, answer, err := split(rsp)
		if err != nil {
			return
		}
		// Every octet has its place.
		again := slices.Concat(rsp[:headerSize], binary.BigEndian.AppendUint32(nil, uint32(len(params))), params,
			appendSized(nil, answer.Nonce.Buffer), []byte{octet(answer.Attributes) | rsp[headerSize+4+len(params)+2+len(answer.Nonce.Buffer)]&0x18},
			appendSized(nil, answer.Authorization.Buffer))
		if !bytes.Equal(again, rsp) {
			t.Errorf("%x is taken for %x", rsp, again)
		}
		if first, ok := firstParameter(params); ok && len(first) > len(params)-2 {
			t.Error("the first parameter is longer than all")
		}
	})
}
