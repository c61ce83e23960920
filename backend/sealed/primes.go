package sealed

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"sync"
	"time"

	"github.com/keywright/keywright/fault"
)

// primeWorks makes RSA keys, which takes a tenth of a second to several seconds of a processor: as many at once as there
// are processors, with a bounded number of callers waiting.
type primeWorks struct {
	places chan struct{} // one for each key being made or waited for
	benchs chan struct{} // one for each key being made
	wg     sync.WaitGroup
}

// queuePerWorker bounds the callers who wait for each processor.
const queuePerWorker = 16

func newPrimeWorks(workers int) *primeWorks {
	return &primeWorks{places: make(chan struct{}, workers*(1+queuePerWorker)), benchs: make(chan struct{}, workers)}
}

// generate makes a key of two primes with the public exponent 65537 (FIPS 186-5 section A.1). When ctx ends first it
// returns at once; the search cannot be interrupted, so it goes on, keeps its place and wipes what it finds.
func (w *primeWorks) generate(ctx context.Context, bits int) (*rsa.PrivateKey, error) {
	select {
	case w.places <- struct{}{}:
	default:
		return nil, fault.New(fault.Overloaded, "too many RSA keys are being made").RetryAfter(2 * time.Second)
	}
	select {
	case w.benchs <- struct{}{}:
	case <-ctx.Done():
		<-w.places
		return nil, ended(ctx)
	}
	type result struct {
		key *rsa.PrivateKey
		err error
	}
	done := make(chan result)
	w.wg.Go(func() {
		defer func() { <-w.benchs; <-w.places }()
		k, err := rsa.GenerateKey(rand.Reader, bits)
		select {
		case done <- result{k, err}:
		case <-ctx.Done():
			if k != nil {
				wipePrivate(k)
			}
		}
	})
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fault.Wrap(fault.Internal, "making an RSA key", r.err)
		}
		return r.key, nil
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// wait waits for the keys that are being made. Nobody may call generate any more.
func (w *primeWorks) wait() { w.wg.Wait() }
