package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
)

// change is what every Change of this store is.
type change interface {
	audit.Change
	// statements gives what carries it out, in order. An error undoes the item, not the batch.
	statements() ([]statement, error)
	// news gives what others are told of it; no kind: nothing.
	news() (cluster.Kind, uuid.UUID)
}

// prepared marks the changes, and says what others are told of them: see tells. The zero value: nothing.
type prepared struct {
	kind  cluster.Kind
	about uuid.UUID
}

func (prepared) StoreChange() {}

func (p prepared) news() (cluster.Kind, uuid.UUID) { return p.kind, p.about }

// tells makes a change one that is news: of the kind, and what it changes. The zero id: everything of the kind.
func tells(kind cluster.Kind, about uuid.UUID) prepared { return prepared{kind, about} }

// statement is one of a change. All of a batch are sent together, so none may depend on the answer to another.
type statement struct {
	query string
	args  []any
	// refused says what a violated constraint means: SQLSTATE and constraint. nil from it, or no refused: nothing in particular.
	refused func(e *pgconn.PgError) error
	// nothing is asked, inside the transaction, when the statement changed no row although it should have: it says why.
	// nil: changing none is well.
	nothing func(ctx context.Context, conn *pgx.Conn) error
}

// failed reports whether the statement should have changed a row, and did not.
func (s *statement) failed(tag pgconn.CommandTag) bool {
	return s.nothing != nil && tag.RowsAffected() == 0
}

// explain gives the meaning of a violated constraint.
func (s *statement) explain(err error) error {
	if e := pgError(err); e != nil && s.refused != nil {
		if meant := s.refused(e); meant != nil {
			return meant
		}
	}
	return err
}

// fails is a nothing with one possible reason.
func fails(code fault.Code, message string) func(context.Context, *pgx.Conn) error {
	return func(context.Context, *pgx.Conn) error { return fault.New(code, message) }
}

// unless is a nothing with two: one when the row that the query asks for is missing, and one when it is there.
func unless(query string, arg any, missing, there *fault.Error) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		var n int64
		err := conn.QueryRow(ctx, query, arg).Scan(&n)
		switch {
		case err != nil:
			return err
		case n == 0:
			return missing
		}
		return there
	}
}

// conflictIfTaken is a refused that makes a violated uniqueness a Conflict.
func conflictIfTaken(message string) func(*pgconn.PgError) error {
	return func(e *pgconn.PgError) error {
		if e.Code == stateUnique {
			return fault.Wrap(fault.Conflict, message, serverError{e})
		}
		return nil
	}
}
