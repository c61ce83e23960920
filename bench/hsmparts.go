package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// device is a SoftHSM2 token, and the same token behind the fault module (softhsm-test/faultmodule/README.md).
type device struct {
	module, label, pinFile string
	faulty                 string // path of the fault module
	control, tool          string // its control block, and what sends it commands
}

// newDevice sets a token up under dir with the scripts in parts. It sets SOFTHSM2_CONF for this process and its children.
func newDevice(ctx context.Context, parts, dir string) (*device, error) {
	const script = `vars=$("$1/softhsm.sh" "$2") && eval "$vars" && printf '%s\n' "$HSM_MODULE" "$HSM_LABEL" "$HSM_PIN_FILE" "$SOFTHSM2_CONF"`
	out, err := command(ctx, "bash", "-c", script, "bench", parts, filepath.Join(dir, "token"))
	if err != nil {
		return nil, fmt.Errorf("setting SoftHSM up: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 {
		return nil, errors.New("setting SoftHSM up: the script has said something else")
	}
	d := &device{module: lines[0], label: lines[1], pinFile: lines[2], faulty: filepath.Join(dir, "faultmodule.so"), control: filepath.Join(dir, "control")}
	if err := os.Setenv("SOFTHSM2_CONF", lines[3]); err != nil {
		return nil, err
	}
	source := filepath.Join(parts, "faultmodule")
	if _, err := command(ctx, "make", "-s", "-C", source); err != nil {
		return nil, fmt.Errorf("building the fault module: %w", err)
	}
	if d.tool, err = filepath.Abs(filepath.Join(source, "faultctl")); err != nil {
		return nil, err
	}
	// A copy, not a link: the loader takes one file for one module, with one state.
	content, err := os.ReadFile(filepath.Join(source, "faultmodule.so"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.faulty, content, 0o700); err != nil { //nolint:gosec // a shared object
		return nil, err
	}
	settings := fmt.Sprintf("module=%s\ncontrol=%s\nenv=SOFTHSM2_CONF=%s\n", d.module, d.control, lines[3])
	return d, os.WriteFile(d.faulty+".conf", []byte(settings), 0o600)
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // scripts and tools of the project
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s%s", name, err, complaint.String(), out)
	}
	return string(out), nil
}

// uri names the token, behind the fault module or not, with attributes such as "x-processes=2".
func (d *device) uri(faulty bool, attributes ...string) string {
	module := d.module
	if faulty {
		module = d.faulty
	}
	u := "pkcs11:token=" + url.PathEscape(d.label) + "?module-path=" + module + "&pin-source=file:" + d.pinFile
	return strings.Join(append([]string{u}, attributes...), "&")
}

// fault gives the fault module a command, and the answer's last word.
func (d *device) fault(ctx context.Context, words ...string) (string, error) {
	out, err := command(ctx, d.tool, d.control, strings.Join(words, " "))
	if err != nil {
		return "", err
	}
	return out, nil
}

// number is fault for commands that answer one.
func (d *device) number(ctx context.Context, words ...string) (int, error) {
	out, err := d.fault(ctx, words...)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(out)
	if len(fields) == 0 {
		return 0, fmt.Errorf("%v has no answer", words)
	}
	return strconv.Atoi(fields[len(fields)-1])
}

// processes are those that have the fault module loaded.
func (d *device) processes(ctx context.Context) ([]int, error) {
	out, err := d.fault(ctx, "processes")
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(out) {
		if pid, err := strconv.Atoi(strings.Fields(line + " x")[0]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
