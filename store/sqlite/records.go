package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/mattn/go-sqlite3"
)

// VersionRecord is what the store holds of one key version, as far as it says where the key material is.
type VersionRecord struct {
	Key      uuid.UUID
	Version  uint32
	State    string // of the version, as keys.State
	Backend  string // identity of the backend, as in backend.Info
	Material []byte // the backend's blob; nil when there is none
}

const selectVersionRecords = `SELECT key_id, version, state, backend_id, material FROM key_versions WHERE (key_id, version) > (?, ?) ORDER BY key_id, version LIMIT ?`

// VersionRecords calls f for each key version of the store at path, of all tenants and of the service itself, destroyed ones included, until
// f gives an error. It reads only, beside a service that has the store open if there is one: pages of a thousand, each of
// one moment. A file that is no store is StoreCorrupted or StoreUnavailable.
func VersionRecords(ctx context.Context, path string, f func(VersionRecord) error) (err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return unavailable("the path of the store cannot be resolved", err)
	}
	if _, err := os.Stat(abs); err != nil {
		return translate("opening the store", err)
	}
	u := url.URL{Scheme: "file", Path: abs}
	db := sql.OpenDB(&connector{dsn: u.String() + "?mode=ro&_mutex=no&_busy_timeout=5000", pragmas: []string{"PRAGMA query_only = ON"}})
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	var id int64
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		var e sqlite3.Error
		if errors.As(err, &e) && e.Code == sqlite3.ErrNotADB {
			return corrupted("the file of the store is not a database", err)
		}
		return translate("reading the store", err)
	}
	if id != applicationID {
		return corrupted("the file is a database, but not a Keywright store", nil)
	}
	const page = 1000
	key, version := make([]byte, 0, 16), int64(0)
	for {
		records, err := versionPage(ctx, db, key, version, page)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := f(r); err != nil {
				return err
			}
		}
		if len(records) < page {
			return nil
		}
		last := records[len(records)-1]
		key, version = append(key[:0], last.Key[:]...), int64(last.Version)
	}
}

func versionPage(ctx context.Context, db *sql.DB, key []byte, version int64, limit int) (out []VersionRecord, err error) {
	rows, err := db.QueryContext(ctx, selectVersionRecords, key, version, limit)
	if err != nil {
		return nil, translate("reading the store", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r VersionRecord
		var id []byte
		if err := rows.Scan(&id, &r.Version, &r.State, &r.Backend, &r.Material); err != nil {
			return nil, translate("reading the store", err)
		}
		if len(id) != len(r.Key) {
			return nil, corrupted("a stored key id does not have 16 bytes", nil)
		}
		r.Key = uuid.UUID(id)
		out = append(out, r)
	}
	return out, translate("reading the store", rows.Err())
}
