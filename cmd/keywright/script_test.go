package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the program itself a command of the scripts: it runs as a process of its own, from main on.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 { // a test that looks at a module starts this very binary
		if child := hsmChild(os.Args[1]); child != nil {
			os.Exit(child())
		}
	}
	testscript.Main(m, map[string]func(){"keywright": main, "qpher-client": qpherMain})
}

func TestScripts(t *testing.T) {
	all, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(all) == 0 {
		t.Fatalf("%d scripts, %v", len(all), err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nstop") {
			t.Errorf("%s says stop, which ends a script as passed: halt stops the service", path)
		}
	}
	if len(scripts) > 0 {
		all = scripts
	}
	testscript.Run(t, testscript.Params{
		Files:               all,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"KEYWRIGHT_ADDR", envKey, envKeyFile, envPassphrase} {
				e.Setenv(name, "")
			}
			e.Setenv("KEYWRIGHT_ADDR", "http://127.0.0.1:1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": serveScript, "halt": haltScript, "code": codeScript, "capture": captureScript,
			"fill": fillScript, "flip": flipScript, "cut": cutScript, "nofiles": noFilesScript,
			"interrupt": interruptScript, "detached": detachedScript, "softhsm": softHSMScript,
			"kill9": kill9Script, "within": withinScript,
			"swtpm": swtpmScript, "tpmextend": tpmExtendScript, "tpmlock": tpmLockScript, "authority": authorityScript,
			"postgres": postgresScript, "issuer": issuerScript, "agelog": agelogScript,
		},
	})
}

// servers are the services that run, by process id: scripts can keep strings only.
var servers sync.Map

// server is the service of one script.
type server struct {
	cmd  *exec.Cmd
	done chan error
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-s.done:
		return err
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the service does not stop"), s.cmd.Process.Kill())
	}
}

const serverKey = "KEYWRIGHT_TEST_SERVER_PID"

// serveScript starts the service: serve DATA [flags]. It sets the address and the owner's key for the commands that follow,
// and stops the service at the end of the script, which must then end without an error.
func serveScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: serve DATA [flags]")
	}
	data := ts.MkAbs(args[0])
	address := filepath.Join(data, "address")
	if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	program := filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "keywright")
	flags := append([]string{"serve", "--dev", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, args[1:]...)
	s := &server{cmd: exec.Command(program, flags...), done: make(chan error, 1)}
	var log strings.Builder
	file, err := os.OpenFile(ts.MkAbs("service.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	ts.Defer(func() { ts.Check(file.Close()) })
	both := io.MultiWriter(&log, file)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Dir = both, both, ts.MkAbs(".")
	s.cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "SOFTHSM2_CONF=" + ts.Getenv("SOFTHSM2_CONF")}
	ts.Check(s.cmd.Start())
	go func() { s.done <- s.cmd.Wait() }()
	ts.Defer(func() {
		if ts.Getenv(serverKey) != strconv.Itoa(s.cmd.Process.Pid) {
			return // stopped by the script
		}
		if err := s.stop(); err != nil {
			ts.Logf("the service ended with %v:\n%s", err, log.String())
			ts.Fatalf("the service did not end well")
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(address)
		if err == nil && len(b) > 0 {
			ts.Setenv("KEYWRIGHT_ADDR", "http://"+strings.TrimSpace(string(b)))
			break
		}
		select {
		case err := <-s.done:
			ts.Fatalf("the service ended with %v:\n%s", err, log.String())
		default:
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the service does not start")
		}
	}
	ts.Setenv(envKeyFile, filepath.Join(data, "owner.key"))
	ts.Setenv(serverKey, strconv.Itoa(s.cmd.Process.Pid))
	servers.Store(s.cmd.Process.Pid, s)
}

// haltScript stops the service that serve started. It is not called stop: that is a command of testscript itself, which ends the script there and then.
func haltScript(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(ts.Getenv(serverKey))
	ts.Check(err)
	s, ok := servers.LoadAndDelete(pid)
	if !ok {
		ts.Fatalf("no service runs")
	}
	ts.Setenv(serverKey, "")
	ts.Check(s.(*server).stop())
}

// kill9Script ends the service that serve started without giving it a chance to do anything.
func kill9Script(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(ts.Getenv(serverKey))
	ts.Check(err)
	s, ok := servers.LoadAndDelete(pid)
	if !ok {
		ts.Fatalf("no service runs")
	}
	ts.Setenv(serverKey, "")
	ts.Check(s.(*server).cmd.Process.Kill())
	<-s.(*server).done // an error: it was killed
}

// withinScript runs the program again and again until it succeeds: within TIME args….
func withinScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: within TIME args…")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	start := time.Now()
	for {
		err := ts.Exec("keywright", args[1:]...)
		if err == nil {
			ts.Logf("succeeded after %v", time.Since(start).Round(time.Millisecond))
			return
		}
		if time.Since(start) > limit {
			ts.Fatalf("not within %v: %v\n%s%s", limit, err, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// codeScript runs the program and wants exactly this exit code: code N args….
func codeScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("keywright", args[1:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// detachedScript runs the program without a terminal, wherever the test itself runs: detached N TEXT args…, where N is the
// exit code and TEXT part of standard error.
func detachedScript(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "keywright"), args[2:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir, cmd.Env = ts.MkAbs("."), []string{"KEYWRIGHT_ADDR=" + ts.Getenv("KEYWRIGHT_ADDR")}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] || !strings.Contains(string(out), args[1]) {
		ts.Fatalf("ended with %v: %s", err, out)
	}
}

// captureScript keeps the standard output, or a member of its JSON: capture VARIABLE [member.member].
func captureScript(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile("stdout")
	if len(args) == 2 {
		var v any
		ts.Check(json.Unmarshal([]byte(text), &v))
		for _, name := range strings.Split(args[1], ".") {
			if i, err := strconv.Atoi(name); err == nil {
				list, ok := v.([]any)
				if !ok || i >= len(list) {
					ts.Fatalf("no element %s in %s", name, text)
				}
				v = list[i]
				continue
			}
			m, ok := v.(map[string]any)
			if !ok || m[name] == nil {
				ts.Fatalf("no member %s in %s", name, text)
			}
			v = m[name]
		}
		text = fmt.Sprint(v)
	}
	if text = strings.TrimSpace(text); text == "" {
		ts.Fatalf("nothing to capture")
	}
	ts.Setenv(args[0], text)
}

// fillScript makes a file of a pattern without a short period: fill FILE SIZE.
func fillScript(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// flipScript changes a bit: flip FILE OFFSET; a negative offset counts from the end.
func flipScript(ts *testscript.TestScript, neg bool, args []string) {
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := []byte(ts.ReadFile(args[0]))
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// cutScript takes bytes off the end: cut FILE COUNT.
func cutScript(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b[:len(b)-n]), 0o600))
}

// noFilesScript wants that nothing matches a pattern.
func noFilesScript(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("left behind: %v", found)
	}
}

// interruptScript runs the program with a standard input that never ends, sends it SIGINT when it has taken what there is, and
// wants exit code 1 and the word why on stderr.
func interruptScript(ts *testscript.TestScript, neg bool, args []string) {
	r, w, err := os.Pipe()
	ts.Check(err)
	defer w.Close()
	cmd := exec.Command(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[0]), args[1:]...)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr, cmd.Dir = r, &stderr, ts.MkAbs(".")
	cmd.Env = []string{"KEYWRIGHT_ADDR=" + ts.Getenv("KEYWRIGHT_ADDR"), envKeyFile + "=" + ts.Getenv(envKeyFile)}
	ts.Check(cmd.Start())
	ts.Check(r.Close())
	// More than the 64 KiB that a pipe holds: when this returns the program reads.
	if _, err := w.Write(make([]byte, 300_000)); err != nil {
		ts.Fatalf("the program does not read: %v", errors.Join(err, cmd.Wait()))
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-time.After(20 * time.Second):
		ts.Fatalf("it goes on waiting: %v", errors.Join(cmd.Process.Kill(), <-done))
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailure || !strings.Contains(stderr.String(), "interrupted") {
		ts.Fatalf("ended with %v: %s", err, stderr.String())
	}
}

// softHSMScript makes a SoftHSM token under a folder, called LABEL if that is given: softhsm DIR [LABEL]. HSM_URI, HSM_MODULE, HSM_SERIAL
// and HSM_PIN_FILE say how to reach it.
func softHSMScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: softhsm DIR [LABEL]")
	}
	partScript(ts, "softhsm.sh", append([]string{ts.MkAbs(args[0])}, args[1:]...)...)
}

// partScript runs a script that sets a real part up, and takes the variables that it prints.
func partScript(ts *testscript.TestScript, name string, args ...string) {
	script, err := filepath.Abs("../../softhsm-test/" + name) // tests run in their package's folder
	ts.Check(err)
	out, err := exec.Command(script, args...).Output() //nolint:gosec // our own script
	if err != nil {
		ts.Fatalf("%s: %v (run softhsm-test/install.sh)", name, err)
	}
	for line := range strings.Lines(string(out)) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !ok {
			ts.Fatalf("%s prints %q", script, line)
		}
		ts.Setenv(name, strings.Trim(value, "'"))
	}
}

const postgresKey = "KEYWRIGHT_TEST_POSTGRES_DIR"

// postgresScript starts a PostgreSQL server of the script's own: postgres start, again after postgres stop MODE. PG_URI and
// PG_PASSWORD_FILE say how to reach it. It ends with the script.
func postgresScript(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.Getenv(postgresKey)
	switch {
	case !neg && len(args) == 1 && args[0] == "start" && dir == "":
		dir, err := os.MkdirTemp("", "kwpg") // the server's user cannot enter the script's folder
		ts.Check(err)
		ts.Setenv(postgresKey, dir)
		ts.Defer(func() {
			partScript(ts, "postgres.sh", dir, "stop", "immediate")
			ts.Check(os.RemoveAll(dir))
		})
		partScript(ts, "postgres.sh", dir)
	case !neg && len(args) == 1 && args[0] == "start":
		partScript(ts, "postgres.sh", dir)
	case !neg && len(args) == 2 && args[0] == "stop" && dir != "":
		partScript(ts, "postgres.sh", dir, "stop", args[1])
	default:
		ts.Fatalf("usage: postgres start, or postgres stop MODE")
	}
}
