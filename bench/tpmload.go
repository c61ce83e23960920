package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tpmLoad signs over REST, checks every signature, and keeps how each call ended.
type tpmLoad struct {
	s      *onTPM
	client *http.Client

	mu       sync.Mutex // guards all below
	ok       int
	refused  int // 503 with Retry-After
	other    int // failed in any other way
	wrong    int
	late     int
	latest   time.Duration
	answered struct{ first, last time.Time } // successes
	failure  time.Time                       // the last
	first    error                           // the first that is not a refusal
}

func (s *onTPM) newLoad() *tpmLoad {
	return &tpmLoad{s: s, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: tpmCrowd, DisableCompression: true}}}
}

// run works on so many connections until the time is over or count calls have succeeded, if there is a count. Who is refused comes again after 100 ms.
func (l *tpmLoad) run(ctx context.Context, conns int, span time.Duration, count int) {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(count))
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil && (count == 0 || left.Add(-1) >= 0); n++ {
				start := time.Now()
				// A call that has begun is waited for: how it ends counts.
				if !l.note(start, l.once(context.WithoutCancel(ctx), fmt.Appendf(nil, "message %d of %d", n, i))) {
					left.Add(1)
					pause(ctx, 100*time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	l.client.CloseIdleConnections()
}

// refusal is an answer that asks to come again.
type refusal struct{ error }

func (l *tpmLoad) once(ctx context.Context, message []byte) error {
	body, err := signBody(message)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.s.url("p256", "sign"), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = l.s.header
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("status %d: %.200s", resp.StatusCode, answer)
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" {
			return refusal{err}
		}
		return err
	}
	var v struct {
		Data data `json:"data"`
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(l.s.public, digest[:], v.Data.Signature) {
		return errWrong
	}
	return nil
}

// note keeps how a call ended, and reports whether it succeeded.
func (l *tpmLoad) note(start time.Time, err error) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	took := now.Sub(start)
	l.latest = max(l.latest, took)
	if took > tpmMaxWait+tpmGrace {
		l.late++
	}
	if err == nil {
		if l.ok++; l.answered.first.IsZero() {
			l.answered.first = now
		}
		l.answered.last = now
		return true
	}
	l.failure = now
	if _, is := err.(refusal); is { //nolint:errorlint // made here, and not wrapped
		l.refused++
		return false
	}
	if err == errWrong { //nolint:errorlint // the same
		l.wrong++
	}
	if l.other++; l.first == nil {
		l.first = err
	}
	return false
}

// loadSummary is what has become of the calls.
type loadSummary struct {
	ok, refused, other, wrong, late int
	latest                          time.Duration
	steady                          float64 // successes a second, from the first to the last
	lastFailure                     time.Time
}

func (l *tpmLoad) summary() loadSummary {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := loadSummary{ok: l.ok, refused: l.refused, other: l.other, wrong: l.wrong, late: l.late, latest: l.latest, lastFailure: l.failure}
	if span := l.answered.last.Sub(l.answered.first); span > 0 {
		r.steady = float64(l.ok-1) / span.Seconds()
	}
	return r
}

func closeQuietly(p io.Closer) {
	if err := p.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: closing:", err)
	}
}
