package remote

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	errBacklog = errors.New("the other end does not read")
	errClosed  = errors.New("the connection is closed")
)

// writer puts frames of many goroutines on one socket with as few calls as possible: who finds nobody writing writes all that is
// there, and does not wait for a peer that does not read: what the socket does not take at once a goroutine writes that may
// wait. Callers never block.
type writer struct {
	conn  *net.UnixConn
	raw   syscall.RawConn
	limit int           // of what waits, in bytes
	busy  *atomic.Int32 // calls under way: with more than one it pays to let the others go first

	mu      sync.Mutex
	queue   []byte // guarded by mu: frames that wait
	spare   []byte // guarded by mu: an empty buffer, or nil
	writing bool   // guarded by mu: somebody takes care of queue
	err     error  // guarded by mu: why nothing can be written any more

	blocked chan rest // to the goroutine that may wait
	try     func(fd uintptr) bool
	out     []byte // for try: the rest that is to be written
	outErr  error  // from try
}

// rest is frames of which the first written bytes are written.
type rest struct {
	frames  []byte
	written int
}

func newWriter(conn *net.UnixConn, busy *atomic.Int32, limit int) (*writer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &writer{conn: conn, raw: raw, busy: busy, limit: limit, blocked: make(chan rest, 1)}
	w.try = w.attempt
	return w, nil
}

// send queues a copy of the frame and sees to it that it is written.
func (w *writer) send(frame []byte) error {
	w.mu.Lock()
	if w.err != nil {
		err := w.err
		w.mu.Unlock()
		return err
	}
	if len(w.queue)+len(frame) > w.limit {
		w.mu.Unlock()
		return errBacklog
	}
	if n := len(w.queue) + len(frame); n > cap(w.queue) {
		larger := append(make([]byte, 0, max(2*n, 4<<10)), w.queue...)
		clear(w.queue) // it may carry secrets
		w.queue = larger
	}
	w.queue = append(w.queue, frame...)
	if w.writing {
		w.mu.Unlock()
		return nil
	}
	w.writing = true
	w.mu.Unlock()
	if w.busy.Load() > 1 {
		runtime.Gosched()
	}
	w.drain()
	return nil
}

// drain writes what is queued until nothing is left, an error, or the socket is full. Only who has set writing calls it.
func (w *writer) drain() {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 || w.err != nil {
			w.writing = false
			w.mu.Unlock()
			return
		}
		p := w.queue
		w.queue, w.spare = w.spare, nil
		w.mu.Unlock()

		w.out, w.outErr = p, nil
		err := w.raw.Write(w.try)
		if err == nil {
			err = w.outErr
		}
		if err == nil && len(w.out) > 0 {
			w.blocked <- rest{p, len(p) - len(w.out)} // has room: one at a time is there
			return
		}
		w.release(p, err)
	}
}

// release wipes a written buffer, which may have carried secrets, and keeps it unless it has grown large.
func (w *writer) release(p []byte, err error) {
	clear(p)
	w.mu.Lock()
	if cap(p) <= 2*readerSize {
		w.spare = p[:0]
	}
	if err != nil && w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
}

func (w *writer) attempt(fd uintptr) bool {
	for len(w.out) > 0 {
		n, err := unix.SendmsgN(int(fd), w.out, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			w.out = w.out[n:]
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return true
		default:
			w.outErr = err
			return true
		}
	}
	return true
}

// run writes what the socket did not take at once, until stop. The connection must be closed for it to come to its end.
func (w *writer) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			w.fail(errClosed)
			return
		case p := <-w.blocked:
			_, err := w.conn.Write(p.frames[p.written:])
			w.release(p.frames, err)
			w.drain()
		}
	}
}

// fail makes all further sends answer err.
func (w *writer) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	clear(w.queue)
	w.queue = nil
	w.mu.Unlock()
}
