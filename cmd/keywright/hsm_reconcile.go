package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"

	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/store/sqlite"
)

type hsmReconcileCmd struct {
	hsmToken
	Data  string `placeholder:"DIR" help:"The service's folder; its store is DIR/keywright.db. The service may run." type:"path" xor:"store" required:""`
	Store string `placeholder:"URI" help:"The store, as in sqlite:/PATH." xor:"store" required:""`
}

func (k hsmReconcileCmd) Run(ctx context.Context, a *app) (err error) {
	path := filepath.Join(k.Data, "keywright.db")
	if k.Store != "" {
		if path, err = sqlite.ParseURI(k.Store); err != nil {
			return usage("%w", err)
		}
	}
	t, _, err := k.open(ctx, a, func(c *token.Config, o *remote.Options) {
		c.AcceptLeaks = true // it looks only
		o.Processes = 1
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	// The records first: a key that is being made meanwhile then has an object without a record for no longer than its making takes, and
	// one that is being destroyed is missed rather than accused.
	var records []hsm.Record
	err = sqlite.VersionRecords(ctx, path, func(v sqlite.VersionRecord) error {
		records = append(records, hsm.Record{Key: v.Key, Version: v.Version, State: v.State, Material: v.Material})
		return nil
	})
	if err != nil {
		return err
	}
	objects, err := t.List(ctx)
	if err != nil {
		return deviceError(err)
	}
	d := t.Describe()
	r, err := hsm.Reconcile(objects, []string{d.Serial, d.Label}, func(yield func(hsm.Record) error) error {
		for _, v := range records {
			if err := yield(v); err != nil {
				return err
			}
		}
		return nil
	})
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
