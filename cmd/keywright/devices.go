package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/hsm/uri"
	"github.com/keywright/keywright/root"
)

// rootDeviceName is how the device that is opened for the root alone is called.
const rootDeviceName = "root"

// isDevice reports whether a URI is one of a device.
func isDevice(address string) bool {
	scheme, _, ok := strings.Cut(address, ":")
	return ok && strings.EqualFold(scheme+":", uri.Scheme) || isTPM(address)
}

// openBackend opens one backend. This is where the scheme of its URI decides.
func (n *node) openBackend(ctx context.Context, b *backendConfig, registry prometheus.Registerer) (backend.Backend, error) {
	scheme, _, _ := strings.Cut(b.URI, ":")
	switch strings.ToLower(scheme) + ":" {
	case schemeSoftware:
		return software.Open(ctx, software.Options{Name: b.Name, DeriveAt: n.root.DeriveAt, Generation: n.root.Generation,
			Capacity: n.config.Cache.Material, Bytes: n.config.Cache.materialBytes(), Held: &n.held, TTL: n.config.Cache.MaterialTTL, Registerer: registry})
	case uri.Scheme:
		return n.openHSM(ctx, b, registry)
	case schemeTPM:
		return n.openTPM(ctx, b, registry)
	}
	return nil, errors.New("this build opens software:, pkcs11: and tpm: only")
}

// completeRoot refuses what cannot open a root, and settles which device is meant.
func (c *config) completeRoot() error {
	r := &c.Root
	given := 0
	for _, s := range []string{r.KeyFile, r.PassphraseFile, r.Device} {
		if s != "" {
			given++
		}
	}
	if given > 1 {
		return errors.New("root: give one of key_file, passphrase_file and device; more slots are added while running")
	}
	if r.TPM != (tpmConfig{}) && !isTPM(r.Device) {
		return errors.New("root.tpm is for a device that is a TPM's URI; a backend has its own tpm")
	}
	if r.Device == "" {
		return nil
	}
	for _, b := range c.Backends {
		switch {
		case b.Name == r.Device && isDevice(b.URI):
			return nil
		case b.Name == r.Device:
			return fmt.Errorf("the root's device: %s is no device, but sealed by the root itself", r.Device)
		}
	}
	if !isDevice(r.Device) {
		return errors.New("the root's device is the name of a configured HSM or TPM, a PKCS#11 URI, or one as in tpm:/dev/tpmrm0")
	}
	own := &backendConfig{Name: rootDeviceName, URI: r.Device, TPM: r.TPM, origin: r.origin}
	if shared, err := c.checkRootDevice(own); err != nil {
		return fmt.Errorf("the root's device: %w", err)
	} else if shared != "" && r.TPM != (tpmConfig{}) {
		return fmt.Errorf("the root's device: the TPM is that of backend %s, whose tpm counts: root.tpm must be empty", shared)
	} else if shared != "" {
		r.Device = shared
		return nil
	}
	for _, b := range c.Backends {
		if b.Name == rootDeviceName {
			return errors.New("the name root is for the device that is opened for the root alone: call the backend something else")
		}
	}
	r.own, r.Device = own, rootDeviceName
	return nil
}

// checkRootDevice checks what is to be opened for the root alone. A TPM that is a backend already is not opened twice: it has one owner; its name is given.
func (c *config) checkRootDevice(own *backendConfig) (shared string, err error) {
	if !isTPM(own.URI) {
		_, err := own.members()
		return "", err
	}
	o, err := own.tpmOptions()
	if err != nil {
		return "", err
	}
	for i := range c.Backends {
		if b := &c.Backends[i]; isTPM(b.URI) {
			if other, err := b.tpmOptions(); err == nil && other.URI.Address == o.URI.Address {
				return b.Name, nil
			}
		}
	}
	return "", nil
}

// attach makes a backend that is a device known to the root, for slots on it. The software backend is none: it is sealed by the root.
func (n *node) attach(name string, b backend.Backend) error {
	kind := root.Kind(b.Info().Kind)
	s, ok := b.(backend.Sealer)
	if !ok || !kind.OnDevice() {
		return nil
	}
	return n.root.Attach(name, kind, rootDevice{b, s})
}

// rootDevice is a backend as the root needs it.
type rootDevice struct {
	backend backend.Backend
	backend.Sealer
}

var _ root.Device = rootDevice{}

func (d rootDevice) ID() string { return d.backend.Info().ID }
