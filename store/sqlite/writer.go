package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/mattn/go-sqlite3"
)

// writer is the one connection that writes, with its prepared statements. It speaks to the driver directly: database/sql
// would add a lock, a goroutine and some allocations to every statement of the hot path. Whoever has Store.turn uses it.
type writer struct {
	conn  *sqlite3.SQLiteConn
	stmts map[string]*sqlite3.SQLiteStmt
	args  []driver.NamedValue // reused: the driver keeps nothing of it
}

func openWriter(path string, o Options) (*writer, error) {
	conn, err := connect(&sqlite3.SQLiteDriver{}, dsn(path), writePragmas(o))
	if err != nil {
		return nil, err
	}
	return &writer{conn: conn, stmts: map[string]*sqlite3.SQLiteStmt{}}, nil
}

func (w *writer) close() error {
	var errs []error
	for _, s := range w.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// reset ends a transaction that may be open, and reports whether the connection is fit for another.
func (w *writer) reset() bool {
	if w.conn.AutoCommit() { // SQLite rolls back by itself after some failures
		return true
	}
	return w.run("ROLLBACK") == nil && w.conn.AutoCommit()
}

func (w *writer) prepare(query string) (*sqlite3.SQLiteStmt, error) {
	if s := w.stmts[query]; s != nil {
		return s, nil
	}
	prepared, err := w.conn.Prepare(query)
	if err != nil {
		return nil, err
	}
	s := prepared.(*sqlite3.SQLiteStmt) // what this driver prepares
	w.stmts[query] = s
	return s, nil
}

func (w *writer) bind(args []any) []driver.NamedValue {
	w.args = w.args[:0]
	for i, a := range args {
		w.args = append(w.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return w.args
}

// exec carries out one statement and gives the number of changed rows. Arguments are int64, string, []byte or nil.
func (w *writer) exec(query string, args ...any) (int64, error) {
	s, err := w.prepare(query)
	if err != nil {
		return 0, err
	}
	// Without a context that can end, the driver needs no goroutine to watch it. What a Commit does is bounded.
	r, err := s.ExecContext(context.Background(), w.bind(args))
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// put is exec for those who don't ask for the number of rows: this way the driver binds all arguments in one call.
func (w *writer) put(query string, args []driver.NamedValue) error {
	s, err := w.prepare(query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(context.Background(), args)
	if err != nil {
		return err
	}
	return rows.Close()
}

// row reads the first row of a query into dest and reports whether there is one.
func (w *writer) row(query string, dest []driver.Value, args ...any) (bool, error) {
	s, err := w.prepare(query)
	if err != nil {
		return false, err
	}
	rows, err := s.QueryContext(context.Background(), w.bind(args))
	if err != nil {
		return false, err
	}
	err = rows.Next(dest)
	if closed := rows.Close(); closed != nil && err == nil {
		err = closed
	}
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// one reads the one number that a query without arguments gives.
func (w *writer) one(query string, n *int64) error {
	v := make([]driver.Value, 1)
	found, err := w.row(query, v)
	if err != nil {
		return err
	}
	number, ok := v[0].(int64)
	if !found || !ok {
		return fmt.Errorf("%s: not a number", query)
	}
	*n = number
	return nil
}

// run carries out statements that are not worth preparing.
func (w *writer) run(query string) error {
	_, err := w.conn.Exec(query, nil)
	return err
}

// transaction runs f and commits. When f or the commit fails, or ctx has ended before the commit, nothing of it is stored;
// the rollback is left to Store.write.
func (w *writer) transaction(ctx context.Context, f func() error) error {
	if _, err := w.exec(sqlBegin); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	if err := ended(ctx); err != nil {
		return err
	}
	_, err := w.exec(sqlCommit)
	return err
}

const (
	sqlBegin        = "BEGIN IMMEDIATE"
	sqlCommit       = "COMMIT"
	sqlSavepoint    = "SAVEPOINT item"
	sqlRollbackItem = "ROLLBACK TO item"
	sqlReleaseItem  = "RELEASE item"
	sqlProbe        = "UPDATE audit_head SET size = -1 - size WHERE id = 1"
)
