package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/hsm/uri"
)

// TestBackendsOfConfig: what cannot be meant is refused before anything is opened.
func TestBackendsOfConfig(t *testing.T) {
	const token = "pkcs11:token=a?module-path=/m.so&pin-source=env:PIN"
	pin := "pkcs11:token=a?module-path=/m.so&pin-value=648219"
	soft := backendConfig{Name: "software", URI: "software:"}
	for name, c := range map[string]struct {
		in   []backendConfig
		want string // the names, or part of the error
		ok   bool
	}{
		"none":              {nil, "software", true},
		"software":          {[]backendConfig{soft}, "software", true},
		"hsm":               {[]backendConfig{{Name: "hsm", URI: token}}, "hsm software", true},
		"upper case":        {[]backendConfig{{Name: "hsm", URI: "PKCS11:" + token[7:]}}, "hsm software", true},
		"order":             {[]backendConfig{{Name: "s", URI: "software:"}, {Name: "hsm", URI: token}}, "s hsm", true},
		"pin from file":     {[]backendConfig{{Name: "hsm", URI: pin, origin: uri.FromFile}}, "hsm software", true},
		"pin from flag":     {[]backendConfig{{Name: "hsm", URI: pin}}, "configuration file only", false},
		"group":             {[]backendConfig{{Name: "hsm", URI: "pkcs11:", PKCS11: pkcs11Config{Members: []memberConfig{{URI: token}, {URI: token}}}}}, "hsm software", true},
		"group with token":  {[]backendConfig{{Name: "hsm", URI: token, PKCS11: pkcs11Config{Members: []memberConfig{{URI: token}}}}}, "pkcs11: alone", false},
		"bad member":        {[]backendConfig{{Name: "hsm", URI: "pkcs11:", PKCS11: pkcs11Config{Members: []memberConfig{{URI: token}, {URI: "pkcs11:"}}}}}, "member 2", false},
		"no module":         {[]backendConfig{{Name: "hsm", URI: "pkcs11:token=a"}}, "module-path", false},
		"twice":             {[]backendConfig{soft, soft}, "two backends", false},
		"two roots":         {[]backendConfig{soft, {Name: "other", URI: "software:"}}, "only one", false},
		"name of the root":  {[]backendConfig{{Name: "software", URI: token}}, "always there", false},
		"more than a colon": {[]backendConfig{{Name: "s", URI: "software:x"}}, "behind the colon", false},
		"scheme":            {[]backendConfig{{Name: "s", URI: "kms:x"}}, "pkcs11: and tpm:", false},
		"no name":           {[]backendConfig{{URI: token}}, "a name", false},
		"no scheme":         {[]backendConfig{{Name: "s", URI: "soft"}}, "a name and a URI", false},
	} {
		k := config{Backends: slices.Clone(c.in)}
		err := k.completeBackends()
		got := ""
		for _, b := range k.Backends {
			got += " " + b.Name
		}
		switch {
		case c.ok && (err != nil || strings.TrimSpace(got) != c.want):
			t.Errorf("%s: %q, %v", name, got, err)
		case !c.ok && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "648219")):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestStoreOfConfig: a store is a URL alone, or a URL with what only PostgreSQL takes.
func TestStoreOfConfig(t *testing.T) {
	for text, want := range map[string]storeConfig{
		"store: sqlite:/x/y.db": {URL: "sqlite:/x/y.db"},
		"store: {url: 'postgres://a@b/c', password_file: /p, schema: s, connections: 3, statement_timeout: 2s}": {
			URL: "postgres://a@b/c", PasswordFile: "/p", Schema: "s", Connections: 3, StatementTimeout: 2 * time.Second},
		"data: /d": {},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := loadConfig(path); err != nil || c.Store != want {
			t.Errorf("%s: %+v, %v", text, c.Store, err)
		}
	}
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("store: {url: x, password: y}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(path); err == nil {
		t.Error("an unknown setting of the store was taken")
	}
}
