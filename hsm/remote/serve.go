package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/hsm/token"
)

// drainTime bounds how long calls under way may take once the parent is gone or wants no more.
const drainTime = 4 * time.Second

// spare is how many calls a child takes above its capacity: the parent's own, for statistics and doubts.
const spare = 16

// Serve is the child's part on a connection to its parent: it opens the token with the configuration that the parent sends, and does
// what the parent asks until the connection or ctx ends. Then it waits for the calls under way, for 4 s at most, and
// closes the token. The error says why it has ended before the parent wanted it to.
func Serve(ctx context.Context, conn *net.UnixConn, open OpenFunc) error {
	s := &server{in: newFrameReader(conn), running: make(map[uint64]*job), jobs: make(chan *job),
		gate: make(chan struct{}, 1), grants: make(chan bool, 1), gone: make(chan struct{})}
	var err error
	if s.out, err = newWriter(conn, &s.load, maxBacklog); err != nil {
		return err
	}
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() { s.out.run(stop) })
	defer func() {
		_ = conn.Close() // the parent sees the end of the stream; there is nobody else to tell
		close(stop)
		writing.Wait()
	}()
	// When ctx ends nothing more is read.
	end := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }) // fails only when it is closed
	defer end()

	if err := s.out.send(seal(append(append(begin(nil, kindHello, 0), magic...), version))); err != nil {
		return err
	}
	kind, id, body, err := s.in.next()
	if err != nil {
		return fmt.Errorf("waiting for the configuration: %w", err)
	}
	if kind != kindOpen {
		return errMalformed
	}
	config, err := decodeConfig(body)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	s.limit = capacity(config) + spare
	return s.serve(ctx, id, config, open)
}

// server is the child's end of a link.
type server struct {
	in    *frameReader
	out   *writer
	limit int          // calls at once
	load  atomic.Int32 // calls under way
	token atomic.Pointer[token.Token]

	jobs    chan *job
	workers sync.WaitGroup

	mu      sync.Mutex
	running map[uint64]*job // guarded by mu

	gate   chan struct{} // has one element while a login is under way
	grants chan bool     // the parent's answers
	gone   chan struct{} // closed when nothing more is read
}

// serve opens the token, and reads until the stream ends.
func (s *server) serve(ctx context.Context, id uint64, config token.Config, open OpenFunc) error {
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	config.LoginGate = s.login
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		t, err := open(opening, config)
		if err != nil {
			s.send(seal(appendFault(begin(nil, kindFault, id), err, false)))
			return
		}
		s.token.Store(&t)
		d := t.Describe()
		s.send(seal(appendDescription(begin(nil, kindResult, id), &d)))
	}()

	err := s.read()
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		err = nil // as the parent, or our caller, wants it
	}
	close(s.gone)
	close(s.jobs)
	cancel()
	closed := make(chan error, 1)
	go func() {
		s.workers.Wait()
		<-opened
		if t := s.token.Load(); t != nil {
			closed <- (*t).Close()
			return
		}
		closed <- nil
	}()
	select {
	case cerr := <-closed:
		return errors.Join(err, cerr)
	case <-time.After(drainTime): // what is stuck in the module ends with the process
		return errors.Join(err, errors.New("the module has not come to its end"))
	}
}

// send gives a whole frame to the parent. When it cannot, the reading ends soon for the same reason; a parent that does not read has
// gone wrong and is left.
func (s *server) send(frame []byte) {
	if err := s.out.send(frame); errors.Is(err, errBacklog) {
		_ = s.out.conn.Close() // ends the reading, which says what is to be said
	}
}

// read takes frames until the stream ends or breaks the protocol.
func (s *server) read() error {
	for {
		kind, id, body, err := s.in.next()
		if err != nil {
			return err
		}
		switch {
		case kind == kindRequest:
			err = s.take(id, body)
		case kind == kindCancel && len(body) == 0:
			s.mu.Lock()
			if j := s.running[id]; j != nil {
				j.cancel()
			}
			s.mu.Unlock()
		case kind == kindLogin && len(body) == 1 && body[0] <= 1:
			select {
			case s.grants <- body[0] == 1:
			default:
				err = errMalformed // nobody has asked
			}
		default:
			err = errMalformed
		}
		if err != nil {
			return err
		}
	}
}

// take hands a request to a worker.
func (s *server) take(id uint64, body []byte) error {
	if s.token.Load() == nil {
		return errMalformed
	}
	j, err := newJob(id, body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	_, twice := s.running[id]
	s.running[id] = j
	n := len(s.running)
	s.mu.Unlock()
	if twice || n > s.limit {
		return errMalformed // the parent counts, and never sends so many
	}
	s.load.Add(1)
	select {
	case s.jobs <- j:
	default: // all workers have something to do: there are never more of them than calls
		s.workers.Go(func() {
			for ok := true; ok; j, ok = <-s.jobs {
				s.do(j)
			}
		})
	}
	return nil
}

// do does one job and answers it.
func (s *server) do(j *job) {
	t := *s.token.Load()
	frames, err := j.run(t)
	late := j.ctx.Err() != nil // the module may still have the call, and the job's bytes
	if err != nil {
		frames = seal(appendFault(begin(frames, kindFault, j.id), err, late && t.Stats().Stuck > 0))
	}
	s.mu.Lock()
	delete(s.running, j.id)
	s.mu.Unlock()
	j.cancel()
	s.load.Add(-1)
	s.send(frames)
	if !late {
		j.release(frames)
	}
}
