package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// work is one kind of request, prepared once: the load generator shares the machine with what it measures, so it spends
// as little as it can on each request.
type work struct {
	name   string
	method string
	header http.Header
	next   func(i uint64) (url string, body []byte) // called by many workers at once; i counts all requests of the run
	status int                                      // the only status that counts as success
	check  func(body []byte) error                  // of every answer: a client that does not read what it gets is none
	items  int                                      // what one request does; 1 unless it is a batch
}

// result is one run.
type result struct {
	name    string
	conns   int
	elapsed time.Duration
	ok      int64
	failed  int64
	items   int
	hist    *hdrhistogram.Histogram // microseconds, of successes
	first   error                   // the first failure, to be shown
}

func (r *result) perSecond() float64 { return float64(r.ok) / r.elapsed.Seconds() }
func (r *result) itemsPerSecond() float64 {
	return r.perSecond() * float64(r.items)
}
func (r *result) quantile(q float64) time.Duration {
	return time.Duration(r.hist.ValueAtQuantile(q)) * time.Microsecond
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

// limits of a run: it ends at whichever comes first.
type limits struct {
	duration time.Duration
	count    uint64        // 0: no limit
	rate     float64       // requests a second in all; 0: closed loop
	patience time.Duration // how long a client waits for an answer; 0: a minute
}

// run drives w over conns connections. In a closed loop each connection sends its next request when the last is answered.
// With a rate the arrival times are fixed beforehand and latency counts from them, so that a stalled service is not
// flattered by requests that were never sent (coordinated omission).
func run(ctx context.Context, conns int, lim limits, w work) *result {
	transport := &http.Transport{MaxIdleConns: conns, MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: cmp.Or(lim.patience, time.Minute)}

	ctx, cancel := context.WithTimeout(ctx, lim.duration)
	defer cancel()
	var (
		next atomic.Uint64
		wg   sync.WaitGroup
		mu   sync.Mutex // guards res
		res  = &result{name: w.name, conns: conns, items: max(w.items, 1), hist: newHistogram()}
	)
	start := time.Now()
	for range conns {
		wg.Go(func() {
			hist, ok, failed := newHistogram(), int64(0), int64(0)
			var first error
			var body bytes.Buffer
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if lim.count > 0 && i >= lim.count {
					break
				}
				from := time.Now()
				if lim.rate > 0 {
					from = start.Add(time.Duration(float64(i) / lim.rate * float64(time.Second)))
					if !sleepUntil(ctx, from) {
						break
					}
				}
				err := once(ctx, client, w, i, &body)
				if ctx.Err() != nil && lim.count == 0 {
					break // cut off by the end of the run: neither success nor failure
				}
				if err != nil {
					if failed++; first == nil {
						first = err
					}
					continue
				}
				ok++
				// A latency above the histogram's minute is impossible: the client gives up at a minute.
				if err := hist.RecordValue(max(time.Since(from).Microseconds(), 1)); err != nil && first == nil {
					first = err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			res.ok, res.failed = res.ok+ok, res.failed+failed
			res.hist.Merge(hist)
			if res.first == nil {
				res.first = first
			}
		})
	}
	wg.Wait()
	res.elapsed = time.Since(start)
	return res
}

func once(ctx context.Context, client *http.Client, w work, i uint64, answer *bytes.Buffer) error {
	url, body := w.next(i)
	req, err := http.NewRequestWithContext(ctx, w.method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = w.header
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer.Reset()
	if _, err := answer.ReadFrom(io.LimitReader(resp.Body, 16<<20)); err != nil {
		return err
	}
	if resp.StatusCode != w.status {
		return fmt.Errorf("%s: status %d: %.200s", w.name, resp.StatusCode, answer.Bytes())
	}
	return w.check(answer.Bytes())
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
