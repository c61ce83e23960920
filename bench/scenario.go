package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// suite runs the measurements and gathers the rows of the table.
type suite struct {
	settings
	report  *report
	service *process
	kw      *target
	floor   *process
	transit *target
	created uint64 // keys made by creation
}

func bench(ctx context.Context, s settings) error {
	if err := os.MkdirAll(s.out, 0o750); err != nil {
		return err
	}
	var r report
	one, base := benchDefault, "table"
	switch s.only {
	case "hsm":
		one, base = benchHSM, "hsm"
	case "tpm":
		one, base = benchTPM, "tpm"
	case "pq":
		one, base = benchPQ, "pq"
	case "reseal":
		one, base = benchReseal, "reseal"
	case "postgres":
		one, base = benchPostgres, "postgres"
	case "nodes":
		one, base = benchNodes, "nodes"
	case "keyspace":
		one, base = benchKeyspace, "keyspace"
	case "access":
		one, base = benchAccess, "access"
	case "audit":
		one, base = benchAudit, "audit"
	case "log":
		one, base = benchLog, "log"
	}
	err := one(ctx, s, &r)
	r.print(os.Stdout) // what there is, if not all
	if err != nil {
		return err
	}
	if len(r.curves) > 0 {
		if err := r.plot(filepath.Join(s.out, "latency.svg")); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(s.out, base+".md"))
	if err != nil {
		return err
	}
	r.print(f)
	return f.Close()
}

func benchDefault(ctx context.Context, s settings, r *report) error {
	dir, err := os.MkdirTemp("", "keywright-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	b := &suite{settings: s, report: r}
	if b.floor, err = startFloor(ctx); err != nil {
		return err
	}
	defer stopQuietly(b.floor)
	if b.service, err = startService(ctx, s.binary, dir); err != nil {
		return err
	}
	defer func() { stopQuietly(b.service) }()
	b.kw = keywrightTarget(b.service)
	if s.transit != "" {
		b.transit = vaultTarget(s.transit, s.token)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"", b.idle}, {"", b.prepare}, {"single", b.single}, {"open", b.open}, {"batch", b.batch}, {"sign", b.signing},
		{"create", b.creation}, {"million", b.million(dir)},
	} {
		if s.only != "" && step.name != "" && step.name != s.only || step.name == "million" && s.keys == 0 {
			continue
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func stopQuietly(p *process) {
	if err := p.stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintln(os.Stderr, "bench: stopping:", err)
	}
}

func (b *suite) idle(ctx context.Context) error {
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	mb, err := b.service.resident()
	b.report.add("resident memory, idle", mb, "MB", "≤ 40", mb <= 40)
	return err
}

func (b *suite) prepare(ctx context.Context) error {
	for _, t := range []*target{b.kw, b.transit} {
		if t == nil {
			continue
		}
		if err := t.createKey(ctx, "bench-aes", "AES-256-GCM"); err != nil {
			return err
		}
		if err := t.createKey(ctx, "bench-p256", "ECDSA-P256"); err != nil {
			return err
		}
	}
	return nil
}

// floorWork is w sent to the floor: same body, no credential.
func (b *suite) floorWork(w work) work {
	_, body := w.next(0)
	url := b.floor.address + "/encrypt"
	w.header = http.Header{"Content-Type": {"application/json"}}
	w.next = func(uint64) (string, []byte) { return url, body }
	return w
}

// inTurns measures the works one after the other, rounds times, and gives the run of median throughput of each: whatever
// else the machine does meets all of them alike.
func (b *suite) inTurns(ctx context.Context, conns int, works ...work) ([]*result, error) {
	all := make([][]*result, len(works))
	for range b.rounds {
		for i, w := range works {
			run(ctx, conns, limits{duration: b.duration / 8}, w) // warm up: connections, caches
			r := run(ctx, conns, limits{duration: b.duration}, w)
			if r.failed > 0 || r.ok == 0 {
				return nil, fmt.Errorf("%s at %d connections: %d failed, %d done; first: %w", w.name, conns, r.failed, r.ok, r.first)
			}
			all[i] = append(all[i], r)
		}
	}
	median := make([]*result, len(works))
	for i, rs := range all {
		slices.SortFunc(rs, func(x, y *result) int { return int(x.perSecond() - y.perSecond()) })
		median[i] = rs[len(rs)/2]
	}
	return median, nil
}

func (b *suite) single(ctx context.Context) error {
	reach := map[int]float64{1: 0, 16: 0.40, 64: 0.55}
	for _, conns := range []int{1, 16, 64} {
		w := b.kw.encrypt("bench-aes")
		works := []work{b.floorWork(w), w}
		if b.transit != nil {
			works = append(works, b.transit.encrypt("bench-aes"))
		}
		rs, err := b.inTurns(ctx, conns, works...)
		if err != nil {
			return err
		}
		floor, kw := rs[0], rs[1]
		ratio := kw.perSecond() / floor.perSecond()
		what := fmt.Sprintf("encrypt 32 B, audited, %d conn", conns)
		b.report.info(what+", floor", floor.perSecond(), "/s")
		b.report.info(what, kw.perSecond(), "/s")
		if reach[conns] > 0 {
			b.report.add(what+" ÷ floor", ratio, "", fmt.Sprintf("≥ %.2f", reach[conns]), ratio >= reach[conns])
		} else {
			b.report.info(what+" ÷ floor", ratio, "")
		}
		for i, name := range []string{"floor", "keywright", "transit"}[:len(rs)] {
			b.report.series(fmt.Sprintf("%s, %d conn", name, conns), rs[i].hist)
		}
		if b.transit != nil {
			b.report.info(what+" ÷ transit", kw.perSecond()/rs[2].perSecond(), "")
		}
		p99 := float64(kw.quantile(99).Microseconds()) / 1000
		b.report.info(what+", p50", float64(kw.quantile(50).Microseconds())/1000, "ms")
		b.report.info(what+", p99 of the floor", float64(floor.quantile(99).Microseconds())/1000, "ms")
		if conns == 16 {
			b.report.add(what+", p99", p99, "ms", "≤ 3", p99 <= 3)
		} else {
			b.report.info(what+", p99", p99, "ms")
		}
	}
	mb, err := b.service.resident()
	b.report.add("resident memory, under load", mb, "MB", "≤ 90", mb <= 90)
	return err
}

func (b *suite) open(ctx context.Context) error {
	w := b.kw.encrypt("bench-aes")
	const rate = 4000
	r := run(ctx, 64, limits{duration: b.duration, rate: rate}, w)
	if r.failed > 0 {
		return fmt.Errorf("open loop: %d failed: %w", r.failed, r.first)
	}
	b.report.info(fmt.Sprintf("open loop at %d/s, p50", rate), float64(r.quantile(50).Microseconds())/1000, "ms")
	b.report.info(fmt.Sprintf("open loop at %d/s, p99", rate), float64(r.quantile(99).Microseconds())/1000, "ms")
	b.report.series(fmt.Sprintf("keywright, open loop %d/s", rate), r.hist)
	return nil
}

func (b *suite) batch(ctx context.Context) error {
	w := b.kw.encryptBatch("bench-aes", 100)
	works := []work{b.floorWork(w), w}
	if b.transit != nil {
		works = append(works, b.transit.encryptBatch("bench-aes", 100))
	}
	rs, err := b.inTurns(ctx, 16, works...)
	if err != nil {
		return err
	}
	b.report.info("batch of 100 × 32 B, 16 conn, floor", rs[0].itemsPerSecond(), "items/s")
	items := rs[1].itemsPerSecond()
	b.report.add("batch of 100 × 32 B, 16 conn", items, "items/s", "≥ 400000", items >= 400_000)
	if b.transit != nil {
		b.report.info("batch of 100 × 32 B, 16 conn, transit", rs[2].itemsPerSecond(), "items/s")
	}
	return nil
}

func (b *suite) signing(ctx context.Context) error {
	works := []work{b.kw.sign("bench-p256")}
	if b.transit != nil {
		works = append(works, b.transit.sign("bench-p256"))
	}
	rs, err := b.inTurns(ctx, 16, works...)
	if err != nil {
		return err
	}
	b.report.info("sign ECDSA-P256, 16 conn", rs[0].perSecond(), "/s")
	if b.transit != nil {
		b.report.info("sign ECDSA-P256, 16 conn, transit", rs[1].perSecond(), "/s")
	}
	return nil
}

func keyName(i uint64) string { return fmt.Sprintf("k-%07d", i) }

func (b *suite) creation(ctx context.Context) error {
	r := run(ctx, 16, limits{duration: time.Minute, count: 20_000}, b.kw.create(keyName))
	if r.failed > 0 {
		return fmt.Errorf("creating keys: %d failed: %w", r.failed, r.first)
	}
	b.created = uint64(r.ok)
	b.report.add("create AES-256-GCM key, 16 conn", r.perSecond(), "/s", "≥ 4000", r.perSecond() >= 4000)
	b.report.info("create AES-256-GCM key, 16 conn, p99", float64(r.quantile(99).Microseconds())/1000, "ms")
	return nil
}

// million compares a working set of 1,000 keys out of a few with the same out of many.
func (b *suite) million(dir string) func(context.Context) error {
	return func(ctx context.Context) error {
		const set = 1000
		have := b.created
		small, err := b.freshThousand(ctx, set)
		if err != nil {
			return err
		}
		missing := b.keys - min(b.keys, have)
		r := run(ctx, 16, limits{duration: 30 * time.Minute, count: missing}, b.kw.create(func(i uint64) string { return keyName(have + i) }))
		if r.failed > 0 {
			return fmt.Errorf("creating keys: %d failed: %w", r.failed, r.first)
		}
		b.report.info(fmt.Sprintf("create up to %d keys, 16 conn", b.keys), r.perSecond(), "/s")
		if err := b.service.stop(); err != nil {
			return err
		}
		if b.service, err = startService(ctx, b.binary, dir); err != nil {
			return err
		}
		b.kw = keywrightTarget(b.service)
		start := b.service.started.Seconds()
		b.report.add(fmt.Sprintf("start to first answer with %d keys", b.keys), start, "s", "≤ 1", start <= 1)
		stride := b.keys / set
		w := b.kw.encryptOver(set, func(i uint64) string { return keyName(i * stride) })
		rs, err := b.inTurns(ctx, 16, w)
		if err != nil {
			return err
		}
		large := float64(rs[0].quantile(50).Microseconds())
		b.report.info(fmt.Sprintf("encrypt p50, 1000 keys out of %d", b.keys), large/1000, "ms")
		b.report.add("encrypt p50, 1000 keys out of many ÷ out of 1000", large/small, "", "≤ 1.2", large/small <= 1.2)
		mb, err := b.service.resident()
		b.report.add(fmt.Sprintf("resident memory with %d keys, under load", b.keys), mb, "MB", "≤ 120", mb <= 120)
		return err
	}
}

// freshThousand measures a service that has 1,000 keys and no more: p50 in microseconds.
func (b *suite) freshThousand(ctx context.Context, set uint64) (float64, error) {
	dir, err := os.MkdirTemp("", "keywright-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	p, err := startService(ctx, b.binary, dir)
	if err != nil {
		return 0, err
	}
	defer stopQuietly(p)
	t := keywrightTarget(p)
	if r := run(ctx, 16, limits{duration: time.Minute, count: set}, t.create(keyName)); r.failed > 0 {
		return 0, r.first
	}
	rs, err := b.inTurns(ctx, 16, t.encryptOver(set, keyName))
	if err != nil {
		return 0, err
	}
	p50 := float64(rs[0].quantile(50).Microseconds())
	b.report.info("encrypt p50, 1000 keys out of 1000", p50/1000, "ms")
	return p50, nil
}
