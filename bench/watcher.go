package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// outcome is the end of one operation.
type outcome struct {
	at  time.Time
	err error
}

// watcher drives an HSM's keys and checks every result: each signature with the public key, each ciphertext by opening it.
type watcher struct {
	t      *target
	client *http.Client
	public *ecdsa.PublicKey

	mu       sync.Mutex // guards all below
	outcomes []outcome
	wrong    int
	made     []string // ids of keys whose creation was acknowledged
	failed   int      // creations that were not
}

func newWatcher(ctx context.Context, t *target) (*watcher, error) {
	w := &watcher{t: t, client: &http.Client{Timeout: healPatience, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * healWorkers}}}
	var v struct {
		Data struct {
			PublicKey string `json:"public_key"`
		} `json:"data"`
	}
	if err := t.call(ctx, http.MethodGet, "/keys/p256/public", nil, &v); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(v.Data.PublicKey))
	if block == nil {
		return nil, errors.New("the public key is not PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	var ok bool
	if w.public, ok = k.(*ecdsa.PublicKey); !ok {
		return nil, errors.New("the public key is of another kind")
	}
	return w, nil
}

// data is what the answers have that the watcher asks for.
type data struct {
	ID         string `json:"id"`
	Signature  []byte `json:"signature"`
	Ciphertext []byte `json:"ciphertext"`
	Plaintext  []byte `json:"plaintext"`
}

func (w *watcher) post(ctx context.Context, path string, body any) (data, error) {
	var out struct {
		Data data `json:"data"`
	}
	b, err := json.Marshal(body)
	if err != nil {
		return out.Data, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.t.base+path, bytes.NewReader(b))
	if err != nil {
		return out.Data, err
	}
	req.Header = w.t.header
	resp, err := w.client.Do(req)
	if err != nil {
		return out.Data, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return out.Data, err
	}
	if resp.StatusCode >= 300 {
		return out.Data, fmt.Errorf("%s: status %d: %.200s", path, resp.StatusCode, answer)
	}
	return out.Data, json.Unmarshal(answer, &out)
}

// errWrong is a result that is there and not right: what must never be.
var errWrong = errors.New("a wrong result")

func (w *watcher) sign(ctx context.Context, message []byte) error {
	d, err := w.post(ctx, "/keys/p256/sign", map[string]any{"message": message})
	if err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(w.public, digest[:], d.Signature) {
		return errWrong
	}
	return nil
}

func (w *watcher) seal(ctx context.Context, message []byte) error {
	d, err := w.post(ctx, "/keys/aes/encrypt", map[string]any{"plaintext": message})
	if err != nil {
		return err
	}
	if d, err = w.post(ctx, "/decrypt", map[string]any{"ciphertext": d.Ciphertext}); err != nil {
		return err
	}
	if !bytes.Equal(d.Plaintext, message) {
		return errWrong
	}
	return nil
}

func (w *watcher) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(err, errWrong) {
		w.wrong++
	}
	w.outcomes = append(w.outcomes, outcome{time.Now(), err})
}

// run works until ctx ends: workers that sign and encrypt, and one that makes keys.
func (w *watcher) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range healWorkers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do := w.sign
				if (n+i)%2 == 0 {
					do = w.seal
				}
				err := do(ctx, fmt.Appendf(nil, "message %d of worker %d", n, i))
				if ctx.Err() != nil {
					break
				}
				w.note(err)
				pause(ctx, map[bool]time.Duration{true: 2 * time.Millisecond, false: 20 * time.Millisecond}[err == nil])
			}
		})
	}
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			d, err := w.post(ctx, "/keys", map[string]any{"name": fmt.Sprintf("made-%d", n), "algorithm": "ECDSA-P256", "backend": "hsm"})
			w.mu.Lock()
			if err == nil {
				w.made = append(w.made, d.ID)
			} else {
				w.failed++
			}
			w.mu.Unlock()
			pause(ctx, 50*time.Millisecond)
		}
	})
	wg.Wait()
	w.client.CloseIdleConnections()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// healed gives how long after from the first success came that no failure followed, and how many operations failed since before.
func (w *watcher) healed(before, from time.Time) (after time.Duration, failed int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last time.Time
	for _, o := range w.outcomes {
		if o.at.After(before) && o.err != nil {
			failed++
			if o.at.After(last) {
				last = o.at
			}
		}
	}
	var first time.Time
	for _, o := range w.outcomes {
		if o.err == nil && o.at.After(last) && o.at.After(from) && (first.IsZero() || o.at.Before(first)) {
			first = o.at
		}
	}
	if first.IsZero() {
		return 0, failed, errors.New("nothing has succeeded since")
	}
	return first.Sub(from), failed, nil
}
