package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
)

// benchKeyspace measures what administers keys when there are many: a page of the list, one key, a rotation. Each store is filled with copies of
// one key's record, past the service, as the way in is not what is measured here.
func benchKeyspace(ctx context.Context, s settings, r *report) (err error) {
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
	for _, c := range []struct {
		name string
		more []string
		open func(ctx context.Context, data string) (fillable, error)
	}{
		{"PostgreSQL", db.flags, func(ctx context.Context, _ string) (fillable, error) {
			return postgres.Open(ctx, db.flags[1], postgres.Options{PasswordFile: db.flags[3]})
		}},
		{"SQLite", nil, func(ctx context.Context, data string) (fillable, error) {
			return sqlite.OpenURI(ctx, "sqlite:"+filepath.Join(data, "keywright.db"), sqlite.Options{})
		}},
	} {
		data := filepath.Join(dir, c.name)
		if err := os.Mkdir(data, 0o700); err != nil {
			return err
		}
		tenant, err := makeTemplate(ctx, s, data, c.more)
		if err != nil {
			return err
		}
		begun := time.Now()
		store, err := c.open(ctx, data)
		if err != nil {
			return err
		}
		if err := errors.Join(fill(ctx, store, tenant, s.keys), store.Close()); err != nil {
			return fmt.Errorf("filling %s: %w", c.name, err)
		}
		r.info(fmt.Sprintf("%s: %d key records written", c.name, s.keys), time.Since(begun).Seconds(), "s")
		if err := keyspace(ctx, s, r, c.name, data, c.more); err != nil {
			return err
		}
	}
	return nil
}

// fillable is a store that the benchmark writes into while no service has it open.
type fillable interface {
	audit.Store
	keys.Store
	Deployment() uuid.UUID
	Close() error
}

const templateName = "template"

// makeTemplate has a service make the key whose record is copied, and gives the tenant.
func makeTemplate(ctx context.Context, s settings, data string, more []string) (tenant uuid.UUID, err error) {
	p, err := startService(ctx, s.binary, data, more...)
	if err != nil {
		return tenant, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	t := keywrightTarget(p)
	if err := t.createKey(ctx, templateName, "AES-256-GCM"); err != nil {
		return tenant, err
	}
	return t.tenant(ctx)
}

// tenant gives the caller's.
func (t *target) tenant(ctx context.Context) (uuid.UUID, error) {
	var me struct {
		Data struct {
			Tenant uuid.UUID `json:"tenant"`
		} `json:"data"`
	}
	err := t.call(ctx, http.MethodGet, "/me", nil, &me)
	return me.Data.Tenant, err
}

// fill writes n copies of the template, named in order, in entries of a hundred.
func fill(ctx context.Context, store fillable, tenant uuid.UUID, n uint64) (err error) {
	k, err := store.KeyByName(ctx, tenant, templateName)
	if err != nil {
		return err
	}
	v, err := store.Version(ctx, k.ID, 1)
	if err != nil {
		return err
	}
	log, err := audit.Open(ctx, store, audit.Options{Origin: "keywright/" + store.Deployment().String()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close(context.WithoutCancel(ctx))) }()
	const each = 100
	var next atomic.Uint64
	var wg sync.WaitGroup
	var once sync.Once
	for range 8 {
		wg.Go(func() {
			for {
				from := next.Add(each) - each
				if from >= n || ctx.Err() != nil {
					return
				}
				var changes []audit.Change
				for i := from; i < min(from+each, n); i++ {
					one, version := *k, *v
					one.ID, one.Name = uuid.New(), keyName(i)
					version.KeyID = one.ID
					changes = append(changes, store.InsertKey(&one, &version))
				}
				e := audit.Entry{Tenant: tenant, Principal: "system", Action: "key.create", Outcome: "ok", Items: len(changes)}
				if _, failed := log.Record(ctx, &e, changes...); failed != nil {
					once.Do(func() { err = failed })
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(err, ctx.Err())
}

// keyspace measures the three calls on keys that are picked at random.
func keyspace(ctx context.Context, s settings, r *report, name, data string, more []string) error {
	p, err := startService(ctx, s.binary, data, more...)
	if err != nil {
		return err
	}
	defer stopQuietly(p)
	t := keywrightTarget(p)
	picked := func() string { return keyName(rand.Uint64N(s.keys)) } //nolint:gosec // picks a key to measure
	has := func(b []byte) error {
		if !strings.Contains(string(b), `"id"`) {
			return errors.New("no key in the answer")
		}
		return nil
	}
	for _, w := range []work{
		{name: "page of 100", method: http.MethodGet, status: http.StatusOK, check: has, next: func(uint64) (string, []byte) {
			name := picked()
			return t.base + "/keys?limit=100&name_prefix=" + name[:len(name)-2], nil
		}},
		{name: "show", method: http.MethodGet, status: http.StatusOK, check: has, next: func(uint64) (string, []byte) { return t.base + "/keys/" + picked(), nil }},
		{name: "rotate", method: http.MethodPost, status: http.StatusOK, check: has, next: func(uint64) (string, []byte) { return t.base + "/keys/" + picked() + "/rotate", nil }},
	} {
		w.header, w.items = t.header, 1
		for _, conns := range []int{1, 8} {
			got := run(ctx, conns, limits{duration: s.duration}, w)
			if got.failed > 0 || got.ok == 0 {
				return fmt.Errorf("%s on %s: %d failed: %w", w.name, name, got.failed, got.first)
			}
			p99 := float64(got.quantile(99).Microseconds()) / 1000
			what := fmt.Sprintf("%s: %s, %d keys, %d conn, p99", name, w.name, s.keys, conns)
			if conns == 1 {
				r.add(what, p99, "ms", "≤ 5", p99 <= 5)
			} else {
				r.info(what, p99, "ms")
			}
		}
	}
	mb, err := p.resident()
	r.info(name+": resident memory then", mb, "MB")
	return err
}
