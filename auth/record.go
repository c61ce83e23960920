package auth

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// errNotRecorded marks an error of the log itself, of which no entry can tell.
type errNotRecorded struct{ error }

func (e errNotRecorded) Unwrap() error { return e.error }

// record makes an entry durable with its changes.
func (s *Service) record(ctx context.Context, start time.Time, e *audit.Entry, cause error, changes ...audit.Change) error {
	e.Outcome, e.Latency = "ok", time.Since(start)
	if cause != nil {
		e.Outcome = string(fault.CodeOf(cause))
	}
	_, err := s.recorder.Record(ctx, e, changes...)
	if fault.Has(err, fault.AuditUnavailable) || fault.Has(err, fault.Timeout) {
		return errNotRecorded{err}
	}
	return err
}

// denied records that an act failed with err and returns err, or that it could not be recorded.
func (s *Service) denied(ctx context.Context, start time.Time, e *audit.Entry, err error) error {
	var lost errNotRecorded
	if errors.As(err, &lost) {
		return lost.error
	}
	var r *refusal
	if errors.As(err, &r) {
		e.Detail = "rule " + string(r.rule)
		err = r.error
	}
	// The entry must be made although the caller may have gone.
	if failed := s.record(context.WithoutCancel(ctx), start, e, err); failed != nil {
		if errors.As(failed, &lost) {
			return lost.error
		}
		return failed
	}
	return err
}
