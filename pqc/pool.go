package pqc

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// Pool runs private operations that take long (Info.Slow) on a bounded number of goroutines behind a bounded queue, so that they
// neither take all processors from the fast ones nor pile up.
type Pool struct {
	jobs    chan *job
	workers sync.WaitGroup

	mu     sync.RWMutex // guards closed against a send on jobs
	closed bool
}

// job is one operation. run gives nothing back: what it makes goes where its caller looks.
type job struct {
	ctx  context.Context
	run  func() error
	done chan error // of one, so that a worker never waits for a caller who left
}

// NewPool starts workers goroutines with room for queue waiting operations. Both are at least 1.
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
// it any more, since it cannot be interrupted, so message is copied; the key may be wiped meanwhile.
func (p *Pool) Sign(ctx context.Context, key *PrivateKey, message []byte, o SignOptions) ([]byte, error) {
	message, o.Context = bytes.Clone(message), bytes.Clone(o.Context)
	var sig []byte
	err := p.do(ctx, func() (err error) {
		sig, err = key.Sign(message, o)
		return err
	})
	if err != nil {
		return nil, err // sig may still be written to
	}
	return sig, nil
}

// NewPrivateKey is alg.NewPrivateKey in the pool. The errors are those of Sign and of alg.NewPrivateKey. It keeps a copy of seed until it is done
// with it, and wipes that; a key that comes too late is wiped too.
func (p *Pool) NewPrivateKey(ctx context.Context, alg *Algorithm, seed []byte) (*PrivateKey, error) {
	own := secret.Bytes(bytes.Clone(seed))
	var mu sync.Mutex // guards key, begun and left
	var key *PrivateKey
	var begun, left bool
	err := p.do(ctx, func() error {
		mu.Lock()
		begun = !left
		mu.Unlock()
		if !begun {
			return nil // nobody waits, and the seed is gone
		}
		defer own.Wipe()
		k, err := alg.NewPrivateKey(own)
		mu.Lock()
		defer mu.Unlock()
		if left && k != nil {
			k.Wipe()
			k = nil
		}
		key = k
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		left = true
		if !begun {
			own.Wipe()
		}
		if key != nil {
			key.Wipe()
		}
		return nil, err
	}
	return key, nil
}

func (p *Pool) do(ctx context.Context, run func() error) error {
	j := &job{ctx: ctx, run: run, done: make(chan error, 1)}
	if err := p.submit(j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return fault.Wrap(fault.Timeout, "the deadline passed before the operation was finished", ctx.Err())
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
		return fault.New(fault.Overloaded, "too many operations of this kind are waiting").RetryAfter(retryAfter)
	}
}

func (p *Pool) work() {
	for j := range p.jobs {
		if err := j.ctx.Err(); err != nil {
			j.done <- fault.Wrap(fault.Timeout, "the deadline passed before the operation was begun", err)
			continue
		}
		j.done <- j.run()
	}
}

// Close refuses new operations, lets those waiting and under way finish, and returns when all goroutines have ended. A second Close waits too.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.jobs)
	}
	p.mu.Unlock()
	p.workers.Wait()
}
