package rig

import (
	"bufio"
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
)

// FaultModule is the fault-injecting module (softhsm-test/faultmodule/README.md) in front of a part. It needs no environment:
// a file beside the shared object says what is behind it and where its control block is. All processes that load
// Part.Module are one device; commands reach them all, and faults stay when a process dies and another takes its place.
//
// The methods that take a testing.TB fail the test if the command is refused, so they belong on the test's goroutine;
// Command may be called from any.
type FaultModule struct {
	*Part
	Control string // path of the control block, for faultctl

	mu    sync.Mutex // guards what follows: one command at a time
	in    io.WriteCloser
	out   *bufio.Reader
	ended bool
}

// Fault puts the fault module in front of the part. Two of them are two devices, even in one process.
func Fault(t testing.TB, behind *Part) *FaultModule {
	t.Helper()
	return fault(t, behind, "")
}

// fault is Fault with more settings.
func fault(t testing.TB, behind *Part, more string) *FaultModule {
	t.Helper()
	built, err := build()
	if err != nil {
		t.Fatalf("building the fault module: %v", err)
	}
	dir := tempDir(t)
	part := *behind
	part.Dir, part.Init, part.Env = dir, "", nil
	part.Module = filepath.Join(dir, "faultmodule.so")
	part.URI = strings.Replace(behind.URI, "module-path="+behind.Module, "module-path="+part.Module, 1)
	f := &FaultModule{Part: &part, Control: filepath.Join(dir, "control")}

	var settings strings.Builder
	fmt.Fprintf(&settings, "module=%s\ncontrol=%s\n%s", behind.Module, f.Control, more)
	if behind.Init != "" {
		fmt.Fprintf(&settings, "reserved=%s\n", behind.Init)
	}
	for _, entry := range behind.Env {
		fmt.Fprintf(&settings, "env=%s\n", entry)
	}
	if err := os.WriteFile(part.Module+".conf", []byte(settings.String()), 0o600); err != nil {
		t.Fatalf("writing the fault module's settings: %v", err)
	}
	// A copy, not a link: the loader takes one file for one module, with one state.
	if err := copyFile(part.Module, filepath.Join(built, "faultmodule.so")); err != nil {
		t.Fatalf("copying the fault module: %v", err)
	}
	f.start(t, filepath.Join(built, "faultctl"))
	return f
}

func (f *FaultModule) start(t testing.TB, tool string) {
	t.Helper()
	cmd := exec.Command(tool, f.Control) //nolint:gosec,noctx // our own tool; it ends with its input
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("faultctl: %v", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("faultctl: %v", err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("faultctl: %v", err)
	}
	f.in, f.out = in, bufio.NewReader(out)
	t.Cleanup(func() {
		// What hangs must not outlive the test; the goroutine in it would keep the module's directory and more.
		_, _ = f.Command("clear")
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended = true
		in.Close()
		// It reports by its status that some command was refused, which the caller knows already.
		_ = cmd.Wait()
	})
}

// Command gives one line of the module's protocol and returns the lines of the answer before the last, and what the last says
// after "ok". It may be called by several goroutines.
func (f *FaultModule) Command(line string) (lines []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, errors.New("the fault module's test has ended")
	}
	if strings.ContainsAny(line, "\n\x00") {
		return nil, errors.New("a command is one line")
	}
	if _, err := io.WriteString(f.in, line+"\n"); err != nil {
		return nil, fmt.Errorf("sending the command: %w", err)
	}
	for {
		reply, err := f.out.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		reply = strings.TrimSuffix(reply, "\n")
		if complaint, refused := strings.CutPrefix(reply, "error "); refused {
			return nil, fmt.Errorf("command %q: %s", line, complaint)
		}
		if rest, last := strings.CutPrefix(reply, "ok"); last {
			return append(lines, strings.TrimSpace(rest)), nil
		}
		lines = append(lines, reply)
	}
}

// Do is Command for the test's goroutine.
func (f *FaultModule) Do(t testing.TB, words ...string) []string {
	t.Helper()
	lines, err := f.Command(strings.Join(words, " "))
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func (f *FaultModule) number(t testing.TB, words ...string) int {
	t.Helper()
	lines := f.Do(t, words...)
	n, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		t.Fatalf("%v is answered with no number: %v", words, err)
	}
	return n
}

// The options that choose among calls: "times=1", "every=10", "skip=5", "p=0.01", "seed=7", "at=after" (the real call is made,
// its answer lost). fn is a function's name, a list with commas, or a shell pattern such as "C_Sign*".

// Set makes fn answer rv, a CKR_ name or a number.
func (f *FaultModule) Set(t testing.TB, fn, rv string, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"set", fn, "rv=" + rv}, options...)...)
}

// Delay makes fn take longer. The option "queue" makes the delays of all callers follow one another.
func (f *FaultModule) Delay(t testing.TB, fn string, by time.Duration, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"delay", fn, strconv.FormatInt(by.Nanoseconds(), 10) + "ns"}, options...)...)
}

// Hang makes calls of fn hang until Release, Clear or the end of the test.
func (f *FaultModule) Hang(t testing.TB, fn string, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"hang", fn}, options...)...)
}

// Release lets hanging calls go on, and no more hang.
func (f *FaultModule) Release(t testing.TB) {
	t.Helper()
	f.Do(t, "release")
}

// Crash makes fn end the process: how is segv, abort, exit or kill.
func (f *FaultModule) Crash(t testing.TB, fn, how string, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"crash", fn, "how=" + how}, options...)...)
}

// Length makes fn lie about the length of its output: change is "+N", "-N" or "=N". The options "on=query" and "on=both" choose
// calls without a buffer.
func (f *FaultModule) Length(t testing.TB, fn, change string, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"length", fn, change}, options...)...)
}

// Corrupt spoils the output of fn: every byte by "xor=BYTE" (1 if nothing is said) or "fill=BYTE".
func (f *FaultModule) Corrupt(t testing.TB, fn string, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"corrupt", fn}, options...)...)
}

// DropSessions makes every open session of every process invalid, logins included.
func (f *FaultModule) DropSessions(t testing.TB) {
	t.Helper()
	f.Do(t, "drop-sessions")
}

// TokenGone takes the token away. Options: "as=empty" (no slot is listed), "rv=CKR" (for sessions; CKR_DEVICE_REMOVED).
func (f *FaultModule) TokenGone(t testing.TB, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"token", "gone"}, options...)...)
}

// TokenBack brings it back; its sessions stay dead.
func (f *FaultModule) TokenBack(t testing.TB) {
	t.Helper()
	f.Do(t, "token", "back")
}

// Wedge makes every call fail, with CKR_DEVICE_ERROR or the option "rv=CKR", until the process finalises and initialises.
func (f *FaultModule) Wedge(t testing.TB, options ...string) {
	t.Helper()
	f.Do(t, append([]string{"wedge"}, options...)...)
}

// AddMechanism claims a mechanism. HideMechanism takes one away, from the list and from use.
func (f *FaultModule) AddMechanism(t testing.TB, mechanism, minSize, maxSize, flags uint) {
	t.Helper()
	f.Do(t, fmt.Sprintf("mechanism add %#x min=%d max=%d flags=%#x", mechanism, minSize, maxSize, flags))
}

// HideMechanism takes a mechanism away, from the list and from use.
func (f *FaultModule) HideMechanism(t testing.TB, mechanism uint) {
	t.Helper()
	f.Do(t, fmt.Sprintf("mechanism hide %#x", mechanism))
}

// LimitSessions lets no more than limit sessions be open over all processes. report is what the token says of it: -1 for
// "unavailable", 0 for limit itself.
func (f *FaultModule) LimitSessions(t testing.TB, limit, report int) {
	t.Helper()
	f.Do(t, fmt.Sprintf("sessions max=%d report=%d", limit, report))
}

// LockPIN makes the user's PIN locked after n wrong ones in a row.
func (f *FaultModule) LockPIN(t testing.TB, n int) {
	t.Helper()
	f.Do(t, "pin-lock", strconv.Itoa(n))
}

// Clear removes all faults, or those of the functions. Counts stay.
func (f *FaultModule) Clear(t testing.TB, fn ...string) {
	t.Helper()
	f.Do(t, append([]string{"clear"}, fn...)...)
}

// Count is the number of calls of fn so far, in all processes, those that died included.
func (f *FaultModule) Count(t testing.TB, fn string) int { t.Helper(); return f.number(t, "count", fn) }

// Failed is the number of calls of fn that were answered with anything but CKR_OK.
func (f *FaultModule) Failed(t testing.TB, fn string) int {
	t.Helper()
	return f.number(t, "failed", fn)
}

// Fired is the number of faults done to calls of fn.
func (f *FaultModule) Fired(t testing.TB, fn string) int { t.Helper(); return f.number(t, "fired", fn) }

// Hanging is the number of calls that hang now, in living processes.
func (f *FaultModule) Hanging(t testing.TB) int { t.Helper(); return f.number(t, "hanging") }

// WrongPINs is the number of logins that the device refused for their PIN, those that found it locked included.
func (f *FaultModule) WrongPINs(t testing.TB) int { t.Helper(); return f.number(t, "wrong-pins") }

// ResetCounts sets all counts to zero.
func (f *FaultModule) ResetCounts(t testing.TB) {
	t.Helper()
	f.Do(t, "reset-counts")
}

// Process is one that has the module initialised.
type Process struct {
	PID, Sessions, Peak, Hanging int // sessions open now and at most; calls hanging now
}

// Processes lists the living processes that have the module initialised.
func (f *FaultModule) Processes(t testing.TB) []Process {
	t.Helper()
	lines := f.Do(t, "processes")
	list := make([]Process, 0, len(lines))
	for _, line := range lines[:len(lines)-1] {
		var p Process
		if _, err := fmt.Sscanf(line, "%d sessions=%d peak=%d hanging=%d", &p.PID, &p.Sessions, &p.Peak, &p.Hanging); err != nil {
			t.Fatalf("a process is shown as %q: %v", line, err)
		}
		list = append(list, p)
	}
	return list
}

// build makes the module if it is out of date; tests of several packages may ask at once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := scripts()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "faultmodule")
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	out, err := exec.Command("make", "-s", "-C", dir).CombinedOutput() //nolint:gosec,noctx // our own Makefile
	if err != nil {
		return "", fmt.Errorf("make: %w: %s", err, out)
	}
	return dir, nil
})

// lock keeps the fault module's directory to one builder, of whatever process.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(filepath.Join(dir, "Makefile")) //nolint:gosec // our own
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the build: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // read only, and the lock goes with it
}

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o700) //nolint:gosec // a shared object
}
