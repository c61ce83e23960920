package deploy_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unit puts the unit and its drop-ins into a folder, with the program where it is here.
func unit(t *testing.T, dropIns ...string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile("systemd/keywright.service")
	if err != nil {
		t.Fatal(err)
	}
	program := binary(t)
	for name, b := range map[string][]byte{"keywright.service": bytes.ReplaceAll(text, []byte("/usr/bin/keywright"), []byte(program))} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parts := filepath.Join(dir, "keywright.service.d")
	if err := os.Mkdir(parts, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range dropIns {
		b, err := os.ReadFile("systemd/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(parts, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "keywright.service")
}

// TestUnit: systemd itself reads the unit, without drop-ins and with all, without a complaint, and finds it well shut.
func TestUnit(t *testing.T) {
	all, err := filepath.Glob("systemd/*.conf")
	if err != nil {
		t.Fatal(err)
	}
	var dropIns []string
	for _, path := range all {
		if name := filepath.Base(path); name != "sysusers.conf" {
			dropIns = append(dropIns, name)
		}
	}
	if len(dropIns) < 4 {
		t.Fatalf("only %v are there", dropIns)
	}
	for _, set := range [][]string{nil, dropIns} {
		path := unit(t, set...)
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) != 0 {
			t.Errorf("with %v: %v\n%s", set, err, out)
		}
		// Exposure in tenths: below 20 is what systemd calls OK.
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path).CombinedOutput(); err != nil {
			t.Errorf("with %v: %v\n%s", set, err, out)
		}
	}
}

// TestUnitUnderWatch runs the service as the unit would, as far as that goes without systemd: the credentials in their folder, memory that may
// not become executable, and the notification that the unit waits for.
func TestUnitUnderWatch(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cred/root-passphrase": "correct horse battery staple\n",
		"keywright.yaml":       "data: " + dir + "/data\nlisten: ['127.0.0.1:0', 'unix:" + dir + "/api.sock']\nmetrics_listen: \"off\"\nroot: {passphrase_file: credential:root-passphrase}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	hear := func() string {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		n, err := socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	s := startWith(t, []string{"CREDENTIALS_DIRECTORY=" + dir + "/cred", "NOTIFY_SOCKET=" + filepath.Join(dir, "notify")}, "serve", "--config", filepath.Join(dir, "keywright.yaml"))
	if got := hear(); got != "READY=1" {
		t.Errorf("it says %q", got)
	}
	if out, err := exec.CommandContext(t.Context(), binary(t), "--address", "unix://"+dir+"/api.sock", "health").CombinedOutput(); err != nil {
		t.Errorf("it is ready, and not well: %v %s", err, out)
	}
	s.stop()
	if got := hear(); got != "STOPPING=1" {
		t.Errorf("it says %q", got)
	}
	if text := s.log.String(); strings.Contains(text, "service manager") || strings.Contains(text, "battery") {
		t.Errorf("the log: %s", text)
	}
}
