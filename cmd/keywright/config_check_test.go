package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/knadh/koanf/parsers/yaml"

	"github.com/keywright/keywright/root"
)

const example = "../../deploy/keywright.yaml"

// switchedOff are the lines of the example that are settings behind a #.
var switchedOff = regexp.MustCompile(`(?m)^#([a-z_]+:|  +\S)`)

// settings gives the names of all settings of a type and of what it has inside, by type.
func settings(t reflect.Type, into map[string]bool) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for f := range t.Fields() {
		if name := f.Tag.Get("koanf"); name != "" {
			into[t.Name()+"."+name] = true
			settings(f.Type, into)
		}
	}
}

// present takes away what a document has of settings.
func present(t reflect.Type, value any, missing map[string]bool) {
	if list, ok := value.([]any); ok && t.Kind() == reflect.Slice {
		for _, one := range list {
			present(t.Elem(), one, missing)
		}
		return
	}
	m, ok := value.(map[string]any)
	if t.Kind() != reflect.Struct || !ok {
		return
	}
	for f := range t.Fields() {
		if v, there := m[f.Tag.Get("koanf")]; there {
			delete(missing, t.Name()+"."+f.Tag.Get("koanf"))
			present(f.Type, v, missing)
		}
	}
}

// TestExampleIsComplete: no setting without its place in the example, switched on or off, and no line there that is none.
func TestExampleIsComplete(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	all := string(switchedOff.ReplaceAll(text, []byte("$1")))
	all = strings.Replace(all, "\n  url: sqlite:", "\n  #url: sqlite:", 1) // the two stores exclude each other
	document, err := yaml.Parser().Unmarshal([]byte(all))
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	settings(reflect.TypeFor[config](), missing)
	if len(missing) < 60 {
		t.Fatalf("only %d settings are found", len(missing))
	}
	present(reflect.TypeFor[config](), document, missing)
	for name := range missing {
		t.Errorf("%s is not in deploy/keywright.yaml", name)
	}
	path := filepath.Join(t.TempDir(), "all.yaml")
	if err := os.WriteFile(path, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(path); err != nil {
		t.Errorf("with everything switched on: %v", err)
	}
}

// TestEveryFileIsChecked: a setting that names a file is among those that are resolved and looked at.
func TestEveryFileIsChecked(t *testing.T) {
	c := config{Backends: make([]backendConfig, 1), Audit: auditConfig{Sinks: make([]sinkConfig, 1)}, Credentials: credentialsConfig{Issuers: make([]issuerConfig, 1)}}
	var have []string
	for _, f := range c.files() {
		have = append(have, f.path)
	}
	var walk func(reflect.Type, string)
	walk = func(ty reflect.Type, at string) {
		if ty.Kind() == reflect.Slice {
			ty, at = ty.Elem(), at+"[0]"
		}
		if ty.Kind() != reflect.Struct {
			if strings.HasSuffix(at, "_file") && !slices.Contains(have, at) {
				t.Errorf("%s is not among config.files", at)
			}
			return
		}
		for f := range ty.Fields() {
			if name := f.Tag.Get("koanf"); name != "" {
				walk(f.Type, strings.TrimPrefix(at+"."+name, "."))
			}
		}
	}
	walk(reflect.TypeFor[config](), "")
}

// TestExampleChecks: the example as it is needs the folders and the credential that it names, and nothing else.
func TestExampleChecks(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := filepath.Join(dir, "keywright.yaml")
	for name, content := range map[string]string{"root-passphrase": "correct horse battery staple\n", "keywright.yaml": strings.ReplaceAll(string(text), "/var/lib/keywright", dir+"/data")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if found := c.inspect(); len(found.all) != 0 {
		t.Errorf("%+v", found.all)
	}
	if err := os.Remove(filepath.Join(dir, "root-passphrase")); err != nil {
		t.Fatal(err)
	}
	if found := c.inspect(); found.errors() != 1 || found.all[0].Setting != "root.passphrase_file" {
		t.Errorf("%+v", found.all)
	}
}

// TestFindings: each mistake is found, under the path of its setting, and none keeps another from being found.
func TestFindings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := root.NewKeyFile(filepath.Join(dir, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	open := file("open", "secret")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder
		t.Fatal(err)
	}
	pin := file("pin", "648219\n")
	good := "data: " + dir + "\nroot: {key_file: " + dir + "/root.key}\n"
	for name, c := range map[string]struct {
		text string
		want []string // LEVEL SETTING: part of the problem
	}{
		"good":            {good, nil},
		"nothing":         {"{}", []string{"error data: no data folder", "warning root: nothing opens"}},
		"no root":         {"data: " + dir, []string{"warning root: nothing opens"}},
		"unknown":         {good + "surprise: 1\nlog: {colour: red}\n", []string{"error log.colour: no such setting", "error surprise: no such setting"}},
		"types":           {good + "limits: {connections: many, header_kib: 1}\nlisten: [{address: 127.0.0.1:1, mode: 0660}]\n", []string{"error limits.connections: expected", "error listen[0].mode: expected"}},
		"data":            {"data: " + dir + "/a/b\nroot: {key_file: " + dir + "/root.key}", []string{"error data: no such file"}},
		"root key":        {"data: " + dir + "\nroot: {key_file: " + pin + "}", []string{"error root.key_file: not of the form"}},
		"root key mode":   {"data: " + dir + "\nroot: {key_file: " + open + "}", []string{"error root.key_file: readable by its owner alone"}},
		"passphrase":      {"data: " + dir + "\nroot: {passphrase_file: " + file("empty", "\n") + "}", []string{"error root.passphrase_file: empty"}},
		"witness key":     {good + "audit: {witnesses: [{key: x, url: \"https://w.example\"}]}", []string{"error audit.witnesses: malformed"}},
		"witness address": {good + "audit: {witnesses: [{key: x, url: w.example}]}", []string{"error audit.witnesses[0]: not an http"}},
		"two roots":       {good + "x: 1", []string{"error x: no such"}},
		"no credentials":  {good + "tls: {cert_file: credential:a, key_file: credential:b}", []string{"error tls.cert_file: passed none", "error tls.key_file: passed none"}},
		"plain HTTP":      {good + "listen: 0.0.0.0:8200", []string{"error listen[0]: refusing plain HTTP"}},
		"limits":          {good + "limits: {read_time: -1s}", []string{"error limits: not negative"}},
		"cors":            {good + "cors: {origins: ['*']}", []string{"error cors.origins: exactly"}},
		"log":             {good + "log: {level: loud}", []string{"error log: level"}},
		"store":           {good + "store: mysql://x", []string{"error store: sqlite:"}},
		"store folder":    {good + "store: sqlite:" + dir + "/no/db", []string{"error store: no such file"}},
		"store password":  {good + "store: {url: 'postgres://a@b/c', password_file: " + open + "}", []string{"error store.password_file: read by others"}},
		"store in clear":  {good + "store: 'postgres://a:hush@b/c'", []string{"error store: holds a password"}},
		"store CA":        {good + "store: 'postgres://a@b/c?sslrootcert=/none'", []string{"error store: a file that it names"}},
		"TLS":             {good + "tls: {cert_file: " + pin + ", key_file: " + open + "}", []string{"error tls: read by others"}},
		"TLS half":        {good + "tls: {cert_file: " + pin + "}", []string{"error tls: both"}},
		"two backends":    {good + "backends: [{name: a, uri: 'x:'}, {name: b, uri: 'tpm:relative'}]", []string{"error backends[0]: this build", "error backends[1]: a TPM's URI"}},
		"module":          {good + "backends: [{name: a, uri: 'pkcs11:token=a?module-path=/none.so&pin-source=file:" + pin + "'}]", []string{"error backends[0].uri: module"}},
		"pin":             {good + "backends: [{name: a, uri: 'pkcs11:token=a?module-path=" + pin + "&pin-source=file:/none'}]", []string{"error backends[0].uri: pin-source"}},
		"pin mode":        {good + "backends: [{name: a, uri: 'pkcs11:token=a?module-path=" + pin + "&pin-source=file:" + open + "'}]", []string{"error backends[0].uri: read by others"}},
		"member":          {good + "backends: [{name: a, uri: 'pkcs11:', pkcs11: {members: [{uri: 'pkcs11:token=a?module-path=" + pin + "&pin-source=env:NONE_SUCH'}]}}]", []string{"error backends[0].pkcs11.members[0].uri: not set"}},
		"TPM":             {good + "backends: [{name: a, uri: 'tpm:/dev/none'}]", []string{"warning backends[0].uri: the TPM"}},
		"required TPM":    {good + "backends: [{name: a, uri: 'tpm:/dev/none', tpm: {required: true, owner_auth_file: " + open + ", policy: {ref: x}}}]", []string{"error backends[0].uri: the TPM", "error backends[0].tpm.owner_auth_file: read by others", "error backends[0].tpm.policy: needs an authority"}},
		"the root's HSM":  {"data: " + dir + "\nroot: {device: 'pkcs11:token=a?module-path=/none.so&pin-source=file:" + pin + "'}", []string{"error root.device: module"}},
		"the root's name": {"data: " + dir + "\nroot: {device: nobody}", []string{"error root: the root's device"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := file("c.yaml", c.text)
			var found findings
			if k, err := loadConfig(path); err != nil {
				found.add(levelError, "", err)
			} else {
				found = k.inspect()
			}
			var got []string
			for _, f := range found.all {
				line := f.Level + " " + f.Setting + ": " + f.Problem
				for _, want := range c.want {
					head, part, _ := strings.Cut(want, ": ")
					if strings.HasPrefix(line, head+": ") && strings.Contains(f.Problem, part) {
						line = want
					}
				}
				got = append(got, line)
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(strings.Join(got, ""), "648219") || strings.Contains(strings.Join(got, ""), "hush") {
				t.Error("a secret is repeated")
			}
		})
	}
}
