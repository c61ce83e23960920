// Package rig sets real parts up for tests: SoftHSM, NSS softokn, opencryptoki, SoftHSM behind p11-kit's server, the fault
// module in front of any of them, and a PostgreSQL server. Each is made by the script in softhsm-test that also works by hand, under a
// directory of its own that goes with the test. A part that is missing fails the test: run softhsm-test/install.sh.
//
// It trusts the machine's packages and the scripts, and it is for tests only.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Part is a PKCS#11 module and the token to use.
type Part struct {
	Dir     string // its own; removed with the test
	Module  string // path of the shared object
	Label   string // the token's, without padding
	Serial  string // the token's, without padding; empty where it says nothing (NSS)
	PINFile string // the user's PIN, without a newline
	SOFile  string // the security officer's; empty where there is none
	URI     string // RFC 7512, with module-path and pin-source
	Init    string // what CK_C_INITIALIZE_ARGS.pReserved has to point to, or empty

	// Env is what a process that loads the module needs in its environment, as NAME=value.
	Env []string
}

// Setenv puts Env into this process, for a module loaded in process. The test may then not be parallel.
func (p *Part) Setenv(t testing.TB) {
	t.Helper()
	for _, entry := range p.Env {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
}

// PIN returns the user's PIN.
func (p *Part) PIN(t testing.TB) string {
	t.Helper()
	pin, err := os.ReadFile(p.PINFile)
	if err != nil {
		t.Fatalf("reading the PIN: %v", err)
	}
	return string(pin)
}

// SoftHSM makes a SoftHSM token called "keywright".
func SoftHSM(t testing.TB) *Part {
	t.Helper()
	part, _ := setUp(t, "softhsm.sh", tempDir(t))
	return part
}

// SoftHSMUnder is SoftHSM with PINs of the test's choice.
func SoftHSMUnder(t testing.TB, pin, soPIN string) *Part {
	t.Helper()
	part, _ := setUp(t, "softhsm.sh", tempDir(t), "keywright", pin, soPIN)
	return part
}

// Another makes one more token in the SoftHSM module that p is a token of. Its PINs are p's.
func (p *Part) Another(t testing.TB, label string) *Part {
	t.Helper()
	part, _ := setUp(t, "softhsm.sh", p.Dir, label)
	return part
}

// NSS makes an NSS softokn database with a password.
func NSS(t testing.TB) *Part {
	t.Helper()
	part, _ := setUp(t, "nss.sh", tempDir(t), "nss-648219")
	return part
}

// tempDir is a short one: a Unix socket's path has 107 characters, and the scripts take no blanks, which t.TempDir may have.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kwhsm")
	if err != nil {
		t.Fatalf("making a directory: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the part's directory: %v", err)
		}
	})
	return dir
}

// scripts is the directory softhsm-test, found from the working directory: tests run in their package's.
var scripts = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		path := filepath.Join(dir, "softhsm-test")
		if _, statErr := os.Stat(filepath.Join(path, "part.sh")); statErr == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no softhsm-test above the working directory")
		}
		dir = parent
	}
	return "", err
})

// run runs a script and returns what it printed.
func run(script string, arguments ...string) ([]byte, error) {
	dir, err := scripts()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(dir, script), arguments...) //nolint:gosec,noctx // our own scripts; they bound their waits
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", script, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}

func setUp(t testing.TB, script, dir string, arguments ...string) (*Part, map[string]string) {
	t.Helper()
	out, err := run(script, append([]string{dir}, arguments...)...)
	if err != nil {
		t.Fatalf("setting up: %v", err)
	}
	part, values, err := parse(string(out))
	if err != nil {
		t.Fatalf("%s printed what was not understood: %v", script, err)
	}
	part.Dir = dir
	return part, values
}

// parse reads what a script of a PKCS#11 part printed.
func parse(out string) (*Part, map[string]string, error) {
	part := &Part{}
	values, exported, err := assignments(out)
	if err != nil {
		return nil, nil, err
	}
	part.Env = exported
	part.Module, part.Label, part.Serial = values["HSM_MODULE"], values["HSM_LABEL"], values["HSM_SERIAL"]
	part.PINFile, part.SOFile = values["HSM_PIN_FILE"], values["HSM_SOPIN_FILE"]
	part.URI, part.Init = values["HSM_URI"], values["HSM_INIT"]
	if part.Module == "" || part.Label == "" || part.PINFile == "" || part.URI == "" {
		return nil, nil, errors.New("an assignment is missing")
	}
	return part, values, nil
}

// assignments reads the assignments that a script printed, and those of them that it exports, as NAME=value.
func assignments(out string) (values map[string]string, env []string, err error) {
	values = map[string]string{}
	for line := range strings.Lines(out) {
		line, exported := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "export ")
		name, quoted, found := strings.Cut(line, "=")
		value, err := unquote(quoted)
		if !found || err != nil {
			return nil, nil, fmt.Errorf("line %q: %w", line, err)
		}
		if exported {
			env = append(env, name+"="+value)
		}
		values[name] = value
	}
	return values, env, nil
}

// unquote undoes bash's ${value@Q} of a value on one line: single quotes, and \' between them.
func unquote(quoted string) (string, error) {
	var value strings.Builder
	for rest := quoted; rest != ""; {
		if after, ok := strings.CutPrefix(rest, `\'`); ok {
			value.WriteByte('\'')
			rest = after
			continue
		}
		after, ok := strings.CutPrefix(rest, "'")
		text, after, closed := strings.Cut(after, "'")
		if !ok || !closed {
			return "", errors.New("not in single quotes")
		}
		value.WriteString(text)
		rest = after
	}
	return value.String(), nil
}
