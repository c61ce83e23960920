package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// credentialScheme begins the name of a credential that the service manager passes (systemd.exec(5)), wherever a file can be named.
const credentialScheme = "credential:" //nolint:gosec // a scheme

// fileField is a setting that names a file.
type fileField struct {
	path  string // of the field
	value *string
}

// files gives every setting that names a file with something that must be there, or that is written (owner_key_file).
func (c *config) files() []fileField {
	out := []fileField{
		{"owner_key_file", &c.OwnerKeyFile}, {"store.password_file", &c.Store.PasswordFile},
		{"tls.cert_file", &c.TLS.CertFile}, {"tls.key_file", &c.TLS.KeyFile}, {"tls.client_ca_file", &c.TLS.ClientCAFile},
		{"root.key_file", &c.Root.KeyFile}, {"root.passphrase_file", &c.Root.PassphraseFile},
		{"root.tpm.owner_auth_file", &c.Root.TPM.OwnerAuthFile}, {"root.tpm.endorsement_auth_file", &c.Root.TPM.EndorsementAuthFile},
	}
	for i := range c.Backends {
		t, in := &c.Backends[i].TPM, fmt.Sprintf("backends[%d].tpm.", i)
		out = append(out, fileField{in + "owner_auth_file", &t.OwnerAuthFile}, fileField{in + "endorsement_auth_file", &t.EndorsementAuthFile})
	}
	return out
}

// credentials puts the file of each credential in the place of its name.
func (c *config) credentials() error {
	for _, f := range c.files() {
		name, ok := strings.CutPrefix(*f.value, credentialScheme)
		if !ok {
			continue
		}
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return at(f.path, errors.New("it names a credential, and the service manager has passed none ($CREDENTIALS_DIRECTORY is not set)"))
		}
		if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
			return at(f.path, errors.New("a credential is credential:NAME"))
		}
		*f.value = filepath.Join(dir, name)
	}
	return nil
}

// settingError is about one setting.
type settingError struct {
	path string
	err  error
}

func (e *settingError) Error() string { return e.path + ": " + e.err.Error() }
func (e *settingError) Unwrap() error { return e.err }

// at says which setting an error is about.
func at(path string, err error) error {
	if err == nil {
		return nil
	}
	return &settingError{path, err}
}
