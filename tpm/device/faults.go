package device

import (
	"context"
	"errors"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
)

// What can be wrong with a TPM as a whole. Each stands in the chain of the fault that callers get, for errors.Is.
var (
	// ErrOwnerAuth: the owner hierarchy refuses the password that is configured. Nothing was changed.
	ErrOwnerAuth = errors.New("the owner hierarchy refuses the password")
	// ErrForeign: the storage parent is not the pinned one: another TPM, or this one after TPM2_Clear when Options.EKName could not tell.
	ErrForeign = errors.New("the storage parent is not the one that is pinned")
	// ErrCleared: it is the pinned TPM by its endorsement key, and its owner hierarchy has been cleared: the keys are gone.
	ErrCleared = errors.New("the TPM has been cleared since the storage parent was pinned")
	// ErrLockout: the TPM counts too many wrong passwords and refuses objects under dictionary-attack protection.
	ErrLockout = errors.New("the TPM is in dictionary-attack lockout")
	// ErrNVFull: the TPM's non-volatile memory has no room.
	ErrNVFull = errors.New("the TPM's non-volatile memory is full")
	// ErrGone: the TPM cannot be reached, or stopped answering.
	ErrGone = errors.New("the TPM does not answer")
	// ErrReset: the TPM was reset under the operation, and what it may have done cannot be known.
	ErrReset = errors.New("the TPM was reset")
	// ErrFailed: the TPM is in failure mode (TPM_RC_FAILURE), which only a reset ends.
	ErrFailed = errors.New("the TPM is in failure mode")
)

var (
	errClosed    = fault.New(fault.BackendUnavailable, "the TPM is closed")
	errQueueFull = fault.New(fault.Overloaded, "too many operations wait for the TPM").RetryAfter(time.Second)
	errOver      = errors.New("the transaction is over")
	errPending   = errors.New("the TPM still works on a command that was given up")
)

func unavailable(message string, cause error) *fault.Error {
	return fault.Wrap(fault.BackendUnavailable, message, cause).RetryAfter(time.Second)
}

func timedOut(ctx context.Context) error {
	return fault.Wrap(fault.Timeout, "the deadline passed before the TPM answered", context.Cause(ctx))
}

// late is the answer to a call whose deadline the queue would pass, or has passed.
func late(wait time.Duration) error {
	return fault.New(fault.Overloaded, "the operation would wait for the TPM past its deadline").RetryAfter(max(wait, time.Second))
}

// explain makes faults of what the TPM as a whole answers. An error about a key or about data stays as it is: it belongs to the
// one who gave the command.
func (d *Device) explain(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return err
	}
	switch rc {
	case tpm2.TPMRCLockout:
		return fault.Wrap(fault.BackendUnavailable, "the TPM refuses passwords for now: too many were wrong (dictionary-attack lockout)",
			errors.Join(ErrLockout, err)).RetryAfter(d.lockoutWait())
	case tpm2.TPMRCNVSpace:
		return fault.Wrap(fault.Overloaded, "the TPM has no room left in its non-volatile memory", errors.Join(ErrNVFull, err))
	case tpm2.TPMRCNVUnavailable, tpm2.TPMRCNVRate, tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCCanceled,
		tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap:
		return fault.Wrap(fault.Overloaded, "the TPM is busy with itself or out of room for the moment", err).RetryAfter(time.Second)
	case tpm2.TPMRCFailure:
		return fault.Wrap(fault.BackendUnavailable, "the TPM is in failure mode: only a reset of the machine ends that", errors.Join(ErrFailed, err))
	}
	return err
}

// isReference reports whether the TPM said that a handle or session is not loaded (TPM_RC_REFERENCE_H0 to S6).
func isReference(rc tpm2.TPMRC) bool {
	return rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceS6
}
