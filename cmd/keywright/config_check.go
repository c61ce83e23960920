package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/uri"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/tpm/device"
)

// configCmd is about the service's configuration, without the service.
type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Load and check a configuration file; exit code 7 when the service would not start with it."`
}

type configCheckCmd struct {
	Config  string `help:"The configuration file (YAML)." default:"/etc/keywright/keywright.yaml" placeholder:"FILE" type:"path"`
	Connect bool   `help:"Connect to the database too; exit code 6 when it is not there. Nothing is written."`
}

// The levels of a finding.
const (
	levelError   = "error"   // the service would not start, or not work
	levelWarning = "warning" // it would, and somebody should look
)

// finding is one thing that is not as it should be.
type finding struct {
	Level   string `json:"level"`
	Setting string `json:"setting"` // the path of the field; empty: the file as a whole
	Problem string `json:"problem"`
}

// findings gather. They hold no values of settings but names of files.
type findings struct{ all []finding }

// add takes an error apart into what each setting has to do with.
func (f *findings) add(level, setting string, err error) {
	if err == nil {
		return
	}
	var inner *settingError
	if errors.As(err, &inner) {
		switch e := err.(type) { //nolint:errorlint // the tree is walked from its top
		case *settingError:
			f.add(level, e.path, e.err)
			return
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				f.add(level, setting, one)
			}
			return
		case interface{ Unwrap() error }:
			f.add(level, setting, e.Unwrap())
			return
		}
	}
	text := err.Error()
	if e, ok := err.(*fault.Error); ok && errors.Unwrap(e) == nil { //nolint:errorlint // what is wrapped keeps its words
		text = e.Message // the code is for programs
	}
	f.all = append(f.all, finding{level, setting, strings.ReplaceAll(text, "\n", "; ")})
}

func (f *findings) errors() (n int) {
	for _, one := range f.all {
		if one.Level == levelError {
			n++
		}
	}
	return n
}

// Run prints what it finds.
func (k configCheckCmd) Run(ctx context.Context, a *app) error {
	c, err := loadConfig(k.Config)
	var found findings
	switch {
	case errors.Is(err, errUnreadable):
		return err
	case err != nil:
		found.add(levelError, "", err)
	default:
		found = c.inspect()
	}
	reached := true
	if k.Connect && found.errors() == 0 {
		reached = c.inspectDatabase(ctx, &found)
	}
	result := struct {
		File     string    `json:"file"`
		Findings []finding `json:"findings"`
	}{k.Config, append([]finding{}, found.all...)}
	err = a.show(result, func() error {
		for _, f := range found.all {
			if f.Setting != "" {
				f.Setting += ": "
			}
			if err := a.printf("%s: %s%s\n", f.Level, printable(f.Setting), printable(f.Problem)); err != nil {
				return err
			}
		}
		if found.errors() == 0 {
			return a.printf("%s: the service can start with it\n", printable(k.Config))
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case !reached:
		return &exitError{code: exitUnavailable}
	case found.errors() > 0:
		return &exitError{code: exitInvalid}
	}
	return nil
}

// inspect completes the configuration as a start does, and then looks at everything outside of it that a start would open.
func (c *config) inspect() (f findings) {
	f.add(levelError, "", c.complete(false))
	if _, err := newLogger(c.Log, os.Stderr); err != nil {
		f.add(levelError, "log", err)
	}
	if c.Data != "" {
		c.inspectData(&f)
	}
	rootGiven := true
	for _, file := range c.files() {
		if strings.HasPrefix(*file.value, credentialScheme) {
			*file.value = "" // complete has said that there is none
			rootGiven = rootGiven && !strings.HasPrefix(file.path, "root.")
		}
		if *file.value != "" && file.path != "owner_key_file" {
			f.add(levelError, file.path, regular(*file.value))
		}
	}
	if c.TLS.CertFile != "" && c.TLS.KeyFile != "" {
		c.inspectTLS(&f)
	}
	c.inspectIssuers(&f)
	if rootGiven {
		c.inspectRoot(&f)
	}
	for i := range c.Backends {
		c.Backends[i].inspect(fmt.Sprintf("backends[%d].", i), &f)
	}
	if own := c.Root.own; own != nil {
		own.inspect("root.", &f)
	}
	f.all = distinct(f.all)
	return f
}

// distinct leaves out what was found twice: by completing, and by looking.
func distinct(all []finding) []finding {
	seen := map[finding]bool{}
	out := all[:0]
	for _, one := range all {
		if !seen[one] {
			out = append(out, one)
		}
		seen[one] = true
	}
	return out
}

// regular wants a file that can be opened.
func regular(path string) error {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", path)
	}
	return err
}

// folder wants a folder that is there, or can be made in one that is.
func folder(path string) (os.FileInfo, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		st, err = os.Stat(filepath.Dir(filepath.Clean(path)))
	}
	if err == nil && !st.IsDir() {
		return nil, fmt.Errorf("%s is no folder", path)
	}
	return st, err
}

func (c *config) inspectData(f *findings) {
	_, err := folder(c.Data)
	f.add(levelError, "data", err)
	if st, err := os.Stat(c.Data); err == nil && st.IsDir() && st.Mode().Perm()&0o077 != 0 {
		f.add(levelWarning, "data", fmt.Errorf("others can look into %s (mode %04o): chmod 700 it", c.Data, st.Mode().Perm()))
	}
	if c.OwnerKeyFile != "" {
		if at := filepath.Dir(c.OwnerKeyFile); at != filepath.Clean(c.Data) {
			st, err := os.Stat(at)
			if err == nil && !st.IsDir() {
				err = fmt.Errorf("%s is no folder", at)
			}
			f.add(levelError, "owner_key_file", err)
		}
	}
	if path, err := sqlite.ParseURI(c.Store.URL); err == nil && filepath.Dir(path) != filepath.Clean(c.Data) {
		_, err := os.Stat(filepath.Dir(path))
		f.add(levelError, "store", err)
	}
	if path := c.Store.PasswordFile; path != "" && regular(path) == nil {
		f.add(levelError, "store.password_file", secretLine(path))
	}
}

// soonExpires is from when on a certificate's end is worth a warning.
const soonExpires = 14 * 24 * time.Hour

func (c *config) inspectTLS(f *findings) {
	files, err := c.TLS.files()
	if err != nil {
		return // complete has said so
	}
	_, expires, err := files.Load()
	switch left := time.Until(expires); {
	case err != nil:
		f.add(levelError, "tls", err)
	case left <= 0:
		f.add(levelError, "tls.cert_file", fmt.Errorf("the certificate has expired on %s", expires.UTC().Format(time.DateOnly)))
	case left < soonExpires:
		f.add(levelWarning, "tls.cert_file", fmt.Errorf("the certificate expires on %s", expires.UTC().Format(time.DateOnly)))
	}
}

func (c *config) inspectRoot(f *findings) {
	r := &c.Root
	switch {
	case r.KeyFile != "":
		key, err := root.LoadKeyFile(r.KeyFile)
		key.Wipe()
		if regular(r.KeyFile) == nil {
			f.add(levelError, "root.key_file", err)
		}
	case r.PassphraseFile != "":
		if regular(r.PassphraseFile) == nil {
			f.add(levelError, "root.passphrase_file", secretLine(r.PassphraseFile))
		}
	case r.Device == "":
		f.add(levelWarning, "root", errors.New("nothing opens the root at the start: the first start fails, and each later one waits for keywright unlock or a device with a slot"))
	}
}

// inspect looks at what a backend's opening would: modules, PINs, devices.
func (b *backendConfig) inspect(in string, f *findings) {
	if isTPM(b.URI) {
		b.inspectTPM(in, f)
		return
	}
	if scheme, _, _ := strings.Cut(b.URI, ":"); !strings.EqualFold(scheme+":", uri.Scheme) {
		return
	}
	members, err := b.members()
	if err != nil {
		return // complete has said so
	}
	for i, m := range members {
		field := in + "uri"
		if in == "root." {
			field = "root.device"
		}
		if len(b.PKCS11.Members) > 0 {
			field = fmt.Sprintf("%spkcs11.members[%d].uri", in, i)
		}
		if err := regular(m.uri.ModulePath); err != nil {
			f.add(levelError, field, fmt.Errorf("the PKCS#11 module: %w", err))
		}
		pin, err := m.uri.PIN()
		pin.Wipe()
		f.add(levelError, field, err)
	}
}

func (b *backendConfig) inspectTPM(in string, f *findings) {
	o, err := b.tpmOptions()
	if err != nil {
		return // complete has said so
	}
	field := in + "uri"
	if in == "root." {
		field = "root.device"
	}
	if o.URI.Network != device.TCP {
		if _, err := os.Stat(o.URI.Address); err != nil {
			level := levelWarning // it is waited for, once it has been open
			if b.TPM.Required {
				level = levelError
			}
			f.add(level, field, fmt.Errorf("the TPM: %w", err))
		}
	}
	for _, one := range []struct{ field, path string }{
		{"tpm.owner_auth_file", b.TPM.OwnerAuthFile}, {"tpm.endorsement_auth_file", b.TPM.EndorsementAuthFile}, {"uri", o.URI.OwnerAuthSource},
	} {
		line, err := authFile(one.path)
		line.Wipe()
		f.add(levelError, in+one.field, err)
	}
	_, err = b.TPM.Policy.policy()
	f.add(levelError, in+"tpm.policy", err)
}

// inspectDatabase asks the database, and reports whether it was there to be asked.
func (c *config) inspectDatabase(ctx context.Context, f *findings) bool {
	if !postgres.IsURI(c.Store.URL) {
		return true
	}
	_, err := postgres.Probe(ctx, c.Store.URL, postgres.Options{PasswordFile: c.Store.PasswordFile, Schema: c.Store.Schema})
	f.add(levelError, "store", err)
	return !fault.Has(err, fault.StoreUnavailable)
}
