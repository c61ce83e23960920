package filecrypt

import (
	"errors"
	"fmt"
	"io"
)

// Writer encrypts what is written to it. It is for one goroutine.
type Writer struct {
	dst    io.Writer
	stream *stream
	buf    []byte // plaintext of the segment being filled, with room for its tag
	size   int    // of a segment
	err    error  // what ended it
}

var errClosed = errors.New("filecrypt: closed")

// NewWriter writes the header to dst and gives a Writer for the content. The data key has 32 bytes, is used for this file
// only, and can be wiped when NewWriter returns; encryptedKey is the same key as the service encrypted it. Without a
// Close that returned nil the file is incomplete and does not open.
func NewWriter(dst io.Writer, dataKey, encryptedKey []byte, o Options) (*Writer, error) {
	o = o.withDefaults()
	h, err := newHeader(o.SegmentSize, encryptedKey, o.Rand)
	if err != nil {
		return nil, err
	}
	s, err := newStream(h, dataKey)
	if err != nil {
		return nil, err
	}
	if _, err := dst.Write(h.raw); err != nil {
		return nil, fmt.Errorf("writing the header: %w", err)
	}
	return &Writer{dst: dst, stream: s, buf: make([]byte, 0, h.SegmentSize+tagSize), size: h.SegmentSize}, nil
}

// Write encrypts p. A full segment is held back until more comes: only then is it known not to be the last.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	done := 0
	for len(p) > 0 {
		if len(w.buf) == w.size {
			if err := w.flush(false); err != nil {
				return done, err
			}
		}
		n := min(w.size-len(w.buf), len(p))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		done += n
	}
	return done, nil
}

// Close writes the last segment and wipes the buffer. It does not close the destination. A second Close gives an error.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	err := w.flush(true)
	clear(w.buf[:cap(w.buf)])
	if err != nil {
		return err
	}
	w.err = errClosed
	return nil
}

func (w *Writer) flush(last bool) error {
	nonce, err := w.stream.next(last)
	if err != nil {
		w.err = err
		return err
	}
	sealed := w.stream.aead.Seal(w.buf[:0], nonce, w.buf, nil)
	if _, err := w.dst.Write(sealed); err != nil {
		w.err = fmt.Errorf("writing a segment: %w", err)
		return w.err
	}
	w.buf = w.buf[:0]
	return nil
}

// Reader decrypts. It is for one goroutine.
type Reader struct {
	src    io.Reader
	stream *stream
	buf    []byte // one sealed segment and the byte after it
	plain  []byte // opened and not yet given out; aliases buf
	first  bool
	ahead  bool  // the last byte of buf is the first of the next segment
	err    error // what ended it, io.EOF included
}

// NewReader decrypts what follows the header in src. The data key can be wiped when NewReader returns. Read gives
// ErrDamaged when the content does not open; io.EOF only after the last segment and the end of src.
func NewReader(src io.Reader, h *Header, dataKey []byte) (*Reader, error) {
	s, err := newStream(h, dataKey)
	if err != nil {
		return nil, err
	}
	return &Reader{src: src, stream: s, buf: make([]byte, h.SegmentSize+tagSize+1), first: true}, nil
}

// Read gives plaintext of authenticated segments only.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.plain) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.open()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// WriteTo gives whole segments to w, without a copy in between.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(r.plain) > 0 {
			n, err := w.Write(r.plain)
			total += int64(n)
			if err == nil && n < len(r.plain) {
				err = io.ErrShortWrite
			}
			r.plain = r.plain[n:]
			if err != nil {
				return total, err
			}
		}
		switch {
		case errors.Is(r.err, io.EOF):
			return total, nil
		case r.err != nil:
			return total, r.err
		}
		r.open()
	}
}

// open reads and opens the next segment into plain, or sets err. One byte is read beyond the segment to learn whether it
// is the last; it waits at the end of buf until the plaintext before it has been given out.
func (r *Reader) open() {
	full := len(r.buf) - 1
	have := 0
	if r.ahead {
		r.buf[0], have = r.buf[full], 1
	}
	n, err := io.ReadFull(r.src, r.buf[have:])
	n += have
	last := false
	switch {
	case err == nil:
		n = full
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		last = true
	default:
		r.err = fmt.Errorf("reading a segment: %w", err)
		return
	}
	// An empty segment is the whole content of an empty file; at the end of any other it would be a second form of the
	// same plaintext.
	if n < tagSize || n == tagSize && !r.first {
		r.err = ErrDamaged
		return
	}
	nonce, err := r.stream.next(last)
	if err != nil {
		r.err = ErrDamaged // more segments than any file has
		return
	}
	plain, err := r.stream.aead.Open(r.buf[:0], nonce, r.buf[:n], nil)
	if err != nil {
		r.err = ErrDamaged
		return
	}
	r.plain, r.first, r.ahead = plain, false, !last
	if last {
		r.err = io.EOF
	}
}

// Close wipes what is still in memory. It does not close the source.
func (r *Reader) Close() {
	clear(r.buf)
	r.plain = nil
	if r.err == nil {
		r.err = errClosed
	}
}
