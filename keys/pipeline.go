package keys

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// verb is one thing that a caller can ask for.
type verb uint8

const (
	verbEncrypt verb = iota
	verbDecrypt
	verbRewrap
	verbDataKey
	verbWrap
	verbUnwrap
	verbSign
	verbVerify
	verbMAC
	verbVerifyMAC
	verbDerive
	verbEncapsulate
	verbDecapsulate
	verbExport
	verbAttest
	verbAttestationKey
	verbRandom
	verbCreate
	verbGet
	verbList
	verbUpdate
	verbDelete
	verbCancelDeletion
	verbRotate
	verbVersions
	verbSetState
	verbImportParameters
	verbMove
	verbMoveVersion // of the job that verbMove makes
	verbImport
	verbSettings
	verbSetSettings
	verbDestroy // of Maintain alone, as those below
	verbAbandon
	verbPrune
	verbActivate
	verbExpire
	verbGrants
	verbPutGrant
	verbDeleteGrant
	verbApprovals
	verbRequestApproval
	verbApprove
	verbReject
	verbAuthorize
	verbCount
)

// action is what the pipeline knows of a verb.
type action struct {
	name    string // in the audit log
	scope   auth.Scope
	op      backend.Operation // for those that use a key
	purpose backend.Purpose   // of the default key, for those that may name none
	looks   bool              // changes and uses nothing: recorded only when it is refused
}

// actions is the one table of what can be asked and which scope it takes; a test holds it against every verb.
var actions = [verbCount]action{
	verbEncrypt:          {"encrypt", auth.ScopeEncryptionWrite, backend.OpEncrypt, backend.PurposeEncryption, false},
	verbDecrypt:          {"decrypt", auth.ScopeEncryptionWrite, backend.OpDecrypt, backend.PurposeEncryption, false},
	verbRewrap:           {"rewrap", auth.ScopeEncryptionWrite, backend.OpRewrap, backend.PurposeEncryption, false},
	verbDataKey:          {"data-key", auth.ScopeEncryptionWrite, backend.OpDataKey, backend.PurposeEncryption, false},
	verbWrap:             {"wrap", auth.ScopeEncryptionWrite, backend.OpWrap, backend.PurposeWrapping, false},
	verbUnwrap:           {"unwrap", auth.ScopeEncryptionWrite, backend.OpUnwrap, backend.PurposeWrapping, false},
	verbSign:             {"sign", auth.ScopeEncryptionWrite, backend.OpSign, backend.PurposeSigning, false},
	verbVerify:           {"verify", auth.ScopeEncryptionWrite, backend.OpVerify, backend.PurposeSigning, false},
	verbMAC:              {"mac", auth.ScopeEncryptionWrite, backend.OpMAC, backend.PurposeMAC, false},
	verbVerifyMAC:        {"verify-mac", auth.ScopeEncryptionWrite, backend.OpVerifyMAC, backend.PurposeMAC, false},
	verbDerive:           {"derive", auth.ScopeEncryptionWrite, backend.OpDerive, backend.PurposeAgreement, false},
	verbEncapsulate:      {"encapsulate", auth.ScopeEncryptionWrite, backend.OpEncapsulate, backend.PurposeEncapsulation, false},
	verbDecapsulate:      {"decapsulate", auth.ScopeEncryptionWrite, backend.OpDecapsulate, backend.PurposeEncapsulation, false},
	verbExport:           {"export", auth.ScopeKeysWrite, backend.OpExport, "", false},
	verbAttest:           {"attest", auth.ScopeKeysRead, backend.OpAttest, "", false},
	verbAttestationKey:   {"attestation-key", auth.ScopeKeysRead, "", "", true},
	verbRandom:           {"random", auth.ScopeEncryptionWrite, "", "", false},
	verbCreate:           {"key.create", auth.ScopeKeysWrite, "", "", false},
	verbGet:              {"key.get", auth.ScopeKeysRead, "", "", true},
	verbList:             {"key.list", auth.ScopeKeysRead, "", "", true},
	verbUpdate:           {"key.update", auth.ScopeKeysWrite, "", "", false},
	verbDelete:           {"key.delete", auth.ScopeKeysWrite, "", "", false},
	verbCancelDeletion:   {"key.cancel-deletion", auth.ScopeKeysWrite, "", "", false},
	verbRotate:           {"key.rotate", auth.ScopeKeysWrite, "", "", false},
	verbVersions:         {"key.versions", auth.ScopeKeysRead, "", "", true},
	verbSetState:         {"key.state", auth.ScopeKeysWrite, "", "", false},
	verbMove:             {"key.move", auth.ScopeKeysWrite, "", "", false},
	verbMoveVersion:      {"key.move.version", auth.ScopeKeysWrite, "", "", false},
	verbImportParameters: {"key.import-parameters", auth.ScopeKeysWrite, "", "", false},
	verbImport:           {"key.import", auth.ScopeKeysWrite, "", "", false},
	verbSettings:         {"settings.keys.get", auth.ScopeKeysRead, "", "", true},
	verbSetSettings:      {"settings.keys.set", auth.ScopeSettingsWrite, "", "", false},
	verbDestroy:          {"key.destroy", auth.ScopeKeysWrite, "", "", false},
	verbAbandon:          {"key.abandon", auth.ScopeKeysWrite, "", "", false},
	verbPrune:            {"idempotency.prune", auth.ScopeSettingsWrite, "", "", false},
	verbActivate:         {"key.activate", auth.ScopeKeysWrite, "", "", false},
	verbExpire:           {"key.expire", auth.ScopeKeysWrite, "", "", false},
	verbGrants:           {"key.grants", auth.ScopePoliciesRead, "", "", true},
	verbPutGrant:         {"key.grant", auth.ScopePoliciesWrite, "", "", false},
	verbDeleteGrant:      {"key.revoke-grant", auth.ScopePoliciesWrite, "", "", false},
	verbApprovals:        {"approval.list", "", "", "", true}, // who may look is decided for each
	verbRequestApproval:  {"approval.request", "", "", "", false},
	verbApprove:          {"approval.approve", "", "", "", false},
	verbReject:           {"approval.reject", "", "", "", false},
	verbAuthorize:        {"authorize", "", "", "", true},
}

func (v verb) String() string { return actions[v].name }

const (
	okOutcome       = "ok"
	maxTries        = 8                      // of a change that loses against others
	waitForChange   = 500 * time.Millisecond // what a caller is told to wait
	refusalDeadline = 5 * time.Second        // for the record of a refusal whose caller has gone
)

// request is one call on its way through the pipeline.
type request struct {
	s      *Service
	caller Caller
	verb   verb
	start  time.Time
	entry  audit.Entry
	// changes are carried out in one transaction with the entry.
	changes []audit.Change
	// touched are the keys whose records the changes make stale.
	touched  []uuid.UUID
	defaults bool // the changes alter a default key
	final    bool // a conflict is an answer: what was begun is not begun again
	uses     order
	daily    order  // of the tenant's day
	day      *tally // that daily is of
	exactDay bool   // as exact, of the day
	exact    bool   // no more uses are set aside than the operation needs: more of them was refused
	unheard  bool   // the log itself failed, so it is not asked to record the failure
	unlock   func()
	locked   uuid.UUID
	decision auth.Decision // the last one, about the key once that is known
	grants   []uuid.UUID   // by which items were allowed
	approved uuid.UUID     // the approval that serves, which the record uses up
	again    bool          // what was done is shown again: to do it took the approvals
	regrant  string        // the principal whose grants the changes alter
}

func (q *request) tenant() uuid.UUID { return q.caller.Principal.Tenant }

// change adds a change of a key to the transaction of the record.
func (q *request) change(key uuid.UUID, c ...audit.Change) {
	q.changes = append(q.changes, c...)
	q.touched = append(q.touched, key)
}

// again marks a failure after which the whole of the work may be done once more, from reading on.
type again struct{ error }

func (a again) Unwrap() error { return a.error }

// pipeline is the one path of everything that a caller can ask for: whether it may at all, then work (which resolves, decides about the key,
// looks at policy, state and limits, and executes), then the durable audit record with all changes, and only then the result. wipe may be nil; it gets every result
// that is not released.
//
// A refusal is recorded with its code. When that fails the caller gets fault.AuditUnavailable in place of the refusal.
func pipeline[R any](ctx context.Context, s *Service, c Caller, v verb, work func(context.Context, *request) (R, error), wipe func(R)) (R, error) {
	var none R
	if err := s.enter(); err != nil {
		return none, err
	}
	defer s.leave()
	if c.Principal == nil {
		return none, fault.New(fault.Unauthenticated, "no credential")
	}
	q := &request{s: s, caller: c, verb: v, start: s.now()}
	defer q.release()
	a := &actions[v]
	for try := 1; ; try++ {
		q.entry = audit.Entry{Tenant: c.Principal.Tenant, Principal: c.Principal.ID, Action: a.name, RequestID: c.RequestID, Outcome: okOutcome}
		q.changes, q.touched, q.defaults, q.uses, q.daily = q.changes[:0], q.touched[:0], false, order{}, order{}
		q.approved, q.regrant, q.grants, q.again = uuid.Nil, "", q.grants[:0], false
		if err := q.enter(); err != nil {
			return none, q.refuse(ctx, err)
		}
		res, err := work(ctx, q)
		if err == nil && a.looks {
			return res, nil
		}
		if err != nil {
			q.uses.end(err)
			q.daily.end(err)
		}
		if err == nil {
			if err = q.record(ctx); err == nil {
				return res, nil
			}
			if wipe != nil {
				wipe(res)
			}
			if fault.Has(err, fault.Conflict) && len(q.changes) > 0 && !q.final {
				err = again{err}
			} else if fault.Has(err, fault.UsageLimit) && q.uses.asks() {
				err = q.fewer(err)
			} else if fault.Has(err, fault.DailyLimit) && q.daily.asks() {
				err = q.fewerToday()
			}
		}
		var retry again
		if errors.As(err, &retry) && try < maxTries && ctx.Err() == nil {
			continue
		}
		return none, q.refuse(ctx, err)
	}
}

// own finds a key that a change is for and makes this request the only one of the process that changes it. It is read from the store, not
// from the cache, and is the request's to alter.
func (q *request) own(ctx context.Context, name string) (*Key, error) {
	r, err := q.s.find(ctx, q.tenant(), name)
	if err != nil {
		q.named(name)
		return nil, q.hide(err)
	}
	k, err := q.ownID(ctx, r.key.ID)
	if err != nil {
		return nil, err
	}
	return k, q.permit(ctx, factsOf(k), false)
}

func (q *request) ownID(ctx context.Context, id uuid.UUID) (*Key, error) {
	q.entry.Key = id
	if q.unlock != nil && q.locked != id { // a name that means another key by now
		q.release()
	}
	if q.unlock == nil {
		unlock, err := q.s.locks.lock(ctx, id)
		if err != nil {
			return nil, err
		}
		q.unlock, q.locked = unlock, id
	}
	return q.s.store.KeyByID(ctx, q.tenant(), id)
}

func (q *request) release() {
	if q.unlock != nil {
		q.unlock()
		q.unlock = nil
	}
}

// record makes the entry and the changes durable, and forgets what they made stale. The caller must not release anything when it fails.
func (q *request) record(ctx context.Context) error {
	q.noteException()
	q.entry.Latency = q.s.now().Sub(q.start)
	_, err := q.s.recorder.Record(ctx, &q.entry, q.changes...)
	q.forget(err)
	q.uses.end(err)
	q.daily.end(err)
	return q.heard(err)
}

// fewer is the answer to a limit that uses were refused for: the operation begins again when it had asked for more than it needs, and else is over.
// Either way what is known of the key version is read anew.
func (q *request) fewer(err error) error {
	q.s.cache.drop(q.entry.Key, false)
	if q.uses.extra() && !q.exact {
		q.exact = true
		return again{err}
	}
	return err
}

// heard notes when it was the log that failed, and not a change: nothing can be recorded then, and a record that timed out is not repeated. It
// may stand in the log as done though its result was never released, which errs on the side of saying more.
func (q *request) heard(err error) error {
	if err = asFault(err); errors.Is(err, audit.ErrLate) {
		return err // the caller went before the record was begun: what was done is recorded as what it came to
	}
	switch fault.CodeOf(err) {
	case fault.AuditUnavailable, fault.StoreUnavailable, fault.StoreCorrupted, fault.Overloaded, fault.Unavailable, fault.Timeout, fault.Internal:
		q.unheard = true
	}
	return err
}

// step records an entry of its own in the middle of the work, with changes: what a device is about to do is written down first.
func (q *request) step(ctx context.Context, action string, key uuid.UUID, version uint32, changes ...audit.Change) error {
	e := q.entry
	e.Action, e.Key, e.KeyVersion, e.Latency = action, key, version, q.s.now().Sub(q.start)
	_, err := q.s.recorder.Record(ctx, &e, changes...)
	q.s.cache.drop(key, uncertain(err))
	err = q.heard(err)
	if fault.Has(err, fault.Conflict) {
		return again{err}
	}
	return err
}

// uncertain reports whether a failed record may still become durable.
func uncertain(err error) bool {
	return err != nil && (fault.Has(err, fault.Timeout) || fault.Has(err, fault.AuditUnavailable) || fault.Has(err, fault.Internal))
}

func (q *request) forget(err error) {
	for _, id := range q.touched {
		q.s.cache.drop(id, uncertain(err))
	}
	if q.regrant != "" {
		q.s.regranted(q.regrant)
	}
	if q.defaults && uncertain(err) {
		q.s.defaults.doubt()
	} else if q.defaults {
		q.s.defaults.drop()
	}
}

// refuse records the failure of a call and gives the error that the caller gets.
func (q *request) refuse(ctx context.Context, err error) error {
	var retry again
	if errors.As(err, &retry) {
		err = retry.error
	}
	q.noteRule(err)
	err = asFault(err)
	if q.unheard {
		return err
	}
	q.entry.Outcome, q.entry.Latency = string(fault.CodeOf(err)), q.s.now().Sub(q.start)
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), refusalDeadline)
		defer cancel()
	}
	if _, failed := q.s.recorder.Record(ctx, &q.entry); failed != nil {
		if fault.Has(failed, fault.Overloaded) {
			return failed
		}
		return fault.Wrap(fault.AuditUnavailable, "the audit record could not be made durable", errors.Join(failed, err))
	}
	return err
}
