package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"time"

	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
)

type hsmReconcileCmd struct {
	hsmToken
	Data  string `placeholder:"DIR" help:"The service's folder; its store is DIR/keywright.db. The service may run." type:"path" xor:"store" required:""`
	Store string `placeholder:"URI" help:"The store, as in sqlite:/PATH or postgres://ROLE@HOST/DATABASE." xor:"store" required:""`
	// The rest is for PostgreSQL.
	StorePassword string `name:"store-password-file" placeholder:"FILE" help:"File with the password of the store's database role." type:"path"`
	StoreSchema   string `placeholder:"NAME" help:"The store's schema (default public)."`
}

// settleTime is longer than a key is half made or half destroyed on a healthy token.
const settleTime = 2 * time.Second

func (k hsmReconcileCmd) Run(ctx context.Context, a *app) (err error) {
	records, err := k.records()
	if err != nil {
		return usage("%w", err)
	}
	t, _, err := k.open(ctx, a, func(c *token.Config, o *remote.Options) {
		c.AcceptLeaks = true // it looks only
		o.Processes = 1
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	compare := func() (*hsm.Reconciliation, error) {
		objects, err := t.List(ctx)
		if err != nil {
			return nil, deviceError(err)
		}
		d := t.Describe()
		return hsm.Reconcile(objects, []string{d.Serial, d.Label}, func(yield func(hsm.Record) error) error { return records(ctx, yield) })
	}
	r, err := compare()
	if err == nil && !r.Clean() {
		// The service may have been at work between the two lists: what counts is what is still so after a while.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settleTime):
		}
		var again *hsm.Reconciliation
		if again, err = compare(); err == nil {
			r = again.Confirm(r)
		}
	}
	if err != nil {
		return err
	}
	if err := a.show(r, func() error { return printReconciliation(a, r) }); err != nil {
		return err
	}
	if !r.Clean() {
		return &exitError{exitInvalid, "token and store differ; nothing was changed"}
	}
	return nil
}

// records gives what reads the store.
func (k hsmReconcileCmd) records() (func(ctx context.Context, yield func(hsm.Record) error) error, error) {
	if postgres.IsURI(k.Store) {
		o := postgres.Options{PasswordFile: k.StorePassword, Schema: k.StoreSchema}
		return func(ctx context.Context, yield func(hsm.Record) error) error {
			return postgres.VersionRecords(ctx, k.Store, o, func(v postgres.VersionRecord) error {
				return yield(hsm.Record{Key: v.Key, Version: v.Version, State: v.State, Material: v.Material})
			})
		}, nil
	}
	if k.StorePassword != "" || k.StoreSchema != "" {
		return nil, errors.New("only a PostgreSQL store has a password and a schema")
	}
	path := filepath.Join(k.Data, "keywright.db")
	if k.Store != "" {
		var err error
		if path, err = sqlite.ParseURI(k.Store); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, yield func(hsm.Record) error) error {
		return sqlite.VersionRecords(ctx, path, func(v sqlite.VersionRecord) error {
			return yield(hsm.Record{Key: v.Key, Version: v.Version, State: v.State, Material: v.Material})
		})
	}, nil
}

func printReconciliation(a *app, r *hsm.Reconciliation) error {
	if err := a.printf("%d keys on the token, %d records that are resident on it\n", r.Objects, r.Records); err != nil {
		return err
	}
	type line struct {
		what string
		hsm.Finding
	}
	var lines []line
	for _, part := range []struct {
		what string
		list []hsm.Finding
	}{{"object without record", r.Orphans}, {"record without object", r.Missing}, {"being created", r.Creating}} {
		for _, f := range part.list {
			lines = append(lines, line{part.what, f})
		}
	}
	if len(lines) == 0 {
		return nil
	}
	rows := func(yield func(line, error) bool) {
		for _, l := range lines {
			if !yield(l, nil) {
				return
			}
		}
	}
	return list(a, rows, []string{"FINDING", "KEY", "VERSION", "STATE", "WHAT"}, func(l line) []string {
		return []string{l.what, l.Key.String(), strconv.FormatUint(uint64(l.Version), 10), printable(l.State), printable(l.What)}
	})
}
