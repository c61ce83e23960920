package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// others measures the software backend of a service while the HSM beside it works, and while it hangs, in turns. Callers of the HSM
// come at a fixed rate either way and wait one second.
func (h *hsmSuite) others(ctx context.Context) error {
	a := arrangements()[2]
	d, p, t, err := h.isolated(ctx, a)
	if err != nil {
		return err
	}
	defer stopQuietly(p)
	err = t.call(ctx, http.MethodPost, "/keys", map[string]string{"name": "soft", "algorithm": "AES-256-GCM", "backend": "software"}, nil)
	if err != nil {
		return err
	}
	const rate = 200 // a second
	var p99s, p50s [2][]float64
	var counts [2][2]int64 // of the HSM: done, failed
	for range h.rounds {
		for phase, words := range [][]string{{"clear"}, {"hang", "C_Sign"}} {
			if _, err := d.fault(ctx, words...); err != nil {
				return err
			}
			if phase == 0 {
				if err := awaitHSM(ctx, t); err != nil {
					return err
				}
			}
			load, stop := context.WithCancel(ctx)
			var hsm *result
			var running sync.WaitGroup
			running.Go(func() {
				hsm = run(load, 2*rate, limits{duration: time.Hour, rate: rate, patience: healPatience}, t.sign("p256"))
			})
			pause(ctx, 200*time.Millisecond)
			r := run(ctx, hsmConns, limits{duration: 2 * h.duration}, t.encrypt("soft"))
			stop()
			running.Wait()
			if r.failed > 0 || r.ok == 0 {
				return fmt.Errorf("the software backend: %d failed, %d done; first: %w", r.failed, r.ok, r.first)
			}
			p99s[phase] = append(p99s[phase], float64(r.quantile(99).Microseconds())/1000)
			p50s[phase] = append(p50s[phase], float64(r.quantile(50).Microseconds())/1000)
			counts[phase][0] += hsm.ok
			counts[phase][1] += hsm.failed
		}
	}
	if _, err := d.fault(ctx, "clear"); err != nil {
		return err
	}
	if counts[0][0] == 0 {
		return errors.New("the HSM did nothing while it was well")
	}
	if counts[1][0] > counts[0][0]/10 {
		return fmt.Errorf("the HSM did %d operations while it was to hang", counts[1][0])
	}
	median := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)/2]
	}
	what := "encrypt with the software backend, 16 conn, "
	h.report.info(what+"p50 while the HSM works", median(p50s[0]), "ms")
	h.report.info(what+"p50 while the HSM hangs", median(p50s[1]), "ms")
	before, during := median(p99s[0]), median(p99s[1])
	h.report.info(what+"p99 while the HSM works", before, "ms")
	h.report.info(what+"p99 while the HSM hangs", during, "ms")
	h.report.add(what+"p99 while the HSM hangs ÷ while it works", during/before, "", "≤ 1.20", during <= 1.2*before)
	return nil
}

// awaitHSM waits until the HSM signs.
func awaitHSM(ctx context.Context, t *target) error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		if err = t.call(ctx, http.MethodPost, "/keys/p256/sign", map[string]any{"message": []byte("are you there")}, nil); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the HSM does not come back: %w", errors.Join(err, ctx.Err()))
}
