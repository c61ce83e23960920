package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	mostSealed = 100_000
	fewSealed  = 10
	// materialMiB is what the cache of opened keys may hold in these measurements, and by default.
	materialMiB = 96
	// mostResident is what the service may take beside that, in MB: what it may with a million keys.
	mostResident = 120.0
)

// sealed is very many keys in sealed custody, of which one of a hundred is in use, against ten.
func (b *pqSuite) sealed(ctx context.Context) (err error) {
	if b.device, err = newDevice(ctx, b.parts, b.dir); err != nil {
		return err
	}
	count := min(b.keys, mostSealed)
	hot := max(count/100, 1)
	few, err := b.onSealed(ctx, fewSealed)
	if err != nil {
		return err
	}
	defer stopQuietly(few.process)
	many, err := b.onSealed(ctx, count)
	if err != nil {
		return err
	}
	defer stopQuietly(many.process)
	// Each key in use is opened once before, by its own first request.
	of := func(s *onToken, n, stride uint64) work {
		return s.signOver(n, func(i uint64) string { return keyName(i * stride) })
	}
	begin := time.Now()
	if r := run(ctx, hsmConns, limits{duration: 10 * time.Minute, count: hot}, of(many, hot, count/hot)); r.failed > 0 {
		return r.first
	}
	b.report.info(fmt.Sprintf("the first signature of each of %d keys, with its opening by the HSM, 16 conn", hot), float64(hot)/time.Since(begin).Seconds(), "/s")
	before, err := cacheOf(ctx, many)
	if err != nil {
		return err
	}
	v, err := b.inTurns(ctx, []runner{b.rest("ten", few, of(few, fewSealed, 1), 0), b.rest("many", many, of(many, hot, count/hot), 0)})
	if err != nil {
		return err
	}
	after, err := cacheOf(ctx, many)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("sign ML-DSA-65, sealed on an HSM, %d keys out of %d", hot, count)
	b.report.info(fmt.Sprintf("sign ML-DSA-65, sealed on an HSM, %d keys out of %d", fewSealed, fewSealed), v[0].perSecond, "/s")
	b.report.info(what, v[1].perSecond, "/s")
	ratio := v[1].perSecond / v[0].perSecond
	b.report.add(what+" ÷ ten keys", ratio, "", "≥ 0.90", ratio >= 0.9)
	b.report.info(what+": opened keys in memory", after.entries, "")
	b.report.info(what+": found in memory", 100*(after.hits-before.hits)/(after.hits-before.hits+after.misses-before.misses), "%")
	held := after.bytes / (1 << 20)
	b.report.add(what+": the cache holds", held, "MiB", fmt.Sprintf("≤ %d", materialMiB), held <= materialMiB)
	mb, err := many.process.resident()
	if err != nil {
		return err
	}
	least, err := few.process.resident()
	if err != nil {
		return err
	}
	b.report.info(fmt.Sprintf("resident memory with %d keys, under load", fewSealed), least, "MB")
	most := mostResident + float64(materialMiB<<20)/1e6
	b.report.add(fmt.Sprintf("resident memory with %d keys of %d, under load", hot, count), mb, "MB", fmt.Sprintf("≤ %.0f", most), mb <= most)
	return nil
}

// onSealed starts a service on the token that allows sealed custody, and makes n keys with 16 callers at once.
func (b *pqSuite) onSealed(ctx context.Context, n uint64) (s *onToken, err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("sealed-%d", n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	settings := filepath.Join(dir, "keywright.yaml")
	content := fmt.Sprintf("backends:\n  - name: hsm\n    uri: %q\n    pkcs11: {allow_sealed: true}\n", b.device.uri(false))
	if err := os.WriteFile(settings, []byte(content), 0o600); err != nil {
		return nil, err
	}
	p, err := startService(ctx, b.binary, dir, "--config", settings, "--metrics-listen", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			stopQuietly(p)
		}
	}()
	s = &onToken{keywrightTarget(p), p}
	w := s.create(keyName)
	w.name, w.next = "create sealed ML-DSA-65 key", func(i uint64) (string, []byte) {
		return s.base + "/keys", []byte(`{"name":"` + keyName(i) + `","algorithm":"ML-DSA-65","custody":"sealed","backend":"hsm"}`)
	}
	r := run(ctx, hsmConns, limits{duration: time.Hour, count: n}, w)
	if r.failed > 0 || r.ok != int64(n) { //nolint:gosec // at most mostSealed
		return nil, fmt.Errorf("creating keys: %d failed, %d done: %w", r.failed, r.ok, r.first)
	}
	if n > fewSealed {
		b.report.info(fmt.Sprintf("create %d ML-DSA-65 keys, sealed on an HSM, 16 conn", n), r.perSecond(), "/s")
	}
	return s, nil
}

// signOver spreads sign over n keys whose names name gives: each in its turn.
func (t *target) signOver(n uint64, name func(uint64) string) work {
	urls := make([]string, n)
	for i := range urls {
		urls[i] = t.url(name(uint64(i)), "sign")
	}
	w := t.signRead("")
	body := []byte(`{"message":"` + plaintext32 + `"}`)
	w.name = fmt.Sprintf("sign over %d keys", n)
	w.next = func(i uint64) (string, []byte) { return urls[i%n], body }
	return w
}

// materialCache is what a service says of its cache of opened keys.
type materialCache struct{ hits, misses, entries, bytes float64 }

// cacheOf reads the metrics of the HSM's backend.
func cacheOf(ctx context.Context, s *onToken) (c materialCache, err error) {
	address, err := os.ReadFile(filepath.Join(filepath.Dir(s.process.log), "metrics.address"))
	if err != nil {
		return c, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.TrimSpace(string(address))+"/metrics", nil)
	if err != nil {
		return c, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	into := map[string]*float64{"hits_total": &c.hits, "misses_total": &c.misses, "entries": &c.entries, "bytes": &c.bytes}
	found := 0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "keywright_sealed_cache_")
		if !ok {
			continue
		}
		name, value, ok := strings.Cut(rest, `{backend="hsm"} `)
		if v := into[name]; ok && v != nil {
			if *v, err = strconv.ParseFloat(value, 64); err != nil {
				return c, err
			}
			found++
		}
	}
	if err := lines.Err(); err != nil {
		return c, err
	}
	if found != len(into) {
		return c, fmt.Errorf("the metrics have %d of the %d values looked for", found, len(into))
	}
	return c, nil
}
