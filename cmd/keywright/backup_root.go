package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/hsm/uri"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

// rootSecret is what opens the root of a backup: the slots are in its header.
type rootSecret struct {
	passphrase
	RootKeyFile string `placeholder:"FILE" help:"Open the root with this key file."`
	SharesFile  string `placeholder:"FILE" help:"Open the root with the Shamir shares in this file, one on each line."`
	RootSlot    string `placeholder:"URI" help:"Open the root by this device: pkcs11:token=prod?module-path=/M.so&pin-source=file:/PIN, or tpm:/dev/tpmrm0."`
	Config      string `placeholder:"FILE" type:"path" help:"Open the root by the devices of this configuration of the service."`
}

// given reports whether any way to open the root was named.
func (k rootSecret) given() bool {
	return k.PassphraseFile != "" || k.RootKeyFile != "" || k.SharesFile != "" || k.RootSlot != "" || k.Config != ""
}

// open gives the backup key of the root that the header's slots open.
func (k rootSecret) open(ctx context.Context, a *app, h *backup.Header) (secret.Bytes, error) {
	n := 0
	for _, given := range []bool{k.PassphraseFile != "", k.RootKeyFile != "", k.SharesFile != "", k.RootSlot != ""} {
		if given {
			n++
		}
	}
	if n > 1 {
		return nil, usage("give one of --passphrase-file, --root-key-file, --shares-file and --root-slot")
	}
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	harden(log) // this process is about to hold the root
	store := headerSlots{generation: h.Generation}
	for _, s := range h.Slots {
		store.slots = append(store.slots, &root.Slot{ID: s.ID, Kind: root.Kind(s.Kind), Label: s.Label, Params: s.Params, Sealed: s.Sealed,
			CreatedAt: s.CreatedAt, Generation: h.Generation})
	}
	keeper := root.New(store, unrecorded{}, root.Options{Logger: log})
	defer keeper.Close()
	var err error
	switch {
	case k.RootSlot != "" || n == 0 && k.Config != "":
		err = k.byDevice(ctx, keeper, log)
	case k.RootKeyFile != "":
		var key secret.Bytes
		if key, err = root.LoadKeyFile(k.RootKeyFile); err == nil {
			err = keeper.UnlockKeyFile(ctx, starter, key)
			key.Wipe()
		}
	case k.SharesFile != "":
		var shares []string
		var missing int
		if shares, err = readShares(a, k.SharesFile); err == nil {
			if missing, err = keeper.UnlockShares(ctx, starter, shares); err == nil && missing > 0 {
				err = &exitError{exitDenied, fmt.Sprintf("%d more shares are needed", missing)}
			}
		}
	default:
		var text string
		if text, err = k.get(a, "passphrase of the root", false); err == nil {
			phrase := secret.Bytes(text)
			err = keeper.UnlockPassphrase(ctx, starter, phrase)
			phrase.Wipe()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the root of the backup: %w", err)
	}
	return keeper.Derive(backup.Label)
}

// byDevice opens the root by the devices that are named: those of a configuration, or one for the root alone.
func (k rootSecret) byDevice(ctx context.Context, keeper *root.Keeper, log *slog.Logger) (err error) {
	var c config
	if k.Config != "" {
		if c, err = loadConfig(k.Config); err != nil {
			return err
		}
		if err := c.complete(false); err != nil {
			return usage("%w", err)
		}
	}
	if k.RootSlot != "" {
		c.Backends, c.Root = nil, rootConfig{Device: k.RootSlot, origin: uri.FromFlag}
		if err := c.completeRoot(); err != nil {
			return usage("%w", err)
		}
	}
	n := &node{config: c, log: log, root: keeper}
	defer func() { err = errors.Join(err, n.close()) }()
	n.powerOn()
	if _, err := n.openBackends(ctx, prometheus.NewRegistry()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deviceTime)
	defer cancel()
	return keeper.UnlockDevices(ctx, starter)
}

// headerSlots are the slots in the header of a backup, as a Keeper reads them. Nothing of them is changed.
type headerSlots struct {
	root.Store
	generation uint32
	slots      []*root.Slot
}

func (h headerSlots) Slots(context.Context) ([]*root.Slot, error) { return h.slots, nil }

func (h headerSlots) Keyring(context.Context) (uint32, []*root.Kept, error) {
	return h.generation, nil, nil
}

// unrecorded is the log of a command that opens the root of a file: there is none yet to record in.
type unrecorded struct{}

func (unrecorded) Record(context.Context, *audit.Entry, ...audit.Change) (uint64, error) {
	return 0, nil
}
