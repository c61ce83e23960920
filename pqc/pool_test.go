package pqc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

func TestPool(t *testing.T) {
	p := NewPool(2, 100)
	defer p.Close()
	k := newKey(t, SLHDSASHA2128f)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			sig, err := p.Sign(t.Context(), k, []byte("message"), SignOptions{Context: []byte("c")})
			if err != nil {
				t.Error(err)
				return
			}
			if ok, err := k.PublicKey().Verify([]byte("message"), sig, SignOptions{Context: []byte("c")}); err != nil || !ok {
				t.Errorf("%v, %v", ok, err)
			}
		})
	}
	wg.Wait()
	seed := k.Seed()
	again, err := p.NewPrivateKey(t.Context(), k.Algorithm(), seed)
	if err != nil || !again.PublicKey().Equal(k.PublicKey()) {
		t.Errorf("%v", err)
	}
	if _, err := p.NewPrivateKey(t.Context(), k.Algorithm(), seed[1:]); !fault.Has(err, fault.BadImport) {
		t.Error(err)
	}
	if _, err := p.Sign(t.Context(), newKey(t, XWing), nil, SignOptions{}); !fault.Has(err, fault.OperationNotAllowed) {
		t.Error(err)
	}
}

// blockPool gives a pool of one worker that is busy until release is called.
func blockPool(t *testing.T, queue int) (p *Pool, release func()) {
	t.Helper()
	p = NewPool(1, queue)
	started, hold := make(chan struct{}), make(chan struct{})
	go func() {
		// The test ends by p.Close, which waits for this.
		err := p.do(context.Background(), func() error { close(started); <-hold; return nil })
		if err != nil {
			t.Error(err)
		}
	}()
	<-started
	return p, sync.OnceFunc(func() { close(hold) })
}

func TestPoolOverload(t *testing.T) {
	p, release := blockPool(t, 1)
	k := newKey(t, MLDSA44)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := p.Sign(ctx, k, nil, SignOptions{})
		waiting <- err
	}()
	for len(p.jobs) == 0 {
		time.Sleep(time.Millisecond)
	}
	_, err := p.Sign(t.Context(), k, nil, SignOptions{})
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.Overloaded || f.After <= 0 {
		t.Errorf("a full queue: %v", err)
	}
	if _, err := p.NewPrivateKey(t.Context(), k.Algorithm(), k.Seed()); !fault.Has(err, fault.Overloaded) {
		t.Errorf("a full queue: %v", err)
	}
	cancel()
	if err := <-waiting; !fault.Has(err, fault.Timeout) || !errors.Is(err, context.Canceled) {
		t.Errorf("an ended wait: %v", err)
	}
	release()
	p.Close()
	p.Close()
	if _, err := p.Sign(t.Context(), k, nil, SignOptions{}); !fault.Has(err, fault.Unavailable) {
		t.Errorf("a closed pool: %v", err)
	}
}

// TestPoolDeadline: the caller leaves in time, what has begun ends by itself, and a key that nobody waits for is wiped.
func TestPoolDeadline(t *testing.T) {
	p := NewPool(1, 1)
	k := newKey(t, SLHDSASHA2128f)
	ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
	defer cancel()
	<-ctx.Done()
	message := []byte("message")
	if _, err := p.Sign(ctx, k, message, SignOptions{}); !fault.Has(err, fault.Timeout) {
		t.Error(err)
	}
	message[0] = 0 // ours again
	k.Wipe()
	p.Close()

	p, release := blockPool(t, 1)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.NewPrivateKey(ctx, k.Algorithm(), make([]byte, k.Algorithm().Info().SeedSize)); !fault.Has(err, fault.Timeout) {
		t.Error(err)
	}
	release()
	p.Close()
}
