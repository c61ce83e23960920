package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/backend"
)

// tpmPinsFile is where the data folder has which TPM each backend is on. It holds no secrets; without it the next start takes the TPM that it finds, unless the
// configuration says which one it is to be.
const tpmPinsFile = "tpm.json"

// tpmPins is the pin of one backend.
type tpmPins struct {
	path    string
	backend string
}

// tpmPin is what the file has of a backend.
type tpmPin struct {
	Parent hexBytes      `json:"parent"`         // Name of the storage parent
	EK     hexBytes      `json:"ek,omitempty"`   // Name of the endorsement key; empty: the TPM did not make one
	Info   *backend.Info `json:"info,omitempty"` // of the backend, so that a service can start while the TPM is not there
}

// hexBytes are written as people compare them.
type hexBytes []byte

// MarshalText gives hexadecimal digits.
func (h hexBytes) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", []byte(h)), nil }

// UnmarshalText takes a Name, or nothing.
func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := objectName("a Name", string(text))
	*h = b
	return err
}

func (p tpmPins) all() (map[string]tpmPin, error) {
	text, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]tpmPin{}, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string]tpmPin{}
	if err := json.Unmarshal(text, &all, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%s is not what an earlier start wrote (restore it, or name the TPM by tpm.parent in the configuration and remove it): %w", p.path, err)
	}
	return all, nil
}

// read gives the backend's pin, nil where there is none.
func (p tpmPins) read() (*tpmPin, error) {
	all, err := p.all()
	if err != nil {
		return nil, err
	}
	if pin, ok := all[p.backend]; ok && len(pin.Parent) > 0 {
		return &pin, nil
	}
	return nil, nil //nolint:nilnil // not pinned is no error
}

// write replaces the backend's pin. lock keeps other backends out.
func (p tpmPins) write(lock *remembering, pin tpmPin) error {
	lock.mu.Lock()
	defer lock.mu.Unlock()
	all, err := p.all()
	if err != nil {
		return err
	}
	all[p.backend] = pin
	text, err := json.Marshal(all, json.Deterministic(true), jsontext.WithIndent("\t"))
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(p.path); err == nil && string(old) == string(text) {
		return nil
	}
	if err := replaceFile(p.path, text); err != nil {
		return fmt.Errorf("pinning the TPM: %w", err)
	}
	return nil
}
