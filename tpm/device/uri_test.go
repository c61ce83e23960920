package device_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/tpm/device"
)

func TestParseURI(t *testing.T) {
	for text, want := range map[string]device.URI{
		"tpm:/dev/tpmrm0":                                         {Network: device.Character, Address: "/dev/tpmrm0"},
		"tpm:/dev/tpm0":                                           {Network: device.Character, Address: "/dev/tpm0"},
		"tpm:unix:/run/swtpm/a%20b":                               {Network: device.Unix, Address: "/run/swtpm/a b"},
		"tpm:unix:/a%3Fb%25":                                      {Network: device.Unix, Address: "/a?b%"},
		"tpm:tcp:127.0.0.1:2321":                                  {Network: device.TCP, Address: "127.0.0.1:2321"},
		"tpm:tcp:tpm.example.org:1":                               {Network: device.TCP, Address: "tpm.example.org:1"},
		"tpm:tcp:[::1]:2321":                                      {Network: device.TCP, Address: "[::1]:2321"},
		"tpm:/d?parent=0x81000001":                                {Network: device.Character, Address: "/d", Parent: 0x81000001},
		"tpm:/d?parent=0x817fffff":                                {Network: device.Character, Address: "/d", Parent: 0x817fffff},
		"tpm:/d?owner-auth-source=file:/etc/p%26w":                {Network: device.Character, Address: "/d", OwnerAuthSource: "/etc/p&w"},
		"tpm:unix:/s?parent=0x81000002&owner-auth-source=file:/p": {Network: device.Unix, Address: "/s", Parent: 0x81000002, OwnerAuthSource: "/p"},
	} {
		got, err := device.ParseURI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", text, diff)
		}
	}
	for _, text := range []string{"", "tpm:", "TPM:/dev/tpm0", "tmp:/dev/tpm0", "tpm:dev/tpm0", "tpm:/", "tpm://dev/tpm0", "tpm:/dev/../tpm0", "tpm:/dev/./x",
		"tpm:/dev/tpm0/", "tpm:/dev/a b", "tpm:/dev/%zz", "tpm:/dev/%00", "tpm:/dev/ä", "tpm:unix:", "tpm:unix:relative", "tpm:tcp:", "tpm:tcp:host", "tpm:tcp::1",
		"tpm:tcp:h:0", "tpm:tcp:h:65536", "tpm:tcp:h:x", "tpm:tcp:[nonsense::]:x:1", "tpm:tcp:a b:1", "tpm:tcp:%61:1", "tpm:/d?", "tpm:/d?x=1", "tpm:/d?parent=1",
		"tpm:/d?parent=0x80000001", "tpm:/d?parent=0x81800000", "tpm:/d?parent=0x81000001&parent=0x81000001", "tpm:/d?parent=", "tpm:/d?owner-auth-source=/p",
		"tpm:/d?owner-auth-source=file:", "tpm:/d?owner-auth=secret", "tpm:/d#f", "tpm:/d?parent=0x81000001#f", "pkcs11:token=x"} {
		u, err := device.ParseURI(text)
		if err == nil {
			t.Errorf("%q was taken for %+v", text, u)
		} else if len(text) > 12 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats %q", text)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"tpm:/dev/tpmrm0", "tpm:unix:/run/a%20b?parent=0x81000001", "tpm:tcp:[fe80::1]:2321", "tpm:tcp:h:1?owner-auth-source=file:/p%26", "tpm:/d?parent=0x81000001&owner-auth-source=file:/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := device.ParseURI(s)
		if err != nil {
			if u != (device.URI{}) {
				t.Error("a refused URI left something")
			}
			return
		}
		if u.Network == 0 || u.Address == "" {
			t.Errorf("%q names nothing", s)
		}
		// What it is written as is read as the same, and is its only form.
		again, err := device.ParseURI(u.String())
		if err != nil || again != u || again.String() != u.String() {
			t.Errorf("%q is written as %q, which is %+v (%v)", s, u.String(), again, err)
		}
	})
}
