package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/hsm/uri"
)

type hsmListCmd struct {
	Module     []string `arg:"" optional:"" placeholder:"MODULE" help:"Paths of PKCS#11 modules; none: those that are found where packages and vendors put them." type:"path"`
	URI        string   `placeholder:"URI" help:"Show only the tokens that match; its module-path is the module."`
	Mechanisms bool     `help:"Show the mechanisms of each token too."`
}

// knownModules are where packages and vendors put modules; * stands for the architecture's folder. Read-only.
var knownModules = []string{
	"/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
	"/usr/lib/*/opencryptoki/libopencryptoki.so", "/usr/lib/opencryptoki/libopencryptoki.so", "/usr/lib64/opencryptoki/libopencryptoki.so",
	"/usr/lib/*/libykcs11.so", "/usr/lib/*/pkcs11/yubihsm_pkcs11.so", "/usr/lib/*/opensc-pkcs11.so", "/usr/lib/*/libtpm2_pkcs11.so*",
	"/usr/safenet/lunaclient/lib/libCryptoki2_64.so", "/opt/nfast/toolkits/pkcs11/libcknfast.so", "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
	"/opt/utimaco/lib/libcs_pkcs11_R3.so", "/usr/lib/*/pkcs11/p11-kit-client.so",
}

// inspected is a module that was looked at, or why not.
type inspected struct {
	token.Inventory
	Error string `json:"error,omitempty"`
}

func (k hsmListCmd) Run(ctx context.Context, a *app) error {
	var u *uri.URI
	if k.URI != "" {
		var err error
		if u, err = uri.Parse(k.URI, uri.FromFlag); err != nil {
			return deviceError(err)
		}
	}
	named := k.Module
	if u != nil && u.ModulePath != "" {
		named = append(named, u.ModulePath)
	}
	paths := named
	if len(paths) == 0 {
		paths = findModules()
	}
	if len(paths) == 0 {
		return &exitError{exitNotFound, "no PKCS#11 module is where they usually are: name its path"}
	}
	var failed []error
	modules := make([]inspected, 0, len(paths))
	for _, path := range paths {
		args := ""
		if u != nil {
			args = u.InitArgs
		}
		found, err := inspect(ctx, path, args)
		m := inspected{Inventory: found}
		m.Module = path
		if err != nil {
			m.Error = err.Error()
			if len(named) > 0 {
				failed = append(failed, fmt.Errorf("%s: %w", path, err))
			}
		}
		if m.Slots = match(m.Slots, u); m.Slots == nil {
			m.Slots = []token.SlotInventory{}
		}
		modules = append(modules, m)
	}
	err := a.show(map[string]any{"modules": modules}, func() error { return k.print(a, modules) })
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		return &exitError{exitUnavailable, errors.Join(failed...).Error()}
	}
	return nil
}

// findModules gives the known modules that are there, each file once.
func findModules() []string {
	var out []string
	seen := map[string]bool{}
	for _, pattern := range knownModules {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // the patterns are constants
		}
		for _, path := range found {
			real, err := filepath.EvalSymlinks(path)
			if st, serr := os.Stat(path); err != nil || serr != nil || !st.Mode().IsRegular() || seen[real] {
				continue
			}
			seen[real] = true
			out = append(out, path)
		}
	}
	return out
}

// match keeps the slots whose token is the one of the URI.
func match(slots []token.SlotInventory, u *uri.URI) []token.SlotInventory {
	if u == nil || u.Token+u.Serial+u.Manufacturer+u.Model == "" {
		return slots
	}
	var out []token.SlotInventory
	for _, s := range slots {
		fits := s.Token
		for _, p := range [][2]string{{u.Token, s.Label}, {u.Serial, s.Serial}, {u.Manufacturer, s.Manufacturer}, {u.Model, s.Model}} {
			fits = fits && (p[0] == "" || strings.TrimRight(p[0], " ") == p[1])
		}
		if fits {
			out = append(out, s)
		}
	}
	return out
}

func (k hsmListCmd) print(a *app, modules []inspected) error {
	for i, m := range modules {
		if i > 0 {
			if err := a.printf("\n"); err != nil {
				return err
			}
		}
		if err := a.fields("module", printable(m.Module), "library", printable(m.Library), "manufacturer", printable(m.Maker), "PKCS#11", m.Cryptoki, "error", printable(m.Error)); err != nil {
			return err
		}
		if m.Error != "" || len(m.Slots) == 0 {
			continue
		}
		rows := func(yield func(token.SlotInventory, error) bool) {
			for _, s := range m.Slots {
				if !yield(s, nil) {
					return
				}
			}
		}
		err := list(a, rows, []string{"SLOT", "TOKEN", "SERIAL", "MANUFACTURER", "MODEL", "FLAGS", "MECHANISMS"}, func(s token.SlotInventory) []string {
			if !s.Token {
				return []string{strconv.FormatUint(uint64(s.Slot), 10), "-", "", "", "", "", ""}
			}
			return []string{strconv.FormatUint(uint64(s.Slot), 10), printable(s.Label), printable(s.Serial), printable(s.Manufacturer), printable(s.Model),
				strings.Join(s.Flags, ","), strconv.Itoa(len(s.Mechanisms))}
		})
		if err != nil {
			return err
		}
		for _, s := range m.Slots {
			if !k.Mechanisms || !s.Token {
				continue
			}
			if err := a.printf("\nslot %d, %s\n", s.Slot, printable(s.Label)); err != nil {
				return err
			}
			if err := printMechanisms(a, s.Mechanisms); err != nil {
				return err
			}
		}
	}
	return nil
}

func printMechanisms(a *app, mechanisms []token.MechanismEntry) error {
	rows := func(yield func(token.MechanismEntry, error) bool) {
		for _, m := range mechanisms {
			if !yield(m, nil) {
				return
			}
		}
	}
	return list(a, rows, []string{"MECHANISM", "MIN", "MAX", "USES"}, func(m token.MechanismEntry) []string {
		return []string{m.Name, strconv.FormatUint(uint64(m.MinSize), 10), strconv.FormatUint(uint64(m.MaxSize), 10), strings.Join(m.Uses, ",")}
	})
}
