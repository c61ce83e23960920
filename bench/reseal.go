package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	mostResealed = 100_000
	resealConns  = 16
	hotResealed  = 1000 // keys that are in use meanwhile
	// mostDisturbed is how much longer the slowest hundredth may take while everything is sealed anew.
	mostDisturbed = 1.5
)

// benchReseal replaces the root under load, with very many keys: how long the re-sealing takes, what it costs the others, and that it goes on
// after the service was killed in the midst.
func benchReseal(ctx context.Context, s settings, r *report) (err error) {
	dir, err := os.MkdirTemp("", "kwbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	b := &resealSuite{settings: s, report: r, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "keywright.yaml"), count: min(s.keys, mostResealed)}
	if err := os.Mkdir(b.data, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(b.config, fmt.Appendf(nil, "reseal: {share: %g, settle: 1s}\n", s.share), 0o600); err != nil {
		return err
	}
	if s.postgres {
		stop, err := b.database(ctx, dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	return b.measure(ctx)
}

type resealSuite struct {
	settings
	report       *report
	data, config string
	count        uint64
	more         []string // flags of the service
	rotations    int
}

// database starts a PostgreSQL for the service.
func (b *resealSuite) database(ctx context.Context, dir string) (stop func() error, err error) {
	script, err := filepath.Abs(filepath.Join(b.parts, "postgres.sh"))
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // the database's user has to get through
		return nil, err
	}
	database := filepath.Join(dir, "database")
	out, err := exec.CommandContext(ctx, script, database).Output() //nolint:gosec // our own script
	if err != nil {
		return nil, fmt.Errorf("starting PostgreSQL: %w", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = strings.Trim(value, "'")
	}
	b.more = []string{"--store", values["PG_URI"], "--store-password-file", values["PG_PASSWORD_FILE"]}
	return func() error {
		return exec.CommandContext(context.WithoutCancel(ctx), script, database, "stop").Run() //nolint:gosec // our own script
	}, nil
}

func (b *resealSuite) start(ctx context.Context) (*process, *target, error) {
	p, err := startService(ctx, b.binary, b.data, append([]string{"--config", b.config}, b.more...)...)
	if err != nil {
		return nil, nil, err
	}
	return p, keywrightTarget(p), nil
}

func (b *resealSuite) measure(ctx context.Context) error {
	p, t, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { stopQuietly(p) }()
	r := run(ctx, resealConns, limits{duration: time.Hour, count: b.count}, t.create(keyName))
	if r.failed > 0 || r.ok != int64(b.count) { //nolint:gosec // at most mostResealed
		return fmt.Errorf("creating keys: %d failed, %d done: %w", r.failed, r.ok, r.first)
	}
	b.report.info(fmt.Sprintf("create %d AES-256-GCM keys, 16 conn", b.count), r.perSecond(), "/s")
	hot := min(b.count, hotResealed)
	load := t.encryptOver(hot, func(i uint64) string { return keyName(i * (b.count / hot)) })
	if r := run(ctx, resealConns, limits{duration: time.Minute, count: hot}, load); r.failed > 0 {
		return r.first
	}

	for _, rate := range []float64{0, 500} {
		if err := b.disturb(ctx, t, load, rate); err != nil {
			return err
		}
	}

	// Killed in the midst, twice.
	id, err := b.rotate(ctx, t)
	if err != nil {
		return err
	}
	begin := time.Now()
	for _, part := range []int64{4, 2} {
		j, err := b.until(ctx, t, id, func(j *resealJob) bool { return j.Done >= int64(b.count)/part }) //nolint:gosec // at most mostResealed
		if err != nil {
			return err
		}
		if err := p.cmd.Process.Kill(); err != nil {
			return err
		}
		_ = p.cmd.Wait() // it was killed
		if p, t, err = b.start(ctx); err != nil {
			return err
		}
		again, err := b.job(ctx, t, id)
		if err != nil {
			return err
		}
		b.report.info(fmt.Sprintf("killed -9 at %d of %d: known after the start", j.Done, j.Total), float64(again.Done), "")
	}
	j, err := b.until(ctx, t, id, func(*resealJob) bool { return false })
	if err != nil {
		return err
	}
	b.report.info("sealed anew with two kills, in all", time.Since(begin).Seconds(), "s")
	return b.settled(ctx, t, j)
}

// disturb seals everything anew beside load: closed loop, or at a rate.
func (b *resealSuite) disturb(ctx context.Context, t *target, load work, rate float64) error {
	what := fmt.Sprintf("encrypt 32 B over %d of %d keys, 16 conn", min(b.count, hotResealed), b.count)
	if rate > 0 {
		what += fmt.Sprintf(", %g/s", rate)
	}
	before := run(ctx, resealConns, limits{duration: 5 * b.duration, rate: rate}, load)
	if before.failed > 0 {
		return before.first
	}
	id, err := b.rotate(ctx, t)
	if err != nil {
		return err
	}
	began := time.Now()
	loaded, stop := context.WithCancel(ctx)
	done := make(chan *result, 1)
	go func() { done <- run(loaded, resealConns, limits{duration: time.Hour, rate: rate}, load) }()
	seen, walked := map[int64]bool{}, time.Duration(0)
	j, err := b.until(ctx, t, id, func(j *resealJob) bool {
		seen[j.Done] = true
		if walked == 0 && j.Total > 0 && j.Done == j.Total {
			walked = time.Since(began)
		}
		return false
	})
	stop()
	meanwhile := <-done
	if err != nil {
		return err
	}
	if meanwhile.failed > 0 {
		return meanwhile.first
	}
	p99 := func(r *result) float64 { return float64(r.quantile(99).Microseconds()) / 1000 }
	ratio := p99(meanwhile) / p99(before)
	b.report.info(what+", before", before.perSecond(), "/s")
	b.report.info(what+", while everything is sealed anew", meanwhile.perSecond(), "/s")
	b.report.info(what+", p99 before", p99(before), "ms")
	b.report.info(what+", p99 meanwhile", p99(meanwhile), "ms")
	b.report.add(what+", p99 meanwhile ÷ before", ratio, "", fmt.Sprintf("≤ %.1f", mostDisturbed), ratio <= mostDisturbed)
	b.report.info(what+": sealed anew in", walked.Seconds(), "s")
	b.report.info(what+": progress seen, different figures", float64(len(seen)), "")
	return b.settled(ctx, t, j)
}

// settled checks that nothing was left out.
func (b *resealSuite) settled(ctx context.Context, t *target, j *resealJob) error {
	var root struct {
		Data struct {
			Generation int      `json:"generation"`
			Earlier    []uint32 `json:"earlier"`
			Stale      int64    `json:"stale"`
		} `json:"data"`
	}
	if err := t.call(ctx, http.MethodGet, "/root", nil, &root); err != nil {
		return err
	}
	good := j.State == "done" && j.Failed == 0 && j.Done == j.Total && len(root.Data.Earlier) == 0 && root.Data.Stale == 0
	if !good {
		return fmt.Errorf("the job ended as %+v, the root as %+v", j, root.Data)
	}
	b.report.add("everything is under the newest root, and the earlier one is erased", float64(root.Data.Generation), "", "generation", good)
	return nil
}

// rotate replaces the root by one that a passphrase opens; from the second on that stays the slot's. It gives the job's id.
func (b *resealSuite) rotate(ctx context.Context, t *target) (string, error) {
	var slots struct {
		Data struct {
			Items []struct {
				ID   string `json:"id"`
				Kind string `json:"kind"`
			} `json:"items"`
		} `json:"data"`
	}
	if err := t.call(ctx, http.MethodGet, "/root/slots", nil, &slots); err != nil {
		return "", err
	}
	// The key file that opened the first root is the slot's again, so that the service opens the new one at the next start.
	key, err := os.ReadFile(filepath.Join(b.data, "root.key"))
	if err != nil {
		return "", err
	}
	_, secret, _ := strings.Cut(strings.TrimSpace(string(key)), ":v1:")
	var done struct {
		Data struct {
			Job struct {
				ID string `json:"id"`
			} `json:"job"`
		} `json:"data"`
	}
	begin := time.Now()
	err = t.call(ctx, http.MethodPost, "/root/rotate", map[string]any{"slots": []any{map[string]any{
		"replaces": slots.Data.Items[0].ID, "kind": "key-file", "key_file": secret}}}, &done)
	if b.rotations++; b.rotations == 1 {
		b.report.info("replacing the root", time.Since(begin).Seconds()*1000, "ms")
	}
	if err == nil && done.Data.Job.ID == "" {
		err = errors.New("the rotation gave no job")
	}
	return done.Data.Job.ID, err
}

type resealJob struct {
	State  string `json:"state"`
	Done   int64  `json:"done"`
	Failed int64  `json:"failed"`
	Total  int64  `json:"total"`
}

func (b *resealSuite) job(ctx context.Context, t *target, id string) (*resealJob, error) {
	var j struct {
		Data resealJob `json:"data"`
	}
	err := t.call(ctx, http.MethodGet, "/jobs/"+id, nil, &j)
	return &j.Data, err
}

// until follows the job until enough is true of it, or it has ended.
func (b *resealSuite) until(ctx context.Context, t *target, id string, enough func(*resealJob) bool) (*resealJob, error) {
	for {
		j, err := b.job(ctx, t, id)
		if err != nil {
			return nil, err
		}
		if enough(j) || j.State == "done" || j.State == "failed" || j.State == "cancelled" {
			return j, nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
