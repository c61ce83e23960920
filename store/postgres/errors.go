package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywright/keywright/fault"
)

// again is when a caller may try once more what the database could not do now.
const again = time.Second

func unavailable(message string, cause error) error {
	return fault.Wrap(fault.StoreUnavailable, message, cause).RetryAfter(again)
}

func errClosed() error { return fault.New(fault.StoreUnavailable, "the store is closed") }

func corrupted(message string, cause error) error {
	return fault.Wrap(fault.StoreCorrupted, message, cause)
}

// ended gives fault.Timeout when the context has ended, by deadline or cancellation.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Timeout, "the request ended before the store answered", err)
	}
	return nil
}

// SQLSTATEs by name (PostgreSQL appendix A).
const (
	stateUnique        = "23505"
	stateForeignKey    = "23503"
	stateReadOnly      = "25006"
	stateSerialisation = "40001"
	stateUnknownResult = "40003"
	stateDeadlock      = "40P01"
	statePrivilege     = "42501"
	stateNoTable       = "42P01"
	stateNoColumn      = "42703"
	stateNoParameter   = "42704"
	stateNoFunction    = "42883"
	stateUnsupported   = "0A000"
	stateNoDatabase    = "3D000"
	stateDiskFull      = "53100"
	stateConnections   = "53300"
	stateLocked        = "55P03"
	stateCancelled     = "57014"
)

// translate gives err, met while doing action, as a fault. A fault stays what it is.
func translate(ctx context.Context, action string, err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return translateState(ctx, e, fmt.Errorf("%s: %w", action, serverError{e}))
	}
	cause := fmt.Errorf("%s: %w", action, err)
	if ctx.Err() != nil {
		return fault.Wrap(fault.Timeout, "the request ended before the store answered", cause)
	}
	var refused *pgconn.ConnectError
	switch {
	case errors.As(err, &refused):
		return unavailable("the database cannot be reached", cause)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable("the database did not answer in time", cause)
	case lost(err):
		return unavailable("the connection to the database was lost", cause)
	}
	return fault.Wrap(fault.Internal, "the store failed", cause)
}

func translateState(ctx context.Context, e *pgconn.PgError, cause error) error {
	switch e.Code {
	case stateCancelled:
		if ctx.Err() != nil {
			return fault.Wrap(fault.Timeout, "the request ended before the store answered", cause)
		}
		return unavailable("the database took too long", cause)
	case stateLocked:
		return unavailable("another node holds the audit log for too long", cause)
	case stateReadOnly:
		return unavailable("the database is read-only", cause)
	case statePrivilege:
		return unavailable("the database's role lacks a right", cause)
	case stateNoDatabase:
		return unavailable("the database does not exist", cause)
	case stateDiskFull:
		return unavailable("the disk of the database is full", cause)
	case stateConnections:
		return unavailable("the database has no connection left", cause)
	case stateNoTable, stateNoColumn:
		return corrupted("the schema of the database is not this program's", cause)
	}
	switch class(e) {
	case "08", "57":
		return unavailable("the database is stopping or starting", cause)
	case "28":
		return unavailable("the database refuses the role or its password", cause)
	case "40":
		return unavailable("the database gave way to others", cause)
	case "53", "58":
		return unavailable("the database lacks resources or meets errors of its disk", cause)
	case "XX":
		return corrupted("the database is damaged", cause)
	}
	return fault.Wrap(fault.Internal, "the store failed", cause)
}

// class gives the first two characters of the SQLSTATE.
func class(e *pgconn.PgError) string { return e.Code[:min(len(e.Code), 2)] }

// serverError shows no value that the server refused: messages of classes 22 and 23 may repeat one.
type serverError struct{ *pgconn.PgError }

func (e serverError) Error() string {
	if c := class(e.PgError); c == "22" || c == "23" {
		return strings.TrimSpace("SQLSTATE " + e.Code + " " + e.ConstraintName)
	}
	return e.PgError.Error()
}

func (e serverError) Unwrap() error { return e.PgError }

// lost reports whether err says that a connection broke: whether the server did what it was last told is not known then.
func lost(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return class(e) == "08" || e.Code == stateUnknownResult || (class(e) == "57" && e.Code != stateCancelled)
	}
	var refused *pgconn.ConnectError
	if errors.As(err, &refused) || errors.Is(err, pgx.ErrNoRows) {
		return false
	}
	var n net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &n) ||
		pgconn.Timeout(err) || pgconn.SafeToRetry(err)
}

// rejected reports whether the server undid a transaction that may succeed when repeated.
func rejected(err error) bool {
	s := state(err)
	return s == stateSerialisation || s == stateDeadlock
}

// passing reports whether the same may succeed in a moment, on another connection or in another order.
func passing(err error) bool { return lost(err) || rejected(err) }

// state gives the SQLSTATE, or "".
func state(err error) string {
	if e := pgError(err); e != nil {
		return e.Code
	}
	return ""
}

// pgError gives what the server said, or nil.
func pgError(err error) *pgconn.PgError {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// ofStore reports whether err is about the store as a whole and not about the one change that met it.
func ofStore(err error) bool {
	switch fault.CodeOf(err) {
	case fault.StoreUnavailable, fault.StoreCorrupted, fault.Timeout:
		return true
	}
	return false
}

// none reports whether a query had no row.
func none(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
