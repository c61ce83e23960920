package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
)

// loading is a store that is being filled: nothing of it is seen before commit.
type loading struct {
	backup.Target
	open   func(ctx context.Context) (store, error)
	commit func(ctx context.Context) error
	close  func() error
}

// beginStore begins a new store of a schema.
func beginStore(ctx context.Context, c storeConfig, schema int64) (*loading, error) {
	if postgres.IsURI(c.URL) {
		l, err := postgres.NewLoader(ctx, c.URL, postgres.Options{PasswordFile: c.PasswordFile, Schema: c.Schema}, schema)
		if err != nil {
			return nil, err
		}
		return &loading{l, func(ctx context.Context) (store, error) { return l.Open(ctx) }, l.Commit, l.Close}, nil
	}
	path, err := sqlite.ParseURI(c.URL)
	if err != nil {
		return nil, err
	}
	l, err := sqlite.NewLoader(ctx, path, schema)
	if err != nil {
		return nil, err
	}
	return &loading{l, func(ctx context.Context) (store, error) { return l.Open(ctx) }, l.Commit, l.Close}, nil
}

// settle opens the store that was filled, looks at it once more, writes the first entry of its new life, and gives it its place.
func (l *loading) settle(ctx context.Context, sum backup.Summary, action, detail string, look func(store) error) error {
	s, err := l.open(ctx)
	if err != nil {
		return err
	}
	head, err := s.AuditHead(ctx)
	if err != nil {
		return err
	}
	if head.Size != sum.Entries || head.Root() != sum.Root {
		return fmt.Errorf("%w: the head of the new audit log is not that of the old", backup.ErrInconsistent)
	}
	if look != nil {
		if err := look(s); err != nil {
			return err
		}
	}
	log, err := audit.Open(ctx, s, audit.Options{Origin: "keywright/" + s.Deployment().String(), CheckpointEvery: -1})
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	_, err = log.Record(ctx, &audit.Entry{Tenant: firstTenant(s.Deployment()), Principal: "system", Action: action, Outcome: "ok", Detail: detail})
	if err := errors.Join(err, within(log.Close)); err != nil {
		return fmt.Errorf("recording it in the audit log: %w", err)
	}
	return l.commit(ctx)
}

type restoreCmd struct {
	File           string `arg:"" placeholder:"FILE" help:"The backup; - is standard input."`
	To             string `placeholder:"URI" help:"The new store: sqlite:/PATH or postgres://ROLE@HOST/DATABASE. It must be empty. Else the store of --config."`
	ToPasswordFile string `placeholder:"FILE" type:"path" help:"File with the password of the new store's database role."`
	ToSchema       string `placeholder:"NAME" help:"Schema of the database for the new store (default public)."`
	backupKey
	rootSecret
}

func (k restoreCmd) Help() string {
	return "Fills an empty store of either kind from a backup. Needs what opens the root of the backup. Everything is verified before anything can be seen: after an error the store is as empty as before. Never run two services on copies of one deployment."
}

func (k restoreCmd) target() (c storeConfig, err error) {
	switch {
	case k.To != "":
		c = storeConfig{URL: k.To, PasswordFile: k.ToPasswordFile, Schema: k.ToSchema}
		err = c.complete("")
	case k.Config != "":
		var all config
		if all, err = loadConfig(k.Config); err != nil {
			return c, err
		}
		err = all.complete(false)
		c = all.Store
	default:
		err = errors.New("give --to, or --config with a store")
	}
	if err != nil {
		return c, usage("%w", err)
	}
	return c, nil
}

func (k restoreCmd) Run(ctx context.Context, a *app) error {
	key, err := verifierKey(k.backupKey).get()
	if err != nil {
		return err
	}
	c, err := k.target()
	if err != nil {
		return err
	}
	in, size, err := source{In: k.File}.open(a)
	if err != nil {
		return err
	}
	bar := a.progress(size, "restoring", true)
	f, sum, err := k.restore(ctx, a, io.TeeReader(untilDone{ctx, in}, bar), c, key)
	if err = errors.Join(err, bar.Finish(), in.Close()); err != nil {
		return refusedBackup(err)
	}
	return a.showBackup(k.File, f, sum, true, key)
}

func (k restoreCmd) restore(ctx context.Context, a *app, r io.Reader, c storeConfig, key string) (f *backup.File, sum backup.Summary, err error) {
	if f, err = backup.Open(r); err != nil {
		return nil, sum, err
	}
	secret, err := k.open(ctx, a, &f.Header)
	if err != nil {
		return nil, sum, err
	}
	defer secret.Wipe()
	l, err := beginStore(ctx, c, f.Schema)
	if err != nil {
		return nil, sum, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if sum, err = f.Restore(ctx, secret, key, l); err != nil {
		return nil, sum, err
	}
	detail := fmt.Sprintf("backup of %s, %d entries, sha256 %x", f.CreatedAt.Format(time.RFC3339), sum.Entries, sum.Sum)
	return f, sum, l.settle(ctx, sum, backup.ActionRestore, detail, nil)
}
