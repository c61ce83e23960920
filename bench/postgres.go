package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// database is a PostgreSQL server on this machine.
type database struct {
	script, dir string
	flags       []string // of the service, to use it
}

// startDatabase starts a server with its data under dir.
func startDatabase(ctx context.Context, s settings, dir string) (*database, error) {
	script, err := filepath.Abs(filepath.Join(s.parts, "postgres.sh"))
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // the database's user has to get through
		return nil, err
	}
	db := &database{script: script, dir: filepath.Join(dir, "database")}
	return db, db.start(ctx)
}

// start brings the server up, again after stop.
func (db *database) start(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, db.script, db.dir).Output() //nolint:gosec // our own script
	if err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = strings.Trim(value, "'")
	}
	db.flags = []string{"--store", values["PG_URI"], "--store-password-file", values["PG_PASSWORD_FILE"]}
	return nil
}

// stop ends it: mode is fast, or immediate, which is what a power loss leaves.
func (db *database) stop(ctx context.Context, mode string) error {
	return exec.CommandContext(ctx, db.script, db.dir, "stop", mode).Run() //nolint:gosec // our own script
}

// benchPostgres measures the service on PostgreSQL beside the service on its embedded default, in turns. The database is on
// this machine, with its data in the same temporary folder, and both sync what they acknowledge.
func benchPostgres(ctx context.Context, s settings, r *report) (err error) {
	dir, err := os.MkdirTemp("", "kwbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	db, err := startDatabase(ctx, s, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.stop(context.WithoutCancel(ctx), "fast")) }()
	b := &suite{settings: s, report: r}
	var targets []*target
	for _, c := range []struct {
		name string
		more []string
	}{
		{"sqlite", nil},
		{"postgres", db.flags},
	} {
		data := filepath.Join(dir, c.name)
		if err := os.Mkdir(data, 0o700); err != nil {
			return err
		}
		p, err := startService(ctx, s.binary, data, c.more...)
		if err != nil {
			return err
		}
		defer stopQuietly(p)
		t := keywrightTarget(p)
		if err := t.createKey(ctx, "bench-aes", "AES-256-GCM"); err != nil {
			return err
		}
		targets = append(targets, t)
	}
	for _, conns := range []int{1, 16, 64} {
		rs, err := b.inTurns(ctx, conns, targets[0].encrypt("bench-aes"), targets[1].encrypt("bench-aes"))
		if err != nil {
			return err
		}
		what := fmt.Sprintf("encrypt 32 B, audited, %d conn", conns)
		ratio := rs[1].perSecond() / rs[0].perSecond()
		r.info(what+", SQLite", rs[0].perSecond(), "/s")
		r.info(what+", PostgreSQL", rs[1].perSecond(), "/s")
		if conns == 16 {
			r.add(what+", PostgreSQL ÷ SQLite", ratio, "", "≥ 0.60", ratio >= 0.6)
		} else {
			r.info(what+", PostgreSQL ÷ SQLite", ratio, "")
		}
		r.info(what+", p99, SQLite", float64(rs[0].quantile(99).Microseconds())/1000, "ms")
		r.info(what+", p99, PostgreSQL", float64(rs[1].quantile(99).Microseconds())/1000, "ms")
	}
	return nil
}
