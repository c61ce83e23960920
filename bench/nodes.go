package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// fleet are services on one database, on this machine.
type fleet struct {
	settings
	report *report
	dir    string
	db     *database
	nodes  []*process
}

// benchNodes measures several nodes on one PostgreSQL: how much they do together, how soon a revoked API key is refused by all, and what is
// lost when nodes or the database are killed under load.
func benchNodes(ctx context.Context, s settings, r *report) (err error) {
	dir, err := os.MkdirTemp("", "kwbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	f := &fleet{settings: s, report: r, dir: dir}
	if f.db, err = startDatabase(ctx, s, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.db.stop(context.WithoutCancel(ctx), "fast")) }()
	defer func() {
		for _, p := range f.nodes {
			stopQuietly(p)
		}
	}()
	if err := f.grow(ctx, 1); err != nil {
		return err
	}
	if err := keywrightTarget(f.nodes[0]).createKey(ctx, "bench-aes", "AES-256-GCM"); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"rate", f.rate}, {"revoke", f.revoke}, {"kill", f.kill}, {"database", f.database}} {
		if s.nodePart != "" && s.nodePart != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// grow starts nodes until there are n. They share the first one's root and owner's key.
func (f *fleet) grow(ctx context.Context, n int) error {
	for i := len(f.nodes); i < n; i++ {
		data := filepath.Join(f.dir, fmt.Sprint("node", i))
		if err := os.Mkdir(data, 0o700); err != nil {
			return err
		}
		if i > 0 {
			for _, name := range []string{"root.key", "owner.key"} {
				b, err := os.ReadFile(filepath.Join(f.dir, "node0", name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(data, name), b, 0o600); err != nil { //nolint:gosec // under our own folder
					return err
				}
			}
		}
		p, err := f.startNode(ctx, i)
		if err != nil {
			return err
		}
		f.nodes = append(f.nodes, p)
	}
	return nil
}

func (f *fleet) startNode(ctx context.Context, i int) (*process, error) {
	return startService(ctx, f.binary, filepath.Join(f.dir, fmt.Sprint("node", i)), f.db.flags...)
}

// rate measures 1, 2 and 4 nodes with the same number of connections, which are spread over them.
func (f *fleet) rate(ctx context.Context) error {
	b := &suite{settings: f.settings, report: f.report}
	one := map[int]float64{}
	for _, n := range []int{1, 2, 4} {
		if err := f.grow(ctx, n); err != nil {
			return err
		}
		w := keywrightTarget(f.nodes[0]).encrypt("bench-aes")
		urls := make([]string, n)
		for i := range n {
			urls[i] = keywrightTarget(f.nodes[i]).url("bench-aes", "encrypt")
		}
		_, body := w.next(0)
		w.next = func(i uint64) (string, []byte) { return urls[i%uint64(n)], body }
		for _, conns := range []int{16, 64} {
			rs, err := b.inTurns(ctx, conns, w)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("encrypt 32 B, audited, %d conn, %d nodes", conns, n)
			f.report.info(what, rs[0].perSecond(), "/s")
			f.report.info(what+", p99", float64(rs[0].quantile(99).Microseconds())/1000, "ms")
			if one[conns] == 0 {
				one[conns] = rs[0].perSecond()
			} else {
				f.report.info(what+" ÷ 1 node", rs[0].perSecond()/one[conns], "")
			}
		}
	}
	return nil
}

// revoke makes API keys that all nodes have in their caches, revokes each on one node, and sees when the others refuse it.
func (f *fleet) revoke(ctx context.Context) error {
	const n = 4
	if err := f.grow(ctx, n); err != nil {
		return err
	}
	targets := make([]*target, n)
	for i := range n {
		targets[i] = keywrightTarget(f.nodes[i])
	}
	var slowest time.Duration
	for try := range f.tries {
		var made struct {
			Data struct{ ID, Key string }
		}
		err := targets[try%n].call(ctx, http.MethodPost, "/api-keys", map[string]any{"name": fmt.Sprint("try-", try), "scopes": []string{"encryption:write"}}, &made)
		if err != nil {
			return err
		}
		var using sync.WaitGroup
		refused := make([]time.Time, n)
		errs := make([]error, n)
		inUse := make(chan struct{}, n)
		for i := range n {
			with := *targets[i]
			with.header = with.header.Clone()
			with.header.Set("Authorization", "Bearer "+made.Data.Key)
			using.Go(func() { refused[i], errs[i] = useUntilRefused(ctx, &with, inUse) })
		}
		for range n {
			select {
			case <-inUse:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		time.Sleep(time.Duration(try%10) * 17 * time.Millisecond) // at different moments between two looks for news
		if err := targets[(try+1)%n].call(ctx, http.MethodDelete, "/api-keys/"+made.Data.ID, nil, nil); err != nil {
			return err
		}
		revoked := time.Now()
		using.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, at := range refused {
			slowest = max(slowest, at.Sub(revoked))
		}
	}
	f.report.add(fmt.Sprintf("API key revoked on one of 4 nodes, refused on all, slowest of %d", f.tries), slowest.Seconds()*1000, "ms", "≤ 1000 ms", slowest <= time.Second)
	return nil
}

// useUntilRefused calls until the credential is refused, and says when that was. It tells inUse of its first success.
func useUntilRefused(ctx context.Context, t *target, inUse chan<- struct{}) (time.Time, error) {
	w := t.encrypt("bench-aes")
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for first, begun := true, time.Now(); time.Since(begun) < 20*time.Second; first = false {
		status, _, err := post(ctx, client, w)
		switch {
		case err != nil:
			return time.Time{}, err
		case status == http.StatusUnauthorized && !first:
			return time.Now(), nil
		case status != http.StatusOK:
			return time.Time{}, fmt.Errorf("status %d", status)
		case first:
			inUse <- struct{}{}
		}
	}
	return time.Time{}, errors.New("a revoked API key is accepted for 20 s")
}
