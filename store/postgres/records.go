package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// VersionRecord is what the store holds of one key version, as far as it says where the key material is.
type VersionRecord struct {
	Key      uuid.UUID
	Version  uint32
	State    string // of the version, as keys.State
	Backend  string // identity of the backend, as in backend.Info
	Material []byte // the backend's blob; nil when there is none
}

// VersionRecords calls f for each key version of the store at the URI, of all tenants and of the service itself, destroyed ones
// included, until f gives an error. It reads only, on one connection, beside a service that has the store open if there is one:
// pages of a thousand, each of one moment. A schema that holds no store is StoreCorrupted.
func VersionRecords(ctx context.Context, uri string, o Options, f func(VersionRecord) error) error {
	s := &Store{opts: o.withDefaults()}
	var err error
	if s.config, err = parse(uri, s.opts); err != nil {
		return err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return translate(ctx, "opening the store", err)
	}
	defer s.hangUp(conn)
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on"); err != nil {
		return translate(ctx, "opening the store", err)
	}
	const page = 1000
	last := VersionRecord{}
	for {
		rows, err := conn.Query(ctx, sqlVersionRecords, last.Key[:], int64(last.Version), page)
		if err != nil {
			return translate(ctx, "reading the store", err)
		}
		records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r VersionRecord, err error) {
			err = row.Scan((*idColumn)(&r.Key), &r.Version, &r.State, &r.Backend, &r.Material)
			return r, err
		})
		if err != nil {
			return translate(ctx, "reading the store", err)
		}
		for _, r := range records {
			if err := f(r); err != nil {
				return err
			}
		}
		if len(records) < page {
			return nil
		}
		last = records[len(records)-1]
	}
}

const sqlVersionRecords = `SELECT key_id, version, state, backend_id, material FROM key_versions
	WHERE (key_id, version) > ($1, $2) ORDER BY key_id, version LIMIT $3`
