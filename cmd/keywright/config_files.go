package main

import (
	"bytes"
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
		{"webhooks.ca_file", &c.Webhooks.CAFile},
		{"root.key_file", &c.Root.KeyFile}, {"root.passphrase_file", &c.Root.PassphraseFile},
		{"root.tpm.owner_auth_file", &c.Root.TPM.OwnerAuthFile}, {"root.tpm.endorsement_auth_file", &c.Root.TPM.EndorsementAuthFile},
	}
	for i := range c.Audit.Sinks {
		k, in := &c.Audit.Sinks[i], fmt.Sprintf("audit.sinks[%d].", i)
		out = append(out, fileField{in + "token_file", &k.TokenFile}, fileField{in + "ca_file", &k.CAFile})
	}
	for i := range c.Credentials.Issuers {
		k, in := &c.Credentials.Issuers[i], fmt.Sprintf("credentials.issuers[%d].", i)
		out = append(out, fileField{in + "ca_file", &k.CAFile}, fileField{in + "client_secret_file", &k.ClientSecretFile})
	}
	for i := range c.Backends {
		t, in := &c.Backends[i].TPM, fmt.Sprintf("backends[%d].tpm.", i)
		out = append(out, fileField{in + "owner_auth_file", &t.OwnerAuthFile}, fileField{in + "endorsement_auth_file", &t.EndorsementAuthFile})
	}
	return out
}

// credentials puts the file of each credential in the place of its name. What cannot be found is left as it is.
func (c *config) credentials() error {
	var errs []error
	for _, f := range c.files() {
		name, ok := strings.CutPrefix(*f.value, credentialScheme)
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		switch {
		case !ok:
		case dir == "":
			errs = append(errs, at(f.path, errors.New("it names a credential, and the service manager has passed none ($CREDENTIALS_DIRECTORY is not set)")))
		case name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/'):
			errs = append(errs, at(f.path, errors.New("a credential is credential:NAME")))
		default:
			*f.value = filepath.Join(dir, name)
		}
	}
	return errors.Join(errs...)
}

// secretLine wants a file with a secret in its first line, that nobody else can read.
func secretLine(path string) error {
	if err := ownerOnly(path); err != nil {
		return err
	}
	b, err := readSmall(path, 4096)
	if err != nil {
		return err
	}
	defer clear(b)
	if line, _, _ := bytes.Cut(b, []byte("\n")); len(bytes.TrimSuffix(line, []byte("\r"))) == 0 {
		return fmt.Errorf("the first line of %s is empty", path)
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

// at says which setting an error is about, unless it says so itself.
func at(path string, err error) error {
	var closer *settingError
	if err == nil || errors.As(err, &closer) {
		return err
	}
	return &settingError{path, err}
}
