package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/keywright/keywright/tpm/device"
)

type tpmInitCmd struct {
	tpmDevice
	Handle string `placeholder:"HANDLE" help:"Keep the storage parent in the TPM under this handle, as in 0x81000001: starts are faster then, and need no owner password."`
	Data   string `placeholder:"DIR" type:"path" help:"Pin the TPM in this data folder of a service, whose first start then takes no other."`
	Name   string `default:"tpm" placeholder:"NAME" help:"With --data, the backend's name (default ${default}); root for a TPM that --root-slot names by its URI."`
}

// tpmInitialised is the TPM that was prepared.
type tpmInitialised struct {
	Parent string `json:"parent"`
	Handle string `json:"handle"`
	EK     string `json:"ek"`
	Pinned string `json:"pinned,omitempty"` // the file
}

// Run does what the service does at its first start, so that a TPM can be prepared, and pinned, before that.
func (k tpmInitCmd) Run(ctx context.Context, a *app) (err error) {
	pins := tpmPins{path: filepath.Join(k.Data, tpmPinsFile), backend: k.Name}
	var pin *tpmPin
	if k.Data != "" {
		if pin, err = pins.read(); err != nil {
			return err
		}
	}
	var handle uint32
	d, err := k.open(ctx, a, func(o *device.Options) (err error) {
		if k.Handle != "" {
			if o.ParentHandle, err = persistentHandle(k.Handle); err != nil {
				return usage("--handle: %w", err)
			}
		}
		if handle = o.ParentHandle; pin != nil {
			o.ParentName, o.EKName = pin.Parent, pin.EK
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	info := d.Info()
	if handle != 0 && info.ParentHandle != handle {
		return &exitError{exitFailure, "the TPM has no room for a persistent object: nothing was kept, and the service works without (tpm2_evictcontrol removes one that nobody needs)"}
	}
	ek, err := d.EKName(ctx)
	if err != nil {
		return tpmError(err)
	}
	out := tpmInitialised{Parent: hex.EncodeToString(info.ParentName), Handle: fmt.Sprintf("0x%08x", info.ParentHandle), EK: hex.EncodeToString(ek)}
	if k.Data != "" {
		fresh := tpmPin{Parent: info.ParentName, EK: ek}
		if pin != nil {
			fresh.Info = pin.Info
		}
		if pin == nil || !slices.Equal(pin.EK, fresh.EK) {
			if err := os.MkdirAll(k.Data, 0o700); err != nil {
				return fmt.Errorf("making the data folder: %w", err)
			}
			if err := pins.write(new(remembering), fresh); err != nil {
				return err
			}
		}
		out.Pinned = pins.path
	}
	return a.show(out, func() error {
		return a.fields("storage parent", out.Parent, "its handle", out.Handle, "endorsement key", out.EK, "pinned in", out.Pinned)
	})
}
