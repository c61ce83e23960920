package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/hsm/uri"
	"github.com/keywright/keywright/secret"
)

// hsmCmd are the commands that speak to a token themselves. They need no service, and load every module in a process of its own.
type hsmCmd struct {
	List      hsmListCmd      `cmd:"" help:"List modules, their slots, tokens and mechanisms. No PIN is needed."`
	Probe     hsmProbeCmd     `cmd:"" help:"Find out what a token can do, by doing it with passing keys."`
	Init      hsmInitCmd      `cmd:"" help:"Make the service's own keys on a token. What is there stays."`
	Reconcile hsmReconcileCmd `cmd:"" help:"Compare a token's keys with a store's records. It reports and changes nothing; exit code 7 when one lacks the other."`
	Bench     hsmBenchCmd     `cmd:"" help:"Measure what a token does in a second, with passing keys."`
}

// hsmToken says which token a command is about.
type hsmToken struct {
	URI string `required:"" placeholder:"URI" help:"The token, as in pkcs11:token=prod?module-path=/M.so&pin-source=file:/PIN. Without a pin-source the terminal asks."`
}

// open opens the token in processes of its own. change may adapt how.
func (k hsmToken) open(ctx context.Context, a *app, change func(*token.Config, *remote.Options)) (*remote.Supervisor, *uri.URI, error) {
	u, err := uri.Parse(k.URI, uri.FromFlag)
	if err != nil {
		return nil, nil, deviceError(err)
	}
	c, err := u.Config()
	if err != nil {
		return nil, nil, deviceError(err)
	}
	if u.PINSource != "" {
		c.PIN, err = u.PIN()
	} else {
		var typed string
		typed, err = a.ask("PIN: ")
		c.PIN = secret.Bytes(typed)
	}
	if err != nil {
		return nil, nil, deviceError(err)
	}
	defer c.PIN.Wipe()
	o := remote.Options{Processes: u.Processes, Logger: slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if change != nil {
		change(&c, &o)
	}
	t, err := remote.Open(ctx, c, o)
	if err != nil {
		return nil, nil, deviceError(err)
	}
	if err := u.Matches(t.Describe()); err != nil {
		return nil, nil, deviceError(errors.Join(err, t.Close()))
	}
	return t, u, nil
}

// deviceError gives an error of a token the exit code that the same error of the service has.
func deviceError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, token.ErrPINRefused):
		return &exitError{exitDenied, err.Error() + ": do not try it again before you know why, or the token locks it"}
	case fault.Has(err, fault.BadField), fault.Has(err, fault.MissingField):
		return usage("%w", err)
	case fault.Has(err, fault.BackendUnavailable), fault.Has(err, fault.Overloaded), fault.Has(err, fault.Timeout):
		return &exitError{exitUnavailable, err.Error()}
	case fault.Has(err, fault.PolicyDenied):
		return &exitError{exitDenied, err.Error()}
	}
	return err
}

// cleanup gives a context for what must still be done when a command was interrupted.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}
