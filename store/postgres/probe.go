package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CheckURI refuses a URI that Open would, without connecting. Files that it names (sslrootcert and the like) are read.
func CheckURI(uri string, o Options) error {
	_, err := parse(uri, o.withDefaults())
	return err
}

// Schema is what Probe found.
type Schema struct {
	Version int64 // of the tables; 0: there is no store yet, Open makes it
	Newest  int64 // that this release knows; Open brings older tables there
}

// Probe looks whether Open would find a database that it can use, on one connection that reads only, beside any number of services on
// it. The errors are those of Open.
func Probe(ctx context.Context, uri string, o Options) (Schema, error) {
	var out Schema
	s := &Store{opts: o.withDefaults()}
	var err error
	if s.config, err = parse(uri, s.opts); err != nil {
		return out, err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return out, translate(ctx, "opening the store", err)
	}
	defer s.hangUp(conn)
	if err := s.probe(ctx, conn, &out); err != nil {
		return out, translate(ctx, "opening the store", err)
	}
	return out, nil
}

func (s *Store) probe(ctx context.Context, conn *pgx.Conn, out *Schema) (err error) {
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on"); err != nil {
		return err
	}
	if err := checkServer(ctx, conn); err != nil {
		return err
	}
	if out.Newest, err = newestMigration(); err != nil {
		return err
	}
	var there bool
	var tables, ours int64
	if err := conn.QueryRow(ctx, sqlSchema, s.opts.Schema, versionTable).Scan(&there, &tables, &ours); err != nil || tables == 0 {
		return err
	}
	if ours == 0 {
		return corrupted("the schema holds tables, but is not a Keywright store", nil)
	}
	if err := conn.QueryRow(ctx, sqlSchemaVersion).Scan(&out.Version); err != nil {
		return err
	}
	if out.Version > out.Newest {
		return unavailable(fmt.Sprintf("the store was written by a newer release (schema %d, this release knows %d)", out.Version, out.Newest), nil)
	}
	return nil
}
