package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// serveRawPQ is the sub-command raw-pq: what the service's cryptography costs with nothing around it. It calls circl from as many
// goroutines as there are processors, with one key for all, as the service has it.
func serveRawPQ(args []string) error {
	f := flag.NewFlagSet("raw-pq", flag.ExitOnError)
	op := f.String("op", "sign", "sign (ML-DSA-65, 32 bytes, hedged) or decapsulate (ML-KEM-768)")
	threads := f.Int("threads", runtime.GOMAXPROCS(0), "goroutines")
	duration := f.Duration("duration", time.Second, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	call, err := circlCall(*op)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	before, err := processorTime(os.Getpid())
	if err != nil {
		return err
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, *threads)
	start := time.Now()
	for i := range *threads {
		wg.Go(func() {
			n := int64(0)
			for time.Since(start) < *duration {
				if errs[i] = call(); errs[i] != nil {
					break
				}
				n++
			}
			total.Add(n)
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	after, err := processorTime(os.Getpid())
	if err := errors.Join(err, errors.Join(errs...)); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(rawResult{total.Load(), took, after - before})
}

// circlCall gives one operation. Like the service it makes a buffer for each result.
func circlCall(op string) (func() error, error) {
	switch op {
	case "sign":
		_, key, err := mldsa65.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		message := []byte("0123456789abcdef0123456789abcdef")
		return func() error {
			return mldsa65.SignTo(key, message, nil, true, make([]byte, mldsa65.SignatureSize))
		}, nil
	case "decapsulate":
		public, key, err := mlkem768.GenerateKeyPair(rand.Reader)
		if err != nil {
			return nil, err
		}
		scheme := mlkem768.Scheme()
		ciphertext, _, err := scheme.Encapsulate(public)
		if err != nil {
			return nil, err
		}
		return func() error {
			_, err := scheme.Decapsulate(key, ciphertext)
			return err
		}, nil
	}
	return nil, errors.New("-op is sign or decapsulate")
}
