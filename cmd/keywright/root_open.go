package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

var starter = root.Caller{Principal: "system"}

// deviceTime is how long the start waits for the devices to open the root. They are tried on afterwards.
const deviceTime = 10 * time.Second

// openRoot opens the root by a device that has a slot, else by what is configured, and makes it at the very first start. Where nothing opens it the service
// starts locked. With dev a missing key file is made, but only while there is no root yet.
func openRoot(ctx context.Context, k *root.Keeper, c rootConfig, dev bool, log *slog.Logger) error {
	slots, err := k.Slots(ctx)
	if err != nil {
		return fmt.Errorf("reading the root slots: %w", err)
	}
	first := len(slots) == 0
	if !first {
		if err := byDevices(ctx, k, slots); err != nil || !k.Locked() {
			return err
		}
	}
	switch {
	case c.KeyFile != "":
		return byKeyFile(ctx, k, c.KeyFile, first, dev, log)
	case c.PassphraseFile != "":
		return byPassphrase(ctx, k, c.PassphraseFile, first)
	case first && c.Device != "":
		if _, err := k.Init(ctx, starter, root.NewSlot{Device: c.Device, Label: "first start"}); err != nil {
			return fmt.Errorf("making the root on the device %s: %w", c.Device, err)
		}
		return nil
	case first:
		return errors.New("there is no root yet: configure root.key_file (made by keywright root new-key-file), root.passphrase_file or root.device for the first start")
	}
	if id := k.DeviceID(c.Device); id != "" && !slices.ContainsFunc(slots, func(s *root.Slot) bool { return s.Device() == id }) {
		log.Warn("the root has no slot on the configured device: unlock the service, then keywright root add device makes one", "device", c.Device, "id", id)
	}
	onDevices := 0
	for _, s := range slots {
		if s.Kind.OnDevice() {
			onDevices++
		}
	}
	log.Warn("the service is locked: keywright unlock opens it, and so does a device with a slot as soon as it is there", "slots", len(slots), "on_devices", onDevices)
	return nil
}

// byDevices opens the root by a device. That none does is no error here: why is in the log, and they are tried again.
func byDevices(ctx context.Context, k *root.Keeper, slots []*root.Slot) error {
	if !slices.ContainsFunc(slots, func(s *root.Slot) bool { return s.Kind.OnDevice() }) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, deviceTime)
	defer cancel()
	err := k.UnlockDevices(ctx, starter)
	if fault.Has(err, fault.BackendUnavailable) || fault.Has(err, fault.KeyMaterial) {
		return nil
	}
	return err
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
