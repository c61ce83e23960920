package root

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// alone runs f while nobody else changes slots or tries secrets, so that the memory of Argon2id is needed once at a time.
// Those who wait are bounded: fault.Overloaded for the rest, fault.Timeout when ctx ends first.
func (k *Keeper) alone(ctx context.Context, f func() error) error {
	select {
	case k.queue <- struct{}{}:
		defer func() { <-k.queue }()
	default:
		return fault.New(fault.Overloaded, "too many attempts at once").RetryAfter(failDelay * maxQueue)
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return fault.Wrap(fault.Timeout, "the deadline passed before the attempt had its turn", ctx.Err())
	}
	return f()
}

// open takes over fresh as the root. The caller holds the turn.
func (k *Keeper) open(fresh secret.Bytes) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		fresh.Wipe()
		return fault.New(fault.Unavailable, "the service is stopping")
	}
	k.root = fresh
	k.shares.reset()
	close(k.opened)
	return nil
}

func (k *Keeper) copyRoot() (secret.Bytes, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.root == nil {
		return nil, errLocked
	}
	return append(make(secret.Bytes, 0, Size), k.root...), nil
}

// errRecorded marks an error whose audit entry is written, or could not be.
type errRecorded struct{ error }

func (e errRecorded) Unwrap() error { return e.error }

// record writes an entry with its changes. cause is the error that the entry tells of, nil for success. A record that
// could not be made is not tried again as a denial when it is the log that failed.
func (k *Keeper) record(ctx context.Context, start time.Time, who Caller, action string, slot uuid.UUID, detail string, cause error, changes ...audit.Change) error {
	e := &audit.Entry{Principal: who.Principal, Action: action, Outcome: "ok", RequestID: who.RequestID, Detail: detail,
		Latency: time.Since(start)}
	if slot != uuid.Nil {
		e.Resource = "slot:" + slot.String()
	}
	if cause != nil {
		e.Outcome = string(fault.CodeOf(cause))
	}
	// A record that has begun is waited for, though the caller may have gone: a slot of which nobody knows whether it was
	// stored, and whose shares were never shown, would be a lock without a key.
	_, err := k.recorder.Record(context.WithoutCancel(ctx), e, changes...)
	if err != nil && (fault.Has(err, fault.AuditUnavailable) || fault.Has(err, fault.Timeout)) {
		return errRecorded{err}
	}
	return err
}

// denied records that an act failed with err and returns err, or what is more urgent: that the record could not be made.
func (k *Keeper) denied(ctx context.Context, start time.Time, who Caller, action string, slot uuid.UUID, detail string, err error) error {
	var done errRecorded
	if errors.As(err, &done) {
		return done.error
	}
	// What was refused before anything was looked at is not recorded: callers need no credential to come this far, and a
	// flood of them must not fill the log.
	if fault.Has(err, fault.Overloaded) || fault.Has(err, fault.NotLocked) {
		return err
	}
	if failed := k.record(ctx, start, who, action, slot, detail, err); failed != nil {
		if errors.As(failed, &done) {
			return done.error
		}
		return failed
	}
	return err
}

// kindWord keeps what a caller sent out of the log unless it is one of the known words.
func kindWord(kind Kind) string {
	switch kind {
	case KindPassphrase, KindKeyFile, KindShamir:
		return string(kind)
	}
	return "unknown"
}
