package api

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
)

// smallBody is the size up to which a body is read without asking the budget. Connections bound these.
const smallBody = 64 << 10

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 256 << 10

// budget bounds the memory of large bodies over all requests.
type budget struct {
	mu   sync.Mutex // guards free
	free int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false
	}
	b.free -= n
	return true
}

func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	b.free += n
	b.mu.Unlock()
}

// readBody reads the request's body into c.body: at most limit bytes, within the time that a body may take. Memory grows
// with what has arrived, not with what was announced, and beyond smallBody only out of the budget.
func (c *call) readBody(limit int64) error {
	r := c.gin.Request
	if r.ContentLength > limit {
		return tooLarge()
	}
	rc := http.NewResponseController(c.gin.Writer)
	if err := rc.SetReadDeadline(time.Now().Add(c.s.limits.BodyTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fault.Wrap(fault.Internal, "", err)
	}
	buf := c.body[:0]
	if n := min(r.ContentLength+1, smallBody); int64(cap(buf)) < n {
		buf = make([]byte, 0, n)
	}
	for {
		if len(buf) == cap(buf) {
			grown, err := c.grow(buf, limit)
			if err != nil {
				return err
			}
			buf = grown
		}
		n, err := r.Body.Read(buf[len(buf):min(cap(buf), int(limit)+1)])
		buf = buf[:len(buf)+n]
		c.body = buf
		if int64(len(buf)) > limit {
			return tooLarge()
		}
		switch {
		case err == io.EOF:
			return noDeadline(rc)
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.gin.Writer.Header()["Connection"] = closeConnection
			return fault.New(fault.Timeout, "the body did not arrive in time")
		case err != nil:
			c.gin.Writer.Header()["Connection"] = closeConnection
			return fault.Wrap(fault.BadJSON, "the body ended before its announced length", err)
		}
	}
}

// noDeadline takes the read deadline away. net/http goes on reading while a handler works, to notice a client that leaves,
// and would take a deadline that passes for one.
func noDeadline(rc *http.ResponseController) error {
	if err := rc.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fault.Wrap(fault.Internal, "", err)
	}
	return nil
}

// grow doubles a full buffer, wiping the old one.
func (c *call) grow(buf []byte, limit int64) ([]byte, error) {
	size := min(max(int64(2*cap(buf)), 4096), limit+1)
	if size > smallBody {
		// The old and the new buffer are both there for a moment, and the decoded fields come on top: three in all.
		if want := 3 * size; want > c.taken {
			if !c.s.bodies.take(want - c.taken) {
				return nil, fault.New(fault.Overloaded, "too many large requests at once").RetryAfter(time.Second)
			}
			c.taken = want
		}
	}
	grown := make([]byte, len(buf), size)
	copy(grown, buf)
	clear(buf)
	return grown, nil
}

func tooLarge() error {
	return fault.New(fault.BodyTooLarge, "the body is larger than this route accepts")
}
