package rig

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TPM is a TPM 2.0 in software, in a process of its own: swtpm.
type TPM struct {
	Dir     string // its own; removed with the test
	URI     string // tpm:unix:… or tpm:tcp:…
	Control string // the socket of swtpm_ioctl
	CA      string // the certificate of whoever certified the endorsement keys; only of CertifiedSWTPM

	port string
	pid  int // 0 while it is down
}

// SWTPM starts a TPM fresh from the factory, without endorsement certificates, on a Unix socket. It ends with the test.
func SWTPM(t testing.TB) *TPM { t.Helper(); return newTPM(t, "", false) }

// TCPSWTPM is SWTPM on a TCP port.
func TCPSWTPM(t testing.TB) *TPM { t.Helper(); return newTPM(t, freePort(t), false) }

// CertifiedSWTPM is SWTPM with endorsement keys and their certificates, which takes two seconds.
func CertifiedSWTPM(t testing.TB) *TPM { t.Helper(); return newTPM(t, "", true) }

func newTPM(t testing.TB, port string, certified bool) *TPM {
	t.Helper()
	dir := tempDir(t)
	m := &TPM{Dir: dir, port: port}
	if !certified {
		if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
			t.Fatalf("making a directory: %v", err)
		}
	}
	t.Cleanup(func() { m.Kill(t) })
	m.Start(t)
	return m
}

// Start starts the process, if it does not run. The TPM remembers what it had in its memory.
func (m *TPM) Start(t testing.TB) {
	t.Helper()
	arguments := []string{m.Dir, "start"}
	if m.port != "" {
		arguments = append(arguments, m.port)
	}
	out, err := run("swtpm.sh", arguments...)
	if err != nil {
		t.Fatalf("starting the TPM: %v", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, quoted, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if values[name], err = unquote(quoted); err != nil {
			t.Fatalf("swtpm.sh printed %q: %v", line, err)
		}
	}
	m.URI, m.Control, m.CA = values["TPM_URI"], values["TPM_CONTROL"], values["TPM_CA"]
	if m.pid, err = strconv.Atoi(values["TPM_PID"]); err != nil || m.pid <= 1 || m.URI == "" {
		t.Fatalf("swtpm.sh printed %q", out)
	}
}

// Kill ends the process without warning, and waits until it is gone.
func (m *TPM) Kill(t testing.TB) {
	t.Helper()
	if _, err := run("swtpm.sh", m.Dir, "stop"); err != nil {
		t.Errorf("stopping the TPM: %v", err)
	}
	m.pid = 0
}

// Cycle powers the TPM off and on. Its connections stay, all that was loaded goes, and it wants TPM2_Startup.
func (m *TPM) Cycle(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("swtpm_ioctl", "--unix", m.Control, "-i").CombinedOutput(); err != nil { //nolint:gosec,noctx // it answers at once
		t.Errorf("power-cycling the TPM: %v: %s", err, out)
	}
}

// Freeze stops the process; commands are not answered until Thaw.
func (m *TPM) Freeze(t testing.TB) { t.Helper(); m.signal(t, unix.SIGSTOP) }

// Thaw lets it go on.
func (m *TPM) Thaw(t testing.TB) { t.Helper(); m.signal(t, unix.SIGCONT) }

func (m *TPM) signal(t testing.TB, signal unix.Signal) {
	t.Helper()
	if m.pid == 0 {
		t.Fatal("the TPM is down")
	}
	if err := unix.Kill(m.pid, signal); err != nil {
		t.Fatalf("signalling the TPM: %v", err)
	}
	time.Sleep(10 * time.Millisecond) // a stop is asynchronous
}

// Address is where its socket listens: network and address for net.Dial.
func (m *TPM) Address() (network, address string) {
	if m.port != "" {
		return "tcp", "127.0.0.1:" + m.port
	}
	return "unix", filepath.Join(m.Dir, "socket")
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatalf("seeking a free port: %v", err)
	}
	defer hangUp(l)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatalf("seeking a free port: %v", err)
	}
	return port
}
