package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"

	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

// tpmCmd are the commands that speak to a TPM themselves. They need no service; a TPM that one has open without the kernel's resource manager (tpm:/dev/tpm0, a
// socket) is busy.
type tpmCmd struct {
	Info         tpmInfoCmd    `cmd:"" help:"Show what a TPM is and can do. It changes nothing."`
	Init         tpmInitCmd    `cmd:"" help:"Make the storage parent, keep it in the TPM on request, and pin it for a service. What is there stays."`
	Approve      tpmApproveCmd `cmd:"" help:"Sign an approval of PCR values, as they are now or will be, so that what is sealed under a policy opens then."`
	ResetLockout tpmLockoutCmd `cmd:"" name:"reset-lockout" help:"End the dictionary-attack lockout by the lockout hierarchy's password."`
	Bench        tpmBenchCmd   `cmd:"" help:"Measure what a TPM does in a second, with passing keys."`
}

// envLockout is the lockout hierarchy's password.
const envLockout = "KEYWRIGHT_TPM_LOCKOUT_AUTH"

// tpmDevice says which TPM a command is about.
type tpmDevice struct {
	URI                 string `default:"tpm:/dev/tpmrm0" placeholder:"URI" help:"The TPM, as in tpm:/dev/tpmrm0, tpm:/dev/tpm0, tpm:unix:/PATH or tpm:tcp:HOST:PORT (default ${default})."`
	OwnerAuthFile       string `placeholder:"FILE" type:"path" help:"File with the password of the owner hierarchy, if it has one."`
	EndorsementAuthFile string `placeholder:"FILE" type:"path" help:"File with the password of the endorsement hierarchy, if it has one."`
}

// open opens the TPM. change may adapt how.
func (k tpmDevice) open(ctx context.Context, a *app, change func(*device.Options) error) (*device.Device, error) {
	b := backendConfig{Name: "tpm", URI: k.URI}
	o, err := b.tpmOptions()
	if err != nil {
		return nil, usage("--uri: %w", err)
	}
	o.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if change != nil {
		if err := change(&o); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	d, err := openDevice(ctx, o, k.OwnerAuthFile, k.EndorsementAuthFile)
	if err != nil {
		return nil, tpmError(err)
	}
	return d, nil
}

// backend opens the TPM as a backend, with a root that is forgotten afterwards. Closing the backend closes the TPM.
func (k tpmDevice) backend(ctx context.Context, a *app) (*device.Device, *tpm.Backend, error) {
	d, err := k.open(ctx, a, nil)
	if err != nil {
		return nil, nil, err
	}
	b, err := tpm.Open(ctx, tpm.Options{Name: "tpm", Device: d, Derive: func(string) (secret.Bytes, error) {
		passing := make(secret.Bytes, 32)
		rand.Read(passing) // never fails (crypto/rand)
		return passing, nil
	}})
	if err != nil {
		return nil, nil, tpmError(errors.Join(err, d.Close()))
	}
	return d, b, nil
}

// tpmError gives an error of a TPM the exit code that the same error of the service has.
func tpmError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, device.ErrOwnerAuth):
		return &exitError{exitDenied, err.Error() + ": give the right one with --owner-auth-file"}
	case errors.Is(err, device.ErrLockout):
		return &exitError{exitDenied, err.Error() + ": keywright tpm info says for how long, keywright tpm reset-lockout ends it"}
	case errors.Is(err, device.ErrForeign), errors.Is(err, device.ErrCleared):
		return &exitError{exitConflict, err.Error()}
	}
	return deviceError(err)
}

// lockoutAuth finds the lockout hierarchy's password: in the file, the variable, or at the terminal.
func (a *app) lockoutAuth(path string) (secret.Bytes, error) {
	if path != "" {
		return authFile(path)
	}
	if text, ok := os.LookupEnv(envLockout); ok && text != "" {
		return secret.Bytes(text), nil
	}
	typed, err := a.askFor("password of the lockout hierarchy: ", "--lockout-auth-file", envLockout)
	return secret.Bytes(typed), err
}
