package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

var starter = root.Caller{Principal: "system"}

// openRoot opens the root by what is configured, and makes it at the very first start. With nothing configured the service
// starts locked. With dev a missing key file is made, but only while there is no root yet.
func openRoot(ctx context.Context, k *root.Keeper, c rootConfig, dev bool, log *slog.Logger) error {
	slots, err := k.Slots(ctx)
	if err != nil {
		return fmt.Errorf("reading the root slots: %w", err)
	}
	switch first := len(slots) == 0; {
	case c.KeyFile != "":
		return byKeyFile(ctx, k, c.KeyFile, first, dev, log)
	case c.PassphraseFile != "":
		return byPassphrase(ctx, k, c.PassphraseFile, first)
	case first:
		return errors.New("there is no root yet: configure root.key_file (made by keywright root new-key-file) or root.passphrase_file for the first start")
	}
	log.Info("the service is locked: keywright unlock opens it", "slots", len(slots))
	return nil
}

func byKeyFile(ctx context.Context, k *root.Keeper, path string, first, dev bool, log *slog.Logger) error {
	key, err := root.LoadKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) && dev {
		if !first {
			log.Warn("the key file is missing, so the service starts locked: keywright unlock opens it", "file", path)
			return nil
		}
		key, err = root.NewKeyFile(path)
	}
	if err != nil {
		return fmt.Errorf("root key file: %w", err)
	}
	defer key.Wipe()
	if first {
		_, err := k.Init(ctx, starter, root.NewSlot{Kind: root.KindKeyFile, Label: "first start", KeyFile: key})
		return err
	}
	return opened(k.UnlockKeyFile(ctx, starter, key), path)
}

func byPassphrase(ctx context.Context, k *root.Keeper, path string, first bool) error {
	if err := ownerOnly(path); err != nil {
		return fmt.Errorf("root passphrase file: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("root passphrase file: %w", err)
	}
	defer clear(b)
	line, _, _ := bytes.Cut(b, []byte("\n"))
	passphrase := secret.Bytes(bytes.TrimSuffix(line, []byte("\r")))
	if first {
		_, err := k.Init(ctx, starter, root.NewSlot{Kind: root.KindPassphrase, Label: "first start", Passphrase: passphrase})
		return err
	}
	return opened(k.UnlockPassphrase(ctx, starter, passphrase), path)
}

// opened says which file did not open the root.
func opened(err error, path string) error {
	if fault.Has(err, fault.WrongSecret) {
		return fmt.Errorf("%s opens no slot of this store's root: it is of another deployment, or its slot was removed; start without it and unlock by another slot: %w", path, err)
	}
	return err
}
