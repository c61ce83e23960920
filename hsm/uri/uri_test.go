package uri_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/hsm/uri"
	"github.com/keywright/keywright/secret"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]uri.URI{
		"pkcs11:":                               {},
		"PKCS11:serial=0a":                      {Serial: "0a"},
		"pkcs11:token=My%20token%25%2F;serial=": {}, // see below: empty values are refused
		"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0?pin-source=file:/etc/token_pin": {
			Token: "The Software PKCS#11 Softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0", PINSource: "file:/etc/token_pin"},
		"pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23?module-path=/usr/lib/x.so": {
			LibraryManufacturer: "Snake Oil, Inc.", LibraryDescription: "Soft Token Library", LibraryVersion: "1.23", ModulePath: "/usr/lib/x.so"},
		"pkcs11:token=%C3%A9&=?pin-source=file:///run/pin": {Token: "é&=", PINSource: "file:/run/pin"},
		"pkcs11:token=a?pin-source=env:HSM_PIN":            {Token: "a", PINSource: "env:HSM_PIN"},
		"pkcs11:token=a?pin-source=credential:hsm.pin":     {Token: "a", PINSource: "credential:hsm.pin"},
		"pkcs11:?pin-value=the%20%26pin":                   {PINValue: secret.Bytes("the &pin")},
		"pkcs11:token=a?x-processes=2&x-sessions=16&x-placement=wrapped&x-profile=nss&x-accept-leaks=true&x-in-process=false&x-init-args=configdir='sql:/db'": {
			Token: "a", Processes: 2, Sessions: 16, Placement: uri.Wrapped, Profile: "nss", AcceptLeaks: true, InitArgs: "configdir='sql:/db'"},
	} {
		u, err := uri.Parse(text, uri.FromFile)
		if strings.HasSuffix(text, "serial=") {
			if !fault.Has(err, fault.BadField) {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, *u); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// TestRefused has the examples of RFC 7512 section 3 that name no token, and what else cannot be meant.
func TestRefused(t *testing.T) {
	for text, part := range map[string]string{
		"":                                    "does not begin",
		"pkcs12:token=a":                      "does not begin",
		"pkcs11:object=my-pubkey;type=public": "object is refused",
		"pkcs11:object=my-key;type=private?pin-source=file:/etc/token":       "object is refused",
		"pkcs11:id=%69%95%3E%5C%F4%BD%EC%91;?pin-source=file:/etc/token_pin": "id is refused",
		"pkcs11:slot-id=327":                                                 "slot-id is refused",
		"pkcs11:slot-description=Sun%20Metaslot":                             "slot-description is refused",
		"pkcs11:slot-manufacturer=Snake%20Oil,%20Inc.":                       "slot-manufacturer is refused",
		"pkcs11:token=Software%20PKCS%2311%20softtoken?module-name=mypkcs11": "module-name is refused",
		"pkcs11:token=a?module-path=lib.so":                                  "absolute",
		"pkcs11:token=a?pin-source=%7C/usr/lib/pinomatic":                    "pin-source is",
		"pkcs11:token=a?pin-source=|/usr/lib/pinomatic":                      "pin-source is",
		"pkcs11:token=a?pin-source=https://there/pin":                        "pin-source is",
		"pkcs11:token=a?pin-source=file://host/pin":                          "pin-source is",
		"pkcs11:token=a?pin-source=file:pin":                                 "pin-source is",
		"pkcs11:token=a?pin-source=credential:../pin":                        "pin-source is",
		"pkcs11:token=a?pin-source=env:A=B":                                  "pin-source is",
		"pkcs11:token=a?pin-value=1&pin-source=env:A":                        "exclude",
		"pkcs11:token=a;token=b":                                             "twice",
		"pkcs11:token=a?x-processes=1&x-processes=1":                         "twice",
		"pkcs11:token":                              "no attribute",
		"pkcs11:token=a;":                           "no attribute",
		"pkcs11:;token=a":                           "no attribute",
		"pkcs11:=a":                                 "no attribute",
		"pkcs11:tok en=a":                           "no attribute",
		"pkcs11:Token=a":                            "not known: Token",
		"pkcs11:x-processes=2":                      "not known: x-processes",
		"pkcs11:token=a?vendor=1":                   "not known: vendor",
		"pkcs11:token=a b":                          "percent-encoded",
		"pkcs11:token=a/b":                          "percent-encoded",
		"pkcs11:token=\u00e9":                       "percent-encoded",
		"pkcs11:token=a#b":                          "percent-encoded",
		"pkcs11:token=%":                            "percent sign",
		"pkcs11:token=%4":                           "percent sign",
		"pkcs11:token=%4g":                          "percent sign",
		"pkcs11:token=%ff":                          "UTF-8",
		"pkcs11:token=a%00":                         "control",
		"pkcs11:token=a%0A":                         "control",
		"pkcs11:serial=12345678901234567":           "longer than 16",
		"pkcs11:library-version=1.256":              "MAJOR",
		"pkcs11:library-version=1.2.3":              "MAJOR",
		"pkcs11:library-version=.3":                 "MAJOR",
		"pkcs11:token=a?x-processes=0":              "1 to 64",
		"pkcs11:token=a?x-processes=+2":             "1 to 64",
		"pkcs11:token=a?x-processes=65":             "1 to 64",
		"pkcs11:token=a?x-sessions=02":              "1 to 4096",
		"pkcs11:token=a?x-placement=sealed":         "resident or wrapped",
		"pkcs11:token=a?x-accept-leaks=yes":         "true or false",
		"pkcs11:token=" + strings.Repeat("a", 33):   "longer than 32",
		"pkcs11:token=" + strings.Repeat("a", 9000): "8192",
		"pkcs11:" + strings.Repeat("b", 60) + "=1":  "bbb…",
	} {
		u, err := uri.Parse(text, uri.FromFile)
		if !fault.Has(err, fault.BadField) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, %v; want %q", text, u, err, part)
		}
	}
}

// TestPINFromFlag: a PIN is refused where others can see it, and no error or text repeats it.
func TestPINFromFlag(t *testing.T) {
	const text = "pkcs11:token=a?module-path=/m.so&pin-value=648219"
	_, err := uri.Parse(text, uri.FromFlag)
	if !fault.Has(err, fault.BadField) || !strings.Contains(err.Error(), "configuration file only") || strings.Contains(err.Error(), "648219") {
		t.Errorf("from a flag: %v", err)
	}
	u, err := uri.Parse(text, uri.FromFile)
	if err != nil {
		t.Fatal(err)
	}
	if s := u.String(); strings.Contains(s, "648219") || s != "pkcs11:token=a?module-path=/m.so" {
		t.Errorf("as text: %s", s)
	}
	pin, err := u.PIN()
	if err != nil || string(pin) != "648219" {
		t.Errorf("the PIN: %v", err)
	}
	pin.Wipe()
	if again, err := u.PIN(); err != nil || string(again) != "648219" {
		t.Errorf("wiping the caller's copy must leave ours: %v", err)
	}
}

func TestConfig(t *testing.T) {
	u, err := uri.Parse("pkcs11:token=prod;serial=12?module-path=/usr/lib/m.so&x-profile=luna&x-sessions=8&x-accept-leaks=true&x-init-args=a", uri.FromFlag)
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Config()
	want := token.Config{Module: "/usr/lib/m.so", Label: "prod", Serial: "12", Profile: "luna", Sessions: 8, AcceptLeaks: true, InitArgs: "a"}
	if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "LoginGate" }, cmp.Ignore())); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, text := range []string{"pkcs11:token=a", "pkcs11:?module-path=/m.so", "pkcs11:model=a?module-path=/m.so"} {
		u, err := uri.Parse(text, uri.FromFlag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Config(); !fault.Has(err, fault.MissingField) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMatches(t *testing.T) {
	d := token.Description{Serial: "12", Label: "prod", Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Library: "Implementation of PKCS11 2.6"}
	for text, ok := range map[string]bool{
		"pkcs11:token=prod;serial=12;manufacturer=SoftHSM%20project;model=SoftHSM%20v2": true,
		"pkcs11:token=prod%20%20": true,
		"pkcs11:library-description=Implementation%20of%20PKCS11;library-version=2.6": true,
		"pkcs11:token=pro":            false,
		"pkcs11:serial=13":            false,
		"pkcs11:manufacturer=SoftHSM": false,
		"pkcs11:model=other":          false,
		"pkcs11:library-version=2.7":  false,
	} {
		u, err := uri.Parse(text, uri.FromFlag)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Matches(d); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPIN(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("URI_TEST_PIN", "from-env")
	long := strings.Repeat("1", 256)
	for _, c := range []struct{ source, pin, why string }{
		{"file:" + write("plain", "648219", 0o600), "648219", ""},
		{"file:" + write("line", "648219\r\nmore", 0o400), "648219", ""},
		{"file:" + write("most", long[:255]+"\n", 0o600), long[:255], ""},
		{"file:" + write("long", long, 0o600), "", "too long"},
		{"file:" + write("empty", "\n648219", 0o600), "", "empty"},
		{"file:" + write("open", "648219", 0o640), "", "read by others"},
		{"file:" + dir, "", "no file"},
		{"file:" + filepath.Join(dir, "none"), "", "cannot be read"},
		{"env:URI_TEST_PIN", "from-env", ""},
		{"env:URI_TEST_NONE", "", "not set"},
		{"credential:plain", "", "passed none"},
	} {
		u := uri.URI{PINSource: c.source}
		pin, err := u.PIN()
		if string(pin) != c.pin || (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.source, err, c.why)
		}
		if err != nil && strings.Contains(err.Error(), "648219") {
			t.Errorf("%s: the error tells the PIN", c.source)
		}
	}
	// What systemd passes may belong to another and be readable by a group.
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write("all", "648219", 0o644)
	for source, ok := range map[string]bool{"credential:open": true, "credential:all": false, "credential:none": false, "credential:..": false,
		"file:" + filepath.Join(dir, "open"): true, "file:" + filepath.Join(dir, "all"): false} {
		if _, err := (&uri.URI{PINSource: source}).PIN(); (err == nil) != ok {
			t.Errorf("%s: %v", source, err)
		}
	}
	if _, err := (&uri.URI{}).PIN(); !fault.Has(err, fault.MissingField) {
		t.Errorf("without a source: %v", err)
	}
}

// TestString: what is written is read the same.
func TestString(t *testing.T) {
	name := func(n int) *rapid.Generator[string] {
		return rapid.StringMatching(`[ -~é]{0,` + string(rune('0'+n)) + `}`)
	}
	rapid.Check(t, func(t *rapid.T) {
		u := uri.URI{Token: name(9).Draw(t, "token"), Serial: name(9).Draw(t, "serial"), Model: name(8).Draw(t, "model"),
			Manufacturer: name(9).Draw(t, "manufacturer"), LibraryDescription: name(9).Draw(t, "library"), InitArgs: name(9).Draw(t, "init"),
			ModulePath: "/" + name(9).Draw(t, "path"), Processes: rapid.IntRange(0, 64).Draw(t, "processes"),
			Sessions: rapid.IntRange(0, 4096).Draw(t, "sessions"), AcceptLeaks: rapid.Bool().Draw(t, "leaks"),
			InProcess: rapid.Bool().Draw(t, "in"), Placement: rapid.SampledFrom([]uri.Placement{"", uri.Resident, uri.Wrapped}).Draw(t, "placement")}
		got, err := uri.Parse(u.String(), uri.FromFlag)
		if err != nil {
			t.Fatalf("%s: %v", u.String(), err)
		}
		if diff := cmp.Diff(u, *got); diff != "" {
			t.Fatalf("%s: %s", u.String(), diff)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;serial=;?pin-source=file:/etc/token_pin")
	f.Add("pkcs11:token=a;serial=b?module-path=/usr/lib/m.so&pin-source=env:PIN&x-processes=2&x-in-process=true")
	f.Add("pkcs11:library-version=3.1?x-init-args=configdir=%27sql:/d%27")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := uri.Parse(text, uri.FromFlag)
		if err != nil {
			if u != nil || !fault.Has(err, fault.BadField) {
				t.Fatalf("%v, %v", u, err)
			}
			return
		}
		again, err := uri.Parse(u.String(), uri.FromFlag)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", text, u.String(), err)
		}
		if diff := cmp.Diff(u, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
