package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is the length of its body (32 bits) and the body: one byte of kind, eight of the number of the call, and what the kind has.
// The child begins with hello, the parent answers with open, the child with the result of it; then each side sends what it likes.
const (
	kindHello    byte = iota + 1 // child: magic, version
	kindOpen                     // parent: the token.Config
	kindRequest                  // parent: time left in ns (64), operation, arguments
	kindCancel                   // parent: nobody waits for this call any more
	kindResult                   // child: the result
	kindPart                     // child: a part of a result, which the result ends
	kindFault                    // child: what went wrong
	kindAskLogin                 // child: may I send the PIN?
	kindLogin                    // parent: yes (1) or no (0)
	kindLoggedIn                 // child: the PIN has been sent, and was right (1), wrong (0) or neither (2)
)

const (
	lengthSize  = 4
	headSize    = 1 + 8 // kind, number
	requestHead = headSize + 8 + 1

	magic = "kwhm"
)

var errFrameSize = errors.New("frame of a size that is not allowed")

// begin starts a frame in b, which is emptied.
func begin(b []byte, kind byte, id uint64) []byte {
	b = append(b[:0], 0, 0, 0, 0, kind)
	return binary.BigEndian.AppendUint64(b, id)
}

// finish writes the length and reports whether the frame is not too large.
func finish(b []byte) bool {
	n := len(b) - lengthSize
	binary.BigEndian.PutUint32(b, uint32(n))
	return n <= maxFrame
}

// seal finishes a frame that cannot be too large.
func seal(b []byte) []byte {
	finish(b)
	return b
}

// frameReader takes frames from a stream. What it gives is valid until the next call, which wipes it: frames carry secrets.
type frameReader struct {
	r          io.Reader
	buf        []byte
	start, end int // what is read and not given yet
	given      int // where the frame begins that was given last; it ends at start
}

// readerSize is enough for many small frames at once; a larger frame gets a buffer of its own for the time being.
const readerSize = 32 << 10

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: r, buf: make([]byte, readerSize)}
}

// next gives kind, number and the rest of the next frame. io.EOF is the end between two frames.
func (f *frameReader) next() (kind byte, id uint64, body []byte, err error) {
	clear(f.buf[f.given:f.start])
	f.given = f.start
	if f.start == f.end {
		if len(f.buf) > readerSize {
			f.buf = make([]byte, readerSize)
		}
		f.start, f.end, f.given = 0, 0, 0
	}
	if err := f.fill(lengthSize); err != nil {
		return 0, 0, nil, err
	}
	n := binary.BigEndian.Uint32(f.buf[f.start:])
	if n < headSize || n > maxFrame {
		return 0, 0, nil, errFrameSize
	}
	if err := f.fill(lengthSize + int(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, nil, err
	}
	p := f.buf[f.start+lengthSize : f.start+lengthSize+int(n)]
	f.start += lengthSize + int(n)
	return p[0], binary.BigEndian.Uint64(p[1:]), p[headSize:], nil
}

// fill reads until n bytes are there.
func (f *frameReader) fill(n int) error {
	if f.end-f.start >= n {
		return nil
	}
	if len(f.buf)-f.start < n {
		to := f.buf
		if len(to) < n {
			to = make([]byte, n)
		}
		copy(to, f.buf[f.start:f.end])
		if len(to) != len(f.buf) {
			clear(f.buf)
		} else {
			clear(to[f.end-f.start : f.end])
		}
		f.buf, f.start, f.end, f.given = to, 0, f.end-f.start, 0
	}
	for f.end-f.start < n {
		m, err := f.r.Read(f.buf[f.end:])
		f.end += m
		if err != nil && f.end-f.start < n {
			if errors.Is(err, io.EOF) && f.end > f.start {
				return io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading: %w", err)
		}
	}
	return nil
}
