package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	auditsink "github.com/keywright/keywright/audit/sink"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
)

// store is what a node keeps everything in.
type store interface {
	audit.Store
	auth.Store
	root.Store
	keys.Store
	idempotency.Store
	jobs.Store
	cluster.Store
	backup.Source
	events.Store
	auditsink.Cursors
	ratelimit.Store
	Deployment() uuid.UUID
	Ping(ctx context.Context) error
	Close() error
}

// complete fills in the default and refuses what cannot be right.
func (s *storeConfig) complete(data string) error {
	if s.URL == "" {
		s.URL = "sqlite:" + filepath.Join(data, "keywright.db")
	}
	if !postgres.IsURI(s.URL) {
		if (*s != storeConfig{URL: s.URL}) {
			return errors.New("only a PostgreSQL store takes password_file, schema, connections and statement_timeout")
		}
		_, err := sqlite.ParseURI(s.URL)
		return err
	}
	if s.Connections != 0 && s.Connections < 2 || s.StatementTimeout < 0 {
		return errors.New("connections are at least 2, and a time is not negative")
	}
	if err := postgres.CheckURI(s.URL, postgres.Options{}); err != nil {
		return err
	}
	if s.PasswordFile == "" {
		return nil
	}
	if err := ownerOnly(s.PasswordFile); err != nil {
		return at("store.password_file", err)
	}
	return nil
}

// openStore opens the store. Any number of nodes may have a PostgreSQL store open, and one a file.
func openStore(ctx context.Context, c storeConfig) (store, error) {
	if postgres.IsURI(c.URL) {
		s, err := postgres.Open(ctx, c.URL, postgres.Options{PasswordFile: c.PasswordFile, Schema: c.Schema,
			Connections: c.Connections, StatementTimeout: c.StatementTimeout})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := sqlite.OpenURI(ctx, c.URL, sqlite.Options{})
	if err != nil {
		return nil, err
	}
	return s, nil
}
