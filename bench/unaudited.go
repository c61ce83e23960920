package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// benchAudit measures what the audit log costs, fsync and all: the service beside a program that is the same but records no operation on a key. There is
// no such service to be had by configuration; see bench/unaudited.
func benchAudit(ctx context.Context, s settings, r *report) (err error) {
	dir, err := os.MkdirTemp("", "kwbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	b := &suite{settings: s, report: r}
	var sides [2]*side
	for i, binary := range []string{s.binary, s.off} {
		data := filepath.Join(dir, filepath.Base(binary))
		if err := os.Mkdir(data, 0o700); err != nil {
			return err
		}
		p, err := startService(ctx, binary, data)
		if err != nil {
			return err
		}
		defer stopQuietly(p)
		sides[i] = &side{p: p, t: keywrightTarget(p)}
		if err := sides[i].t.createKey(ctx, "bench-aes", "AES-256-GCM"); err != nil {
			return err
		}
	}
	on, off := sides[0], sides[1]
	for _, conns := range []int{1, 16, 64} {
		for _, x := range sides {
			if x.entries, err = x.t.logSize(ctx); err != nil {
				return err
			}
		}
		rs, err := b.inTurns(ctx, conns, on.t.encrypt("bench-aes"), off.t.encrypt("bench-aes"))
		if err != nil {
			return err
		}
		if err := errors.Join(on.recorded(ctx, rs[0].ok), off.recordedNothing(ctx)); err != nil {
			return err
		}
		ratio := rs[0].perSecond() / rs[1].perSecond()
		what := fmt.Sprintf("encrypt 32 B, %d conn", conns)
		r.info(what+", audited", rs[0].perSecond(), "/s")
		r.info(what+", not audited", rs[1].perSecond(), "/s")
		if conns == 64 {
			r.add(what+", audited ÷ not", ratio, "", "≥ 0.60", ratio >= 0.6)
		} else {
			r.info(what+", audited ÷ not", ratio, "")
		}
		r.info(what+", audited, p99", float64(rs[0].quantile(99).Microseconds())/1000, "ms")
		r.info(what+", not audited, p99", float64(rs[1].quantile(99).Microseconds())/1000, "ms")
		if err := costs(ctx, r, what, conns, limits{duration: b.duration}, on, off); err != nil {
			return err
		}
	}
	return nil
}

// side is one of the two services.
type side struct {
	p       *process
	t       *target
	entries uint64
}

// costs says how much processor time one operation takes on either side: what a busy machine does not change. Where the processor is what there is not
// enough of, as with many connections on two cores, the quotient of the sums is that of the rates on a machine that does nothing else.
func costs(ctx context.Context, r *report, what string, conns int, lim limits, audited, not *side) error {
	var all [2]float64
	for i, x := range [...]*side{audited, not} {
		before, err := processorTime(x.p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		own := ownTime()
		got := run(ctx, conns, lim, x.t.encrypt("bench-aes"))
		after, err := processorTime(x.p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if got.failed > 0 || got.ok == 0 {
			return fmt.Errorf("%d failed: %w", got.failed, got.first)
		}
		service := (after - before) / float64(got.ok) * 1e6
		all[i] = service + (ownTime()-own).Seconds()/float64(got.ok)*1e6
		r.info(fmt.Sprintf("%s, %s, processor time of the service", what, [...]string{"audited", "not audited"}[i]), service, "µs")
	}
	r.info(what+", processor time of service and load generator: not audited ÷ audited", all[1]/all[0], "")
	return nil
}

// ownTime is the processor time of this program so far.
func ownTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot be, for this program
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// logSize gives how many entries the log has.
func (t *target) logSize(ctx context.Context) (uint64, error) {
	var v struct {
		Data struct {
			Size uint64 `json:"size"`
		} `json:"data"`
	}
	err := t.call(ctx, http.MethodGet, "/audit/checkpoint", nil, &v)
	return v.Data.Size, err
}

// recorded shows that the log has grown by what was done, at least: the rounds whose figures were not taken, and warming up, are in it too.
func (x *side) recorded(ctx context.Context, done int64) error {
	now, err := x.t.logSize(ctx)
	if err == nil && now-x.entries < uint64(done) {
		err = fmt.Errorf("%d entries for %d operations: the audited service has not recorded all", now-x.entries, done)
	}
	return err
}

// recordedNothing shows that the other side is what it is taken for.
func (x *side) recordedNothing(ctx context.Context) error {
	const signatures = 64 // the checkpoints' own
	now, err := x.t.logSize(ctx)
	if err == nil && now-x.entries > signatures {
		err = errors.New("the program that is not to record operations has recorded some")
	}
	return err
}
