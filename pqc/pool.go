package pqc

import (
	"context"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
)

// Pool runs private operations that take long (Info.Slow) on a bounded number of goroutines behind a bounded queue, so that they
// neither take all processors from the fast ones nor pile up.
type Pool struct {
	jobs    chan *job
	workers sync.WaitGroup

	mu     sync.RWMutex // guards closed against a send on jobs
	closed bool
}

type job struct {
	ctx  context.Context
	key  *PrivateKey
	msg  []byte
	opts SignOptions
	done chan result // of one, so that a worker never waits for a caller who left
}

type result struct {
	signature []byte
	err       error
}

// NewPool starts workers goroutines with room for queue waiting signatures. Both are at least 1.
func NewPool(workers, queue int) *Pool {
	p := &Pool{jobs: make(chan *job, max(queue, 1))}
	for range max(workers, 1) {
		p.workers.Go(p.work)
	}
	return p
}

// retryAfter is what a refused caller is told to wait: about the time of one slow signature.
const retryAfter = time.Second

// Sign is key.Sign in the pool. A full queue is fault.Overloaded at once, with a time to try again after; ctx's end before the signature is
// there is fault.Timeout; a closed pool is fault.Unavailable. A signature that has begun is computed to its end even if nobody waits for
// it, since it cannot be interrupted: message must not be changed until Sign returns, and not after a fault.Timeout at all.
func (p *Pool) Sign(ctx context.Context, key *PrivateKey, message []byte, o SignOptions) ([]byte, error) {
	j := &job{ctx: ctx, key: key, msg: message, opts: o, done: make(chan result, 1)}
	if err := p.submit(j); err != nil {
		return nil, err
	}
	select {
	case r := <-j.done:
		return r.signature, r.err
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Timeout, "the deadline passed before the signature was there", ctx.Err())
	}
}

func (p *Pool) submit(j *job) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return fault.New(fault.Unavailable, "the service is stopping")
	}
	select {
	case p.jobs <- j:
		return nil
	default:
		return fault.New(fault.Overloaded, "too many signatures of this kind are waiting").RetryAfter(retryAfter)
	}
}

func (p *Pool) work() {
	for j := range p.jobs {
		if err := j.ctx.Err(); err != nil {
			j.done <- result{err: fault.Wrap(fault.Timeout, "the deadline passed before the signature was begun", err)}
			continue
		}
		sig, err := j.key.Sign(j.msg, j.opts)
		j.done <- result{sig, err}
	}
}

// Close refuses new signatures, lets those waiting and under way finish, and returns when all goroutines have ended. A second Close waits too.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.jobs)
	}
	p.mu.Unlock()
	p.workers.Wait()
}
