package tpm

import (
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
)

// refused makes a fault of what a transaction gave: those of the device as they are, and a TPM's answer about the key or the data as one of a
// backend. A wrong auth value is the Ref's: it was made under another root, or by somebody else.
func refused(err error) error {
	var f *fault.Error
	var rc tpm2.TPMRC
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return err
	case !errors.As(err, &rc):
		return fault.Wrap(fault.BackendUnavailable, "the TPM's answer cannot be used", err)
	case rc.Is(tpm2.TPMRCBadAuth) || rc.Is(tpm2.TPMRCAuthFail) || rc.Is(tpm2.TPMRCPolicyFail):
		return unreadable(err)
	}
	return fault.Wrap(fault.BackendUnavailable, "the TPM refused the command", err)
}

// loadRefused tells an object that the TPM does not take from a TPM that does not work: whatever is wrong with a parameter of TPM2_Load is the object.
func loadRefused(err error) error {
	var f tpm2.TPMFmt1Error
	if errors.As(err, &f) {
		if is, _ := f.Parameter(); is {
			return unreadable(err)
		}
	}
	return err
}
