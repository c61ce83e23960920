package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
)

// benchLog measures proofs over a long audit log, its export and the verification of that. The log is filled by its own way in, past the service.
func benchLog(ctx context.Context, s settings, r *report) (err error) {
	dir := s.logData
	if dir == "" {
		if dir, err = os.MkdirTemp("", "kwbench"); err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	}
	if s.logPostgres {
		db, err := startDatabase(ctx, s, dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.stop(context.WithoutCancel(ctx), "fast")) }()
		return longLog(ctx, s, r, "PostgreSQL", filepath.Join(dir, "postgres"), db.flags, func(context.Context) (fillable, error) {
			return postgres.Open(ctx, db.flags[1], postgres.Options{PasswordFile: db.flags[3]})
		})
	}
	data := filepath.Join(dir, "sqlite")
	return longLog(ctx, s, r, "SQLite", data, nil, func(context.Context) (fillable, error) {
		return sqlite.OpenURI(ctx, "sqlite:"+filepath.Join(data, "keywright.db"), sqlite.Options{})
	})
}

func longLog(ctx context.Context, s settings, r *report, name, data string, more []string, open func(context.Context) (fillable, error)) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	p, err := startService(ctx, s.binary, data, more...) // makes the tenant
	if err != nil {
		return err
	}
	tenant, err := keywrightTarget(p).tenant(ctx)
	if err := errors.Join(err, p.stop()); err != nil {
		return err
	}
	store, err := open(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(inLibrary(ctx, s, r, name, store, tenant), store.Close()); err != nil {
		return err
	}
	return overREST(ctx, s, r, name, data, more)
}

// inLibrary fills the log and proves in it without the service.
func inLibrary(ctx context.Context, s settings, r *report, name string, store fillable, tenant uuid.UUID) (err error) {
	log, err := audit.Open(ctx, store, audit.Options{Origin: "keywright/" + store.Deployment().String(), Queue: 1 << 16, MaxBatch: 4096})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close(context.WithoutCancel(ctx))) }()
	begun, before := time.Now(), log.Size()
	if err := lengthen(ctx, log, tenant, s.logEntries); err != nil {
		return fmt.Errorf("filling the log: %w", err)
	}
	if n := log.Size() - before; n > 0 {
		r.info(name+": entries recorded, in transactions of up to 4096", float64(n)/time.Since(begun).Seconds(), "/s")
	}
	size := log.Size()
	err = r.inTurn(ctx, fmt.Sprintf("%s, %d entries: consistency proof, library", name, size), func(ctx context.Context) (func() error, error) {
		from, to := picked(size)
		p, err := log.ConsistencyProof(ctx, from, to)
		return func() error { return grows(ctx, log, from, to, p) }, err
	})
	if err != nil {
		return err
	}
	return r.inTurn(ctx, fmt.Sprintf("%s, %d entries: inclusion proof in a tree of any size, library", name, size), func(ctx context.Context) (func() error, error) {
		index, tree := picked(size)
		index = min(index, tree) - 1
		p, err := log.InclusionProof(ctx, index, tree)
		return func() error { return contains(ctx, log, index, tree, p) }, err
	})
}

// inTurn measures ten thousand calls of one, each checked outside of what is measured. Beside the time that passes it takes the processor time of this
// thread: what a busy machine does not change.
func (r *report) inTurn(ctx context.Context, what string, one func(context.Context) (check func() error, err error)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	alone := context.WithoutCancel(ctx) // with one that can end, SQLite's driver does its work on threads of its own
	h, used := newNanos(), newNanos()
	for range 10_000 {
		begun, before := time.Now(), threadTime()
		check, err := one(alone)
		took, cost := time.Since(begun), threadTime()-before
		if err := errors.Join(err, h.RecordValue(took.Nanoseconds()), used.RecordValue(max(cost.Nanoseconds(), 1)), ctx.Err()); err != nil {
			return err
		}
		if err := check(); err != nil {
			return err
		}
	}
	r.proofs(what, h)
	r.info(what+", processor time, p50", float64(used.ValueAtQuantile(50))/1e6, "ms")
	r.info(what+", processor time, worst", float64(used.Max())/1e6, "ms")
	return nil
}

// threadTime is the processor time of this thread so far; getrusage(2) knows it only as of the last tick.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0 // cannot be, for this thread
	}
	return time.Duration(t.Nano())
}

func newNanos() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(time.Minute), 3) }

// proofs adds the three figures of a histogram of nanoseconds.
func (r *report) proofs(what string, h *hdrhistogram.Histogram) {
	r.info(what+", p50", float64(h.ValueAtQuantile(50))/1e6, "ms")
	r.info(what+", p99", float64(h.ValueAtQuantile(99))/1e6, "ms")
	worst := float64(h.Max()) / 1e6
	r.add(fmt.Sprintf("%s, worst of %d", what, h.TotalCount()), worst, "ms", "≤ 20", worst <= 20)
}

// picked gives two sizes of the tree, the first not larger, neither 0: any two, neighbours, the first entry and any, any and the whole, and what lies
// about a power of two, where the paths differ most.
func picked(size uint64) (from, to uint64) {
	any := func() uint64 { return 1 + rand.Uint64N(size) } //nolint:gosec // picks what to measure
	switch rand.N(5) {                                     //nolint:gosec // the same
	case 0:
		from, to = any(), any()
	case 1:
		from = any()
		to = min(from+1, size)
	case 2:
		from, to = 1, any()
	case 3:
		from, to = any(), size
	default:
		from, to = uint64(1)<<rand.N(24)-1+rand.Uint64N(3), any() //nolint:gosec // the same
	}
	from = min(max(from, 1), size)
	return min(from, to), max(from, to)
}

// lengthen records until the log has so many entries.
func lengthen(ctx context.Context, log *audit.Log, tenant uuid.UUID, size uint64) error {
	var left atomic.Int64
	left.Store(int64(size) - int64(log.Size()))
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	for range 8192 {
		wg.Go(func() {
			key, who := uuid.New(), "api-key:"+uuid.NewString()
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				e := audit.Entry{Tenant: tenant, Principal: who, Action: "encrypt", Key: key, KeyVersion: 3, Outcome: "ok", Latency: 137 * time.Microsecond,
					RequestID: uuid.NewString()}
				if _, err := log.Record(ctx, &e); err != nil {
					once.Do(func() { failed = err })
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failed, ctx.Err())
}

// grows checks a consistency proof under roots that are computed from the stored hashes.
func grows(ctx context.Context, log *audit.Log, from, to uint64, p [][32]byte) error {
	old, err := log.Root(ctx, from)
	if err != nil {
		return err
	}
	now, err := log.Root(ctx, to)
	if err != nil {
		return err
	}
	path := make(tlog.TreeProof, len(p))
	for i := range p {
		path[i] = p[i]
	}
	if from == to {
		return nil
	}
	return tlog.CheckTree(path, int64(to), now, int64(from), old)
}

// contains does the same for an inclusion proof.
func contains(ctx context.Context, log *audit.Log, index, size uint64, p [][32]byte) error {
	root, err := log.Root(ctx, size)
	if err != nil {
		return err
	}
	found, err := log.Get(ctx, index)
	if err != nil {
		return err
	}
	path := make(tlog.RecordProof, len(p))
	for i := range p {
		path[i] = p[i]
	}
	return tlog.CheckRecord(path, int64(size), root, int64(index), audit.LeafHash(found.Leaf))
}

// overREST asks a service for the same, one request after the other, and has it export everything.
func overREST(ctx context.Context, s settings, r *report, name, data string, more []string) error {
	p, err := startService(ctx, s.binary, data, more...)
	if err != nil {
		return err
	}
	defer stopQuietly(p)
	r.info(fmt.Sprintf("%s: start to first answer with %d entries", name, s.logEntries), p.started.Seconds(), "s")
	t := keywrightTarget(p)
	key := "bench-" + uuid.NewString()
	if err := t.createKey(ctx, key, "AES-256-GCM"); err != nil { // an entry: so that a checkpoint is signed now
		return err
	}
	var kept struct {
		Data struct {
			Checkpoint  string `json:"checkpoint"`
			Size        uint64 `json:"size"`
			VerifierKey string `json:"verifier_key"`
		} `json:"data"`
	}
	if err := t.call(ctx, http.MethodGet, "/audit/checkpoint", nil, &kept); err != nil {
		return err
	}
	size := kept.Data.Size
	for _, w := range []work{
		{name: "consistency proof", next: func(uint64) (string, []byte) {
			from, to := picked(size)
			return t.base + "/audit/consistency?from=" + strconv.FormatUint(from, 10) + "&to=" + strconv.FormatUint(to, 10), nil
		}, check: hasField("hashes")},
		{name: "inclusion proof in a tree of any size", next: func(uint64) (string, []byte) {
			index, tree := picked(size)
			index = min(index, s.logEntries-100) + 99 // not of those before: they are of no tenant
			return t.base + "/audit/entries/" + strconv.FormatUint(index, 10) + "/proof?size=" + strconv.FormatUint(max(index+1, tree), 10), nil
		}, check: hasField("leaf")},
		{name: "inclusion proof", next: func(uint64) (string, []byte) {
			return t.base + "/audit/entries/" + strconv.FormatUint(rand.Uint64N(s.logEntries-100)+100, 10) + "/proof", nil //nolint:gosec // picks what to measure
		}, check: includes(kept.Data.VerifierKey)},
	} {
		w.method, w.status, w.header, w.items = http.MethodGet, http.StatusOK, t.header, 1
		run(ctx, 1, limits{duration: time.Second}, w)
		got := run(ctx, 1, limits{duration: 10 * time.Minute, count: 10_000}, w)
		if got.failed > 0 || got.ok == 0 {
			return fmt.Errorf("%s on %s: %d failed: %w", w.name, name, got.failed, got.first)
		}
		nanos := newNanos()
		for _, b := range got.hist.Distribution() {
			if err := nanos.RecordValues(b.To*1000, b.Count); err != nil {
				return err
			}
		}
		r.proofs(fmt.Sprintf("%s, %d entries: %s, REST", name, size, w.name), nanos)
	}
	if err := t.fresh(ctx, r, name, key); err != nil {
		return err
	}
	return exportAndVerify(ctx, s, r, name, data, t, kept.Data.Checkpoint, kept.Data.VerifierKey)
}

// includes checks an inclusion proof as whoever gets it does.
func includes(key string) func([]byte) error {
	return func(b []byte) error {
		var v struct {
			Data struct {
				Index      int64    `json:"index"`
				Leaf       []byte   `json:"leaf"`
				Hashes     [][]byte `json:"hashes"`
				Checkpoint string   `json:"checkpoint"`
			} `json:"data"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return err
		}
		head, err := audit.OpenCheckpoint([]byte(v.Data.Checkpoint), key)
		if err != nil {
			return err
		}
		var path tlog.RecordProof
		for _, h := range v.Data.Hashes {
			path = append(path, tlog.Hash(h))
		}
		return tlog.CheckRecord(path, int64(head.Size), head.Root, v.Data.Index, audit.LeafHash(v.Data.Leaf))
	}
}

// fresh measures the proof of an entry that no checkpoint covers yet: one is signed for it, by both keys, and kept.
func (t *target) fresh(ctx context.Context, r *report, name, key string) error {
	h := newNanos()
	for range 200 {
		resp, err := t.send(ctx, http.MethodPost, "/keys/"+key+"/encrypt", `{"plaintext":"`+plaintext32+`"}`)
		if err != nil {
			return err
		}
		begun := time.Now()
		if err := t.call(ctx, http.MethodGet, "/audit/entries/"+resp.Get("X-Audit-Index")+"/proof", nil, nil); err != nil {
			return err
		}
		if err := h.RecordValue(time.Since(begun).Nanoseconds()); err != nil {
			return err
		}
	}
	r.info(name+": inclusion proof of the entry just made, with a checkpoint signed for it, REST, p50", float64(h.ValueAtQuantile(50))/1e6, "ms")
	r.info(name+": the same, worst of 200", float64(h.Max())/1e6, "ms")
	return nil
}

// send sends one request and gives the headers of the answer.
func (t *target) send(ctx context.Context, method, path, body string) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.base+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header = t.header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)
	}
	return resp.Header, nil
}

// exportAndVerify exports the whole log to a file over REST and verifies it with the command line, as an auditor does.
func exportAndVerify(ctx context.Context, s settings, r *report, name, data string, t *target, checkpoint, key string) error {
	path, kept := filepath.Join(data, "export.txt"), filepath.Join(data, "kept.txt")
	defer os.Remove(path) //nolint:errcheck // some gigabytes; the folder goes too
	if err := os.WriteFile(kept, []byte(checkpoint), 0o600); err != nil {
		return err
	}
	n := float64(s.logEntries)
	begun := time.Now()
	bytes, err := t.download(ctx, "/audit/export", path)
	if err != nil {
		return err
	}
	took := time.Since(begun).Seconds()
	r.info(name+": export of the whole log over REST, to a file", n/took, "entries/s")
	r.info(name+": its size", float64(bytes)/1e6, "MB")
	begun = time.Now()
	cmd := exec.CommandContext(ctx, s.binary, "audit", "verify", "--checkpoint", kept, "--verifier-key", key, path) //nolint:gosec // the program to be measured
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("verifying the export: %w: %.500s", err, out)
	}
	took = time.Since(begun).Seconds()
	r.add(name+": verification of the whole export, command line", n/took, "entries/s", "≥ 300000", n/took >= 300_000)
	used := cmd.ProcessState.SystemTime() + cmd.ProcessState.UserTime()
	r.info(name+": entries for each second of processor time of that", n/used.Seconds(), "")
	return nil
}

// download writes an answer to a file.
func (t *target) download(ctx context.Context, path, to string) (n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.base+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header = t.header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: status %d", path, resp.StatusCode)
	}
	f, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(f, resp.Body)
	return n, errors.Join(err, f.Close())
}
