package main

import (
	"context"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm/device"
)

type tpmLockoutCmd struct {
	tpmDevice
	LockoutAuthFile string `placeholder:"FILE" type:"path" help:"File with the password of the lockout hierarchy. Else $$KEYWRIGHT_TPM_LOCKOUT_AUTH, or the terminal asks. A wrong one locks this way for the TPM's recovery time."`
}

// ccDictionaryAttackLockReset is TPM_CC_DictionaryAttackLockReset (TPM 2.0 part 2, section 6.5.2).
const ccDictionaryAttackLockReset tpm2.TPMCC = 0x139

// Run sets the counter of wrong passwords to zero (TPM 2.0 part 3, section 25.2). The password goes over the wire as an HMAC in a salted session.
func (k tpmLockoutCmd) Run(ctx context.Context, a *app) error {
	d, err := k.open(ctx, a, nil)
	if err != nil {
		return err
	}
	info := d.Info()
	var auth secret.Bytes
	if info.LockoutAuthSet {
		if auth, err = a.lockoutAuth(k.LockoutAuthFile); err != nil {
			return errors.Join(err, d.Close())
		}
		defer auth.Wipe()
	}
	lockout := tpm2.NamedHandle{Handle: tpm2.TPMRHLockout, Name: tpm2.HandleName(tpm2.TPMRHLockout)}
	err = d.Do(ctx, "reset-lockout", func(tx *device.Tx) error {
		_, err := tx.Run(ccDictionaryAttackLockReset, lockout, auth, device.Plain, nil)
		return err
	})
	err = errors.Join(err, d.Close())
	switch {
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return &exitError{exitDenied, "the TPM refuses the lockout password, and will not try another one for " + info.Lockout.Recovery.String()}
	case errors.Is(err, device.ErrLockout), errors.Is(err, tpm2.TPMRCLockout):
		return &exitError{exitDenied, "the TPM refuses the lockout password for now: a wrong one was given less than " + info.Lockout.Recovery.String() + " ago"}
	case err != nil:
		return tpmError(err)
	}
	after, err := k.open(ctx, a, nil) // which reads what it is like now
	if err != nil {
		return err
	}
	l := newTPMLockout(after.Info().Lockout)
	if err := after.Close(); err != nil {
		return err
	}
	return a.show(l, func() error { return a.fields("lockout", l.text()) })
}
