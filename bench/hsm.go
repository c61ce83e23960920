package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hsmSuite measures the service on a SoftHSM2 token beside the module itself, and what it does while the token fails.
type hsmSuite struct {
	settings
	report *report
	device *device
	dir    string
	count  int // of services started, for their folders
}

// arrangement is a way to configure the token.
type arrangement struct {
	name       string
	attributes []string
	sessions   int // of a process, where the device shall be as parallel for the service as it is for 16 threads
}

func arrangements() []arrangement {
	return []arrangement{{"in-process", []string{"x-in-process=true"}, 16}, {"1 process", nil, 16}, {"2 processes", []string{"x-processes=2"}, 8}}
}

const (
	hsmConns  = 16
	hsmBatch  = 100
	slowDelay = "2ms"
	// slowCalls are made once for each operation. C_Sign and C_Encrypt are not: miekg/pkcs11 asks for the length first, the service does not.
	slowCalls = "C_SignInit,C_EncryptInit"
)

func benchHSM(ctx context.Context, s settings, r *report) error {
	dir, err := os.MkdirTemp("", "keywright-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	h := &hsmSuite{settings: s, report: r, dir: dir}
	if h.device, err = newDevice(ctx, s.parts, dir); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"fast", h.fast}, {"slow", h.slow}, {"child", h.childCost}, {"others", h.others}, {"heal", h.heal}, {"pin", h.refusedPIN}} {
		if s.part != "" && s.part != step.name {
			continue
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// start starts a service on the token, which is its first backend.
func (h *hsmSuite) start(ctx context.Context, uri string) (*process, *target, error) {
	h.count++
	dir := filepath.Join(h.dir, "service-"+strconv.Itoa(h.count))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	p, err := startService(ctx, h.binary, dir, "--backend", "hsm="+uri)
	if err != nil {
		return nil, nil, err
	}
	return p, keywrightTarget(p), nil
}

// figures are what was measured of one thing.
type figures struct {
	perSecond float64
	processor float64 // seconds of processor time for one operation, of everything but the load generator
}

// runner measures one thing once.
type runner struct {
	name string
	run  func(context.Context) (figures, error)
}

// inTurns runs all one after the other, rounds times, and gives the median of each.
func (h *hsmSuite) inTurns(ctx context.Context, all []runner) ([]figures, error) {
	taken := make([][]figures, len(all))
	for range h.rounds {
		for i, r := range all {
			v, err := r.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			taken[i] = append(taken[i], v)
		}
	}
	out := make([]figures, len(all))
	for i, f := range taken {
		slices.SortFunc(f, func(x, y figures) int { return cmp.Compare(x.perSecond, y.perSecond) })
		out[i] = f[len(f)/2]
	}
	return out, nil
}

func (h *hsmSuite) raw(what, op string, faulty bool, processes int) runner {
	w := rawWork{module: h.device.module, label: h.device.label, pinFile: h.device.pinFile, op: op, threads: hsmConns / processes, duration: h.duration}
	if faulty {
		w.module = h.device.faulty
	}
	return runner{what, func(ctx context.Context) (figures, error) { return w.run(ctx, processes) }}
}

// rest drives a work for the duration, or for count requests if there is one.
func (h *hsmSuite) rest(what string, s *onToken, w work, count uint64) runner {
	return runner{what, func(ctx context.Context) (figures, error) {
		lim, warm := limits{duration: h.duration}, limits{duration: h.duration / 8}
		if count > 0 { // what is cut off at the end of a warm-up would go on into the measurement
			lim, warm = limits{duration: 10 * time.Minute, count: count}, limits{duration: time.Minute, count: hsmConns}
		}
		run(ctx, hsmConns, warm, w) // connections, sessions
		before, err := processorTime(s.process.cmd.Process.Pid)
		if err != nil {
			return figures{}, err
		}
		r := run(ctx, hsmConns, lim, w)
		if r.failed > 0 || r.ok == 0 {
			return figures{}, fmt.Errorf("%d failed, %d done; first: %w", r.failed, r.ok, r.first)
		}
		after, err := processorTime(s.process.cmd.Process.Pid)
		return figures{r.itemsPerSecond(), (after - before) / float64(r.ok*int64(r.items))}, err
	}}
}

// onToken is a service that has the token.
type onToken struct {
	*target
	process *process
}

// services starts a service for each arrangement, with the two keys.
func (h *hsmSuite) services(ctx context.Context, faulty bool, all []arrangement) (started []*onToken, stop func(), err error) {
	stop = func() {
		for _, s := range started {
			stopQuietly(s.process)
		}
	}
	for _, a := range all {
		attributes := a.attributes
		if faulty {
			attributes = append(slices.Clone(attributes), "x-sessions="+strconv.Itoa(a.sessions))
		}
		p, t, err := h.start(ctx, h.device.uri(faulty, attributes...))
		if err != nil {
			stop()
			return nil, nil, err
		}
		started = append(started, &onToken{t, p})
		if err = t.createKey(ctx, "aes", "AES-256-GCM"); err == nil {
			err = t.createKey(ctx, "p256", "ECDSA-P256")
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return started, stop, nil
}

// operation is what is measured both ways.
type operation struct {
	name, raw     string
	single, batch func(*target) work
}

func hsmOperations() []operation {
	return []operation{
		{"sign ECDSA-P256", "sign", func(t *target) work { return t.sign("p256") }, func(t *target) work { return t.signBatch("p256", hsmBatch) }},
		{"encrypt AES-256-GCM 32 B", "encrypt", func(t *target) work { return t.encrypt("aes") }, func(t *target) work { return t.encryptBatch("aes", hsmBatch) }},
	}
}

func (t *target) signBatch(key string, n int) work {
	body := []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(`{"message":"`+plaintext32+`"},`, n), ",") + `]}`)
	url := t.url(key, "sign")
	return work{name: fmt.Sprintf("sign batch of %d", n), method: http.MethodPost, header: t.header, status: http.StatusOK, items: n,
		next: func(uint64) (string, []byte) { return url, body },
		check: func(b []byte) error {
			if got := bytes.Count(b, []byte(`"signature"`)); got != n {
				return fmt.Errorf("%d signatures in the answer to %d items", got, n)
			}
			return nil
		}}
}

// fast is the token as fast as it is: the REST API against 16 threads of one process straight on the module.
func (h *hsmSuite) fast(ctx context.Context) error {
	all := arrangements()
	targets, stop, err := h.services(ctx, false, all)
	if err != nil {
		return err
	}
	defer stop()
	for _, op := range hsmOperations() {
		runners := []runner{h.raw("module", op.raw, false, 1), h.raw("module, two processes", op.raw, false, 2)}
		for i, t := range targets {
			runners = append(runners, h.rest(all[i].name, t, op.single(t.target), 0), h.rest(all[i].name+", batches", t, op.batch(t.target), 0))
		}
		v, err := h.inTurns(ctx, runners)
		if err != nil {
			return err
		}
		h.report.info(op.name+", straight on the module, 16 threads", v[0].perSecond, "/s")
		h.report.info(op.name+", the same in two processes of 8 threads", v[1].perSecond, "/s")
		for i, a := range all {
			h.ratio(op.name+", REST, 16 conn, "+a.name, v[2+2*i], v[0], 0.4)
			h.ratio(op.name+", REST, batches of 100, 16 conn, "+a.name, v[3+2*i], v[0], 0.8)
		}
		h.report.info(op.name+", straight on the module: processor time of one", v[0].processor*1e6, "µs")
		for i, a := range all {
			h.report.info(op.name+", REST, "+a.name+": processor time of one, without its caller's", v[2+2*i].processor*1e6, "µs")
			h.report.info(op.name+", REST, batches of 100, "+a.name+": processor time of one, without its caller's", v[3+2*i].processor*1e6, "µs")
		}
	}
	return nil
}

func (h *hsmSuite) ratio(what string, rest, raw figures, reach float64) {
	h.report.info(what, rest.perSecond, "/s")
	ratio := rest.perSecond / raw.perSecond
	h.report.add(what+" ÷ module", ratio, "", fmt.Sprintf("≥ %.2f", reach), ratio >= reach)
}

// slow is a device that takes 2 ms for each call: one that does sixteen at a time, and one that does one after the other. Both sides go
// through the same fault module with the same number of sessions.
func (h *hsmSuite) slow(ctx context.Context) (err error) {
	all := arrangements()
	targets, stop, err := h.services(ctx, true, all)
	if err != nil {
		return err
	}
	defer stop()
	defer func() {
		_, cerr := h.device.fault(context.WithoutCancel(ctx), "clear")
		err = errors.Join(err, cerr)
	}()
	if _, err := h.device.fault(ctx, "delay", slowCalls, slowDelay); err != nil {
		return err
	}
	// Batches are counted whole, so they are measured by number: ten each, of 0.2 s.
	const batches = 10 * hsmConns
	for _, op := range hsmOperations() {
		runners := []runner{h.raw("module", op.raw, true, 1)}
		for i, t := range targets {
			runners = append(runners, h.rest(all[i].name, t, op.single(t.target), 0), h.rest(all[i].name+", batches", t, op.batch(t.target), batches))
		}
		v, err := h.inTurns(ctx, runners)
		if err != nil {
			return err
		}
		h.report.info(op.name+" of 2 ms, straight on the module, 16 threads", v[0].perSecond, "/s")
		for i, a := range all {
			h.ratio(op.name+" of 2 ms, REST, 16 conn, "+a.name, v[1+2*i], v[0], 0.95)
			h.ratio(op.name+" of 2 ms, REST, batches of 100, 16 conn, "+a.name, v[2+2*i], v[0], 0.95)
		}
	}
	if _, err := h.device.fault(ctx, "delay", slowCalls, slowDelay, "queue"); err != nil {
		return err
	}
	op := hsmOperations()[0]
	runners := []runner{h.raw("module", op.raw, true, 1)}
	for i, t := range targets {
		runners = append(runners, h.rest(all[i].name, t, op.single(t.target), 0))
	}
	v, err := h.inTurns(ctx, runners)
	if err != nil {
		return err
	}
	h.report.info(op.name+" of 2 ms, one at a time, straight on the module, 16 threads", v[0].perSecond, "/s")
	for i, a := range all {
		h.ratio(op.name+" of 2 ms, one at a time, REST, 16 conn, "+a.name, v[1+i], v[0], 0.95)
	}
	return nil
}

// childCost is what the separate process adds to a call, by the benchmark of hsm/remote: a call that does nothing, through one child.
func (h *hsmSuite) childCost(ctx context.Context) error {
	out, err := command(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark(Call|Echo)$/^callers=(1|16)$", "-benchtime", h.duration.String(), "./hsm/remote")
	if err != nil {
		return err
	}
	figures := map[string]float64{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		for i := 2; i+1 < len(f); i++ {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				figures[strings.SplitN(f[0], "-", 2)[0]+" "+f[i+1]] = v
			}
		}
	}
	p50, rate := figures["BenchmarkCall/callers=1 p50-us"], figures["BenchmarkCall/callers=16 calls/s"]
	if p50 == 0 || rate == 0 {
		return fmt.Errorf("the benchmark has said something else: %s", out)
	}
	h.report.add("a call through a child, one caller, p50", p50, "µs", "≤ 60", p50 <= 60)
	h.report.add("calls through a child, 16 callers", rate, "/s", "≥ 80000", rate >= 80_000)
	h.report.info("a bare echo between two processes, one caller, p50", figures["BenchmarkEcho/callers=1 p50-us"], "µs")
	h.report.info("bare echoes between two processes, 16 callers", figures["BenchmarkEcho/callers=16 calls/s"], "/s")
	return nil
}
