package root

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// alone runs f while nobody else changes slots or tries secrets, so that the memory of Argon2id is needed once at a time.
// Those who wait are bounded: fault.Overloaded for the rest, fault.Timeout when ctx ends first, both as errUnseen.
func (k *Keeper) alone(ctx context.Context, f func() error) error {
	select {
	case k.queue <- struct{}{}:
		defer func() { <-k.queue }()
	default:
		return errUnseen{fault.New(fault.Overloaded, "too many attempts at once").RetryAfter(failDelay * maxQueue)}
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return errUnseen{fault.Wrap(fault.Timeout, "the deadline passed before the attempt had its turn", ctx.Err())}
	}
	return f()
}

// open takes over what was opened. The caller holds the turn.
func (k *Keeper) open(fresh ring) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		fresh.wipe()
		return fault.New(fault.Unavailable, "the service is stopping")
	}
	locked := k.root == nil
	k.ring.wipe()
	k.ring = fresh
	if locked {
		k.shares.reset()
		close(k.opened)
	}
	return nil
}

// copyRoot gives the newest root and its generation.
func (k *Keeper) copyRoot() (secret.Bytes, uint32, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.root == nil {
		return nil, 0, errLocked
	}
	return slices.Clone(k.root), k.generation, nil
}

// errUnseen marks a refusal before anything was looked at. It is not recorded: callers need no credential to come this far,
// and a flood of them must not fill the log.
type errUnseen struct{ error }

func (e errUnseen) Unwrap() error { return e.error }

// errUnrecorded marks an error of the log itself, of which no entry can tell.
type errUnrecorded struct{ error }

func (e errUnrecorded) Unwrap() error { return e.error }

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
		return errUnrecorded{err}
	}
	return err
}

// denied records that an act failed with err and returns err, or what is more urgent: that the record could not be made.
func (k *Keeper) denied(ctx context.Context, start time.Time, who Caller, action string, slot uuid.UUID, detail string, err error) error {
	var unseen errUnseen
	if errors.As(err, &unseen) {
		return unseen.error
	}
	var lost errUnrecorded
	if errors.As(err, &lost) {
		return lost.error
	}
	if failed := k.record(ctx, start, who, action, slot, detail, err); failed != nil {
		if errors.As(failed, &lost) {
			return lost.error
		}
		return failed
	}
	return err
}

// kindWord keeps what a caller sent out of the log unless it is one of the known words.
func kindWord(kind Kind) string {
	switch kind {
	case KindPassphrase, KindKeyFile, KindShamir, KindHSM, KindTPM:
		return string(kind)
	}
	return "unknown"
}
