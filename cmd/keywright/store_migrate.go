package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
)

type storeCmd struct {
	Migrate storeMigrateCmd `cmd:"" help:"Copy a store into an empty one of either kind, while no service runs."`
}

type storeMigrateCmd struct {
	From             string `required:"" placeholder:"URI" help:"The store that is: sqlite:/PATH or postgres://ROLE@HOST/DATABASE. It is not changed."`
	FromPasswordFile string `placeholder:"FILE" type:"path" help:"File with the password of its database role."`
	FromSchema       string `placeholder:"NAME" help:"Its schema in the database (default public)."`
	To               string `required:"" placeholder:"URI" help:"The store that is to be. It must be empty."`
	ToPasswordFile   string `placeholder:"FILE" type:"path" help:"File with the password of its database role."`
	ToSchema         string `placeholder:"NAME" help:"Its schema in the database (default public)."`
}

func (k storeMigrateCmd) Help() string {
	return "The way from SQLite to PostgreSQL, and back. Stop the service first: the store is locked meanwhile, and refused while one runs on it. Counts and the audit log are verified before anything of the new store can be seen. Then start the service on the new store, and never again on the old one."
}

// openSource opens a store for a copy of it, and keeps services out.
func openSource(ctx context.Context, c storeConfig) (backup.Snapshot, error) {
	if postgres.IsURI(c.URL) {
		return postgres.OpenSource(ctx, c.URL, postgres.Options{PasswordFile: c.PasswordFile, Schema: c.Schema})
	}
	path, err := sqlite.ParseURI(c.URL)
	if err != nil {
		return nil, err
	}
	return sqlite.OpenSource(ctx, path)
}

// migrated is the JSON output.
type migrated struct {
	Tables  int    `json:"tables"`
	Rows    int64  `json:"rows"`
	Entries uint64 `json:"entries"`
	Root    string `json:"root_hash"`
}

func (k storeMigrateCmd) Run(ctx context.Context, a *app) (err error) {
	from := storeConfig{URL: k.From, PasswordFile: k.FromPasswordFile, Schema: k.FromSchema}
	to := storeConfig{URL: k.To, PasswordFile: k.ToPasswordFile, Schema: k.ToSchema}
	for _, c := range []*storeConfig{&from, &to} {
		if err := c.complete(""); err != nil {
			return usage("%w", err)
		}
	}
	snap, err := openSource(ctx, from)
	if err != nil {
		return refusedBackup(fmt.Errorf("opening the store that is: %w", err))
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	sum, err := k.copy(ctx, a, snap, to)
	if err != nil {
		return refusedBackup(err)
	}
	return a.show(migrated{sum.Tables, sum.Rows, sum.Entries, hex.EncodeToString(sum.Root[:])}, func() error {
		return a.printf("%d rows in %d tables are in the new store, %d entries of the audit log among them\n", sum.Rows, sum.Tables, sum.Entries)
	})
}

func (k storeMigrateCmd) copy(ctx context.Context, a *app, snap backup.Snapshot, to storeConfig) (sum backup.Summary, err error) {
	counts, total := map[string]int64{}, int64(0)
	for _, t := range snap.Tables() {
		n, err := snap.Count(ctx, t)
		if err != nil {
			return sum, err
		}
		counts[t.Name] = n
		total += n
	}
	l, err := beginStore(ctx, to, snap.Schema())
	if err != nil {
		return sum, fmt.Errorf("beginning the new store: %w", err)
	}
	defer func() { err = errors.Join(err, l.close()) }()
	bar := a.progress(total, "copying rows", false)
	sum, err = backup.Copy(ctx, snap, l, func(rows int64) { _ = bar.Set64(rows) }) // a bar that cannot be drawn is no reason to stop
	if err = errors.Join(err, bar.Finish()); err != nil {
		return sum, err
	}
	return sum, l.settle(ctx, sum, backup.ActionMigrate, fmt.Sprintf("%d rows, %d entries", sum.Rows, sum.Entries), func(s store) error {
		return compareCounts(ctx, s, snap.Tables(), counts)
	})
}

// compareCounts counts what has arrived.
func compareCounts(ctx context.Context, s store, tables []backup.Table, want map[string]int64) (err error) {
	snap, err := s.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	for _, t := range tables {
		n, err := snap.Count(ctx, t)
		if err != nil {
			return err
		}
		if n != want[t.Name] {
			return fmt.Errorf("%w: table %s has %d rows of %d", backup.ErrInconsistent, t.Name, n, want[t.Name])
		}
	}
	return nil
}
