package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// post sends one request of the work, and gives the status and the request's id.
func post(ctx context.Context, client *http.Client, w work) (status int, id string, err error) {
	url, body := w.next(0)
	req, err := http.NewRequestWithContext(ctx, w.method, url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header = w.header
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, "", err
	}
	return resp.StatusCode, resp.Header.Get("X-Request-ID"), nil
}

// ledger is what was acknowledged under load, and how the rest ended.
type ledger struct {
	mu           sync.Mutex // guards acknowledged and first
	acknowledged map[string]bool
	first        string // what a failure said that should not have been

	unavailable atomic.Int64                 // answers 503
	broken      atomic.Int64                 // connections to a node that was killed
	others      atomic.Int64                 // failures that should not have been
	generation  [4]atomic.Int64              // how often each node was killed
	targets     [4]atomic.Pointer[target]    // nil: not there
	success     [4]atomic.Pointer[time.Time] // of the newest success on each
}

func (l *ledger) wrong(format string, args ...any) {
	l.others.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == "" {
		l.first = fmt.Sprintf(format, args...)
	}
}

// load drives all four nodes until stop is closed: two connections each.
func (l *ledger) load(ctx context.Context, stop <-chan struct{}) *sync.WaitGroup {
	var working sync.WaitGroup
	for i := range 8 {
		node := i % 4
		working.Go(func() {
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				generation := l.generation[node].Load()
				t := l.targets[node].Load()
				if t == nil {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				status, id, err := post(ctx, client, t.encrypt("bench-aes"))
				switch {
				case err != nil && l.generation[node].Load() != generation:
					l.broken.Add(1)
				case err != nil:
					l.wrong("node %d: %v", node, err)
				case status == http.StatusOK:
					now := time.Now()
					l.success[node].Store(&now)
					l.mu.Lock()
					l.acknowledged[id] = true
					l.mu.Unlock()
				case status == http.StatusServiceUnavailable:
					l.unavailable.Add(1)
					time.Sleep(5 * time.Millisecond)
				default:
					l.wrong("node %d: status %d", node, status)
				}
			}
		})
	}
	return &working
}

// kill kills one of four nodes with -9 each second, under load, and starts it again.
func (f *fleet) kill(ctx context.Context) error {
	if err := f.grow(ctx, 4); err != nil {
		return err
	}
	l := f.newLedger()
	stop := make(chan struct{})
	working := l.load(ctx, stop)
	kills := 0
	var failed error
	for begun, next := time.Now(), time.Now(); time.Since(begun) < f.kills && failed == nil; kills++ {
		next = next.Add(time.Second)
		if !sleepUntil(ctx, next) {
			failed = ctx.Err()
			break
		}
		i := kills % 4
		l.generation[i].Add(1)
		l.targets[i].Store(nil)
		if failed = f.nodes[i].cmd.Process.Kill(); failed != nil {
			break
		}
		_ = f.nodes[i].cmd.Wait() // that it was killed
		if f.nodes[i], failed = f.startNode(ctx, i); failed == nil {
			l.targets[i].Store(keywrightTarget(f.nodes[i]))
		}
	}
	close(stop)
	working.Wait()
	if failed != nil {
		return failed
	}
	what := fmt.Sprintf("four nodes, one killed each second, %d kills", kills)
	f.report.info(what+", acknowledged", float64(len(l.acknowledged)), "")
	f.report.info(what+", connections broken with their node", float64(l.broken.Load()), "")
	wrong := l.others.Load() + l.unavailable.Load()
	f.report.add(what+", errors elsewhere", float64(wrong), "", "0", wrong == 0)
	if l.first != "" {
		fmt.Fprintln(os.Stderr, "first:", l.first)
	}
	return f.account(ctx, what, l)
}

func (f *fleet) newLedger() *ledger {
	l := &ledger{acknowledged: map[string]bool{}}
	for i := range 4 {
		l.targets[i].Store(keywrightTarget(f.nodes[i]))
	}
	return l
}

// database kills the database under load, and sees how soon after it is back every node works.
func (f *fleet) database(ctx context.Context) error {
	if err := f.grow(ctx, 4); err != nil {
		return err
	}
	l := f.newLedger()
	stop := make(chan struct{})
	working := l.load(ctx, stop)
	var slowest time.Duration
	err := func() error {
		for range 3 {
			time.Sleep(time.Second)
			if err := f.db.stop(ctx, "immediate"); err != nil {
				return err
			}
			time.Sleep(time.Second)
			if err := f.db.start(ctx); err != nil {
				return err
			}
			back := time.Now() // the script returns when the server takes connections
			for i := range 4 {
				for at := l.success[i].Load(); at == nil || at.Before(back); at = l.success[i].Load() {
					if time.Since(back) > 30*time.Second || ctx.Err() != nil {
						return fmt.Errorf("node %d does not work 30 s after the database is back", i)
					}
					time.Sleep(time.Millisecond)
				}
				slowest = max(slowest, l.success[i].Load().Sub(back))
			}
		}
		return nil
	}()
	close(stop)
	working.Wait()
	if err != nil {
		return err
	}
	const what = "database killed under load, three times"
	f.report.add(what+", all four nodes work after it is back", slowest.Seconds()*1000, "ms", "≤ 2000 ms", slowest <= 2*time.Second)
	f.report.info(what+", acknowledged", float64(len(l.acknowledged)), "")
	f.report.info(what+", answers 503", float64(l.unavailable.Load()), "")
	f.report.add(what+", other errors", float64(l.others.Load()), "", "0", l.others.Load() == 0)
	if l.first != "" {
		fmt.Fprintln(os.Stderr, "first:", l.first)
	}
	return f.account(ctx, what, l)
}

// account exports the log, verifies it offline, and looks for what was acknowledged: each once.
func (f *fleet) account(ctx context.Context, what string, l *ledger) error {
	p := f.nodes[0]
	file, key := filepath.Join(f.dir, "log"), filepath.Join(f.dir, "vkey")
	for _, args := range [][]string{{"audit", "verifier-key", "--out", key}, {"audit", "export", "--out", file}, {"audit", "verify", file, "--verifier-key-file", key}} {
		for _, old := range args[2:] {
			if args[1] != "verify" && strings.HasPrefix(old, f.dir) {
				if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
		}
		cmd := exec.CommandContext(ctx, f.binary, args...) //nolint:gosec // the program to be measured
		cmd.Env = append(os.Environ(), "KEYWRIGHT_ADDR="+p.address, "KEYWRIGHT_API_KEY="+p.key)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("keywright %s: %w: %s", strings.Join(args[:2], " "), err, out)
		}
	}
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // it was only read
	times := map[string]int{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if !bytes.HasPrefix(lines.Bytes(), []byte("{")) {
			continue
		}
		var e struct {
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		if l.acknowledged[e.RequestID] {
			times[e.RequestID]++
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	doubled := 0
	for _, n := range times {
		if n > 1 {
			doubled++
		}
	}
	lost := len(l.acknowledged) - len(times)
	f.report.add(what+", acknowledged and lost (the log verifies)", float64(lost), "", "0", lost == 0)
	f.report.add(what+", acknowledged and in the log twice", float64(doubled), "", "0", doubled == 0)
	return nil
}
