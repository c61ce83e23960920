package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/store/postgres"
)

var noToken idempotency.Token

// The routes: one that needs a scope and whose handler has nothing to do, and one that is open. What stands between them is the door.
const (
	guarded = "/api/v1/nodes"
	free    = "/api/v1/health"
)

// accessRequests is how many requests are measured of each kind.
const accessRequests = 300_000

// benchAccess measures what a request pays for being let in: whose credential it is, whether the tenant may, whether the address may, both rate buckets,
// the scope of the route. The service's own handlers are called in this process, on a real store; the network is left out, as its noise is
// larger than what is looked for.
func benchAccess(ctx context.Context, s settings, r *report) (err error) {
	debug.SetGCPercent(300) // as the service does
	dir, err := os.MkdirTemp("", "kwbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	d, err := openDoor(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	key, err := d.apiKey(ctx)
	if err != nil {
		return err
	}
	token, err := d.issuer.token()
	if err != nil {
		return err
	}
	without, err := d.measure(ctx, free, http.Header{}, false, 1)
	if err != nil {
		return err
	}
	r.info("request to an open route, no door, p50", micros(without, 50), "µs")
	kinds := []struct {
		name   string
		header http.Header
		cert   bool
	}{
		{"API key", http.Header{"Authorization": {"Bearer " + key}}, false},
		{"client certificate", http.Header{}, true},
		{"JWT", http.Header{"Authorization": {"Bearer " + token}}, false},
	}
	for _, k := range kinds {
		before := d.reads.n.Load()
		if err := d.once(guarded, k.header, k.cert); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		first := d.reads.n.Load() - before
		before = d.reads.n.Load()
		one, err := d.measure(ctx, guarded, k.header, k.cert, 1)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		many, err := d.measure(ctx, guarded, k.header, k.cert, 4*runtime.GOMAXPROCS(0))
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		reads := d.reads.n.Load() - before
		p50 := micros(one, 50)
		r.add(k.name+": whole request, p50", p50, "µs", "≤ 10", p50 <= 10)
		r.info(k.name+": whole request, p99", micros(one, 99), "µs")
		r.info(k.name+": the door alone (less an open route), p50", p50-micros(without, 50), "µs")
		r.info(fmt.Sprintf("%s: %d callers at once, p50", k.name, 4*runtime.GOMAXPROCS(0)), micros(many, 50), "µs")
		r.info(k.name+": reads of the store for the first request", float64(first), "")
		r.add(fmt.Sprintf("%s: reads of the store for the next %d", k.name, 2*accessRequests), float64(reads), "", "0", reads == 0)
	}
	if err := d.shared(ctx, s, r, dir, kinds[0].header); err != nil {
		return err
	}
	// What needs no store needs none: it is closed, and everybody is let in as before.
	if err := d.store.Close(); err != nil {
		return err
	}
	d.closers[0] = func() error { return nil }
	for _, k := range kinds {
		failed := 0
		for range 10_000 {
			if err := d.once(guarded, k.header, k.cert); err != nil {
				failed++
			}
		}
		r.add(k.name+": refused of 10000 requests with the store closed", float64(failed), "", "0", failed == 0)
	}
	return nil
}

func micros(h *hdrhistogram.Histogram, q float64) float64 {
	return float64(h.ValueAtQuantile(q)) / 1000
}

// nowhere is a ResponseWriter that keeps the status alone.
type nowhere struct {
	header http.Header
	status int
}

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(status int)      { w.status = status }

// once sends one request.
func (d *door) once(path string, header http.Header, cert bool) error {
	r, err := d.request(path, header, cert)
	if err != nil {
		return err
	}
	w := &nowhere{header: http.Header{}}
	d.handler.ServeHTTP(w, r)
	return w.check()
}

func (w *nowhere) check() error {
	if w.status != http.StatusOK {
		return fmt.Errorf("status %d", w.status)
	}
	return nil
}

// measure sends requests by so many callers, and gives nanoseconds.
func (d *door) measure(ctx context.Context, path string, header http.Header, cert bool, callers int) (*hdrhistogram.Histogram, error) {
	all := hdrhistogram.New(1, int64(time.Minute), 3)
	var mu sync.Mutex // guards all and failed
	var failed error
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			h := hdrhistogram.New(1, int64(time.Minute), 3)
			err := d.caller(ctx, path, header.Clone(), cert, accessRequests/callers, h)
			mu.Lock()
			defer mu.Unlock()
			all.Merge(h)
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	return all, failed
}

func (d *door) caller(ctx context.Context, path string, header http.Header, cert bool, n int, h *hdrhistogram.Histogram) error {
	r, err := d.request(path, header, cert)
	if err != nil {
		return err
	}
	w := &nowhere{header: http.Header{}}
	for range n {
		clear(w.header)
		begun := time.Now()
		d.handler.ServeHTTP(w, r)
		if err := errors.Join(h.RecordValue(max(time.Since(begun).Nanoseconds(), 1)), w.check(), ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

// countedCells counts how often cells are taken from the database.
type countedCells struct {
	ratelimit.Store
	n atomic.Int64
}

func (c *countedCells) TakeCells(ctx context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (int, time.Duration, error) {
	c.n.Add(1)
	return c.Store.TakeCells(ctx, b, interval, tolerance, want)
}

// shared measures the same with buckets that nodes share, in PostgreSQL.
func (d *door) shared(ctx context.Context, s settings, r *report, dir string, header http.Header) (err error) {
	db, err := startDatabase(ctx, s, filepath.Join(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.stop(context.WithoutCancel(ctx), "fast")) }()
	store, err := postgres.Open(ctx, db.flags[1], postgres.Options{PasswordFile: db.flags[3]})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	cells := &countedCells{Store: store}
	limiter, err := ratelimit.New(ratelimit.Options{Store: cells})
	if err != nil {
		return err
	}
	alone := d.handler
	defer func() { d.handler = alone }()
	if d.handler, err = d.build(limiter); err != nil {
		return err
	}
	begun := time.Now()
	one, err := d.measure(ctx, guarded, header, false, 1)
	if err != nil {
		return err
	}
	passed := time.Since(begun)
	p50 := micros(one, 50)
	r.add("buckets shared by nodes, API key: whole request, p50", p50, "µs", "≤ 10", p50 <= 10)
	r.info("buckets shared by nodes: cells are taken from the database", float64(cells.n.Load())/passed.Seconds(), "times/s")
	r.info("buckets shared by nodes: requests for each time", accessRequests/float64(max(cells.n.Load(), 1)), "")
	return nil
}
