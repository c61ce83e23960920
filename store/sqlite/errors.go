package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/mattn/go-sqlite3"

	"github.com/keywright/keywright/fault"
)

func unavailable(message string, cause error) error {
	return fault.Wrap(fault.StoreUnavailable, message, cause)
}

func corrupted(message string, cause error) error {
	return fault.Wrap(fault.StoreCorrupted, message, cause)
}

func errClosed() error { return fault.New(fault.StoreUnavailable, "the store is closed") }

// ended gives fault.Timeout when the context has ended, by deadline or cancellation.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Timeout, "the request ended before the store answered", err)
	}
	return nil
}

// translate gives err, met while doing action, as a fault. A fault stays what it is.
func translate(action string, err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	cause := fmt.Errorf("%s: %w", action, err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fault.Wrap(fault.Timeout, "the request ended before the store answered", cause)
	}
	var e sqlite3.Error
	if errors.As(err, &e) {
		return translateSQLite(e, cause)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return unavailable("the disk of the store is full", cause)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return unavailable("the store is read-only: its file or directory cannot be written", cause)
	case errors.Is(err, syscall.EISDIR):
		return unavailable("the path of the store is not a file", cause)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return unavailable("the directory of the store does not exist", cause)
	}
	return fault.Wrap(fault.Internal, "the store failed", cause)
}

func translateSQLite(e sqlite3.Error, cause error) error {
	switch e.SystemErrno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return unavailable("the disk of the store is full", cause)
	case syscall.EROFS:
		return unavailable("the store is read-only: its file or directory cannot be written", cause)
	}
	switch e.Code {
	case sqlite3.ErrFull:
		return unavailable("the disk of the store is full", cause)
	case sqlite3.ErrReadonly, sqlite3.ErrPerm:
		return unavailable("the store is read-only: its file or directory cannot be written", cause)
	case sqlite3.ErrCantOpen:
		return unavailable("the file of the store cannot be opened", cause)
	case sqlite3.ErrIoErr:
		return unavailable("reading or writing the file of the store failed", cause)
	case sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrProtocol:
		return unavailable("the store is in use by another process", cause)
	case sqlite3.ErrNomem:
		return unavailable("the store ran out of memory", cause)
	case sqlite3.ErrInterrupt:
		return fault.Wrap(fault.Timeout, "the request ended before the store answered", cause)
	case sqlite3.ErrCorrupt, sqlite3.ErrFormat:
		return corrupted("the file of the store is damaged", cause)
	case sqlite3.ErrNotADB:
		return corrupted("the file of the store is not a database", cause)
	}
	return fault.Wrap(fault.Internal, "the store failed", cause)
}

// ofStore reports whether err is about the store as a whole and not about the one change that met it.
func ofStore(err error) bool {
	switch fault.CodeOf(err) {
	case fault.StoreUnavailable, fault.StoreCorrupted, fault.Timeout:
		return true
	}
	return false
}

// violated gives the constraint that err says was violated, or zero.
func violated(err error) sqlite3.ErrNoExtended {
	var e sqlite3.Error
	if errors.As(err, &e) && e.Code == sqlite3.ErrConstraint {
		return e.ExtendedCode
	}
	return 0
}
