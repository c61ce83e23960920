package softhsmtest

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

var (
	soakTime = flag.Duration("soak", 3*time.Second, "how long the soak test does faults to HSMs under load")
	soakSeed = flag.Uint64("soak-seed", 0, "of its faults; 0: a random one, which it prints")
)

// usage is what a service holds of the system, and of its tokens.
type usage struct {
	threads, files, goroutines int
	children                   int
	childThreads, childFiles   int // of all children together
	inUse, known, open         int // sessions: in use and open as the service counts them, open as the modules do
}

// TestSoak puts a service with two HSMs, one with keys on the token and one with wrapped keys, under mixed load while both fail in every way
// that the fault module knows. Afterwards everything that was acknowledged works, no result was ever wrong, the audit log
// verifies, no key was lost or made twice, and nothing has leaked.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-soak-seed %d", seed)
	parts := []*rig.Part{rig.SoftHSM(t), rig.SoftHSM(t)}
	devices := []*rig.FaultModule{rig.Fault(t, parts[0]), rig.Fault(t, parts[1])}
	dir := t.TempDir()
	s := start(t, dir, "--metrics-listen", "127.0.0.1:0",
		"--backend", "resident="+devices[0].URI+"&x-processes=2&x-sessions=16",
		"--backend", "wrapped="+devices[1].URI+"&x-processes=1&x-sessions=16&x-placement=wrapped")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the service said:\n%s", s.log)
		}
	})
	l := newSoak(s, soakPatience)
	for _, b := range []string{"resident", "wrapped"} {
		if err := l.prepare(b); err != nil {
			t.Fatalf("%v\n%s", err, s.log)
		}
	}
	warm := func() {
		l.start("resident", "wrapped")
		time.Sleep(2 * time.Second)
		l.halt()
		l.settle(t, "resident", "wrapped")
	}
	warm()
	before := measure(t, s, devices)

	l.start("resident", "wrapped")
	f := &mischief{t: t, devices: devices, random: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}} //nolint:gosec // repeatable on purpose
	f.run(time.Now().Add(*soakTime))
	lifted := time.Now()
	healed := l.awaitHealing(t)
	l.halt()
	t.Logf("%v of faults: %v; healed %v after the last", *soakTime, f.counts, healed.Sub(lifted).Round(time.Millisecond))
	t.Logf("%d operations done, %d refused (%s), %d without an answer in time; %d keys made, not %v", l.ok.Load(), l.refused.Load(),
		strings.TrimSpace(l.refusals()), l.lost.Load(), len(l.made), l.failed)
	l.settle(t, "resident", "wrapped")
	l.checkAll(t)
	warm()
	after := measure(t, s, devices)
	checkLeaks(t, before, after)
	for i, d := range devices {
		if n := d.WrongPINs(t); n != 0 {
			t.Errorf("device %d has refused %d logins", i, n)
		}
	}
	verifyAudit(t, s)
	for i, backend := range []string{"resident", "wrapped"} {
		l.reconcile(t, parts[i], dir, backend)
	}
	for _, w := range l.wrong {
		t.Errorf("wrong result: %s", w)
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Error("something panicked")
	}
	s.stop()
}

// awaitHealing waits until every kind of operation has succeeded on both backends, and gives when.
func (l *soak) awaitHealing(t *testing.T) time.Time {
	t.Helper()
	for _, b := range []string{"resident", "wrapped"} {
		for _, try := range []struct {
			what string
			do   func() error
		}{
			{"sign", func() error { return l.sign(b+"-ECDSA-P256", []byte("again")) }},
			{"sign with RSA", func() error { return l.sign(b+"-RSA-2048", []byte("again")) }},
			{"encrypt", func() error { return l.encrypt(b+"-AES-256-GCM", []byte("again")) }},
			{"mac", func() error { return l.mac(b+"-HMAC-SHA256", nil) }},
			{"create", func() error { return l.create(b) }},
		} {
			var err error
			for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if err = try.do(); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Errorf("%s on %s does not work 15 s after the last fault: %v", try.what, b, err)
					break
				}
			}
		}
	}
	return time.Now()
}

// settle waits until nothing is under way and no process is being replaced.
func (l *soak) settle(t *testing.T, backends ...string) {
	t.Helper()
	good := 0
	for end := time.Now().Add(20 * time.Second); good < 20 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, b := range backends {
			if good++; l.sign(b+"-ECDSA-P256", []byte("settled")) != nil {
				good = 0
			}
		}
	}
	if good < 20 {
		t.Error("the service does not settle")
	}
	l.s.http.CloseIdleConnections()
	time.Sleep(2500 * time.Millisecond) // the counters are read each second, a lost process is replaced after one
}

// checkAll holds the service to all that it acknowledged.
func (l *soak) checkAll(t *testing.T) {
	t.Helper()
	for _, k := range sample(l.made, 1000) {
		if err := l.use(k); err != nil {
			t.Errorf("%s (%s, %s, %s) was acknowledged and does not work: %v", k.name, k.id, k.algorithm, k.backend, err)
		}
	}
	for _, c := range sample(l.sealed, 1500) {
		if err := l.open(c.key, c.ciphertext, c.plaintext); err != nil {
			t.Errorf("a ciphertext of %s does not open: %v", c.key, err)
		}
	}
	for key, versions := range l.versions {
		seen := map[int]bool{}
		for _, v := range versions {
			if seen[v] {
				t.Errorf("version %d of %s was answered twice", v, key)
			}
			seen[v] = true
		}
		// Old versions sign no more; what they encrypted is among the ciphertexts.
		for _, v := range sample(versions, 200) {
			if strings.Contains(key, "ECDSA") {
				if _, err := l.public(key, v); err != nil {
					t.Errorf("version %d of %s was acknowledged and is not there: %v", v, key, err)
				}
			}
		}
	}
}

// reconcile compares token and store with the command that operators have.
func (l *soak) reconcile(t *testing.T, p *rig.Part, dir, backend string) {
	t.Helper()
	cmd := exec.Command(binary, "hsm", "reconcile", "--uri", p.URI, "--data", dir, "-o", "json")
	cmd.Env = append(os.Environ(), p.Env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 7 {
		err = nil // something was found, which is looked at here
	}
	var r struct {
		Objects, Records int
		Orphans          []json.RawMessage `json:"objects_without_record"`
		Missing          []json.RawMessage `json:"records_without_object"`
		Creating         []json.RawMessage `json:"objects_being_created"`
	}
	if jerr := json.Unmarshal(out, &r); err != nil || jerr != nil {
		t.Fatalf("hsm reconcile: %v, %v\n%s", err, jerr, out)
	}
	t.Logf("%s: %d keys on the token, %d records, %d objects without a record, %d being created", backend, r.Objects, r.Records, len(r.Orphans), len(r.Creating))
	for _, missing := range r.Missing {
		t.Errorf("%s: a record without its object: %s", backend, missing)
	}
	if left := len(r.Orphans) + len(r.Creating); left > l.failed[backend] {
		t.Errorf("%s: %d objects of no finished key, but %d creations failed", backend, left, l.failed[backend])
	}
	if twice := r.Objects - (r.Records - len(r.Missing)) - len(r.Orphans) - len(r.Creating); twice != 0 {
		t.Errorf("%s: %d keys are on the token twice", backend, twice)
	}
}

// measure looks at a service that has nothing to do.
func measure(t *testing.T, s *service, devices []*rig.FaultModule) usage {
	t.Helper()
	var u usage
	pid := s.cmd.Process.Pid
	u.threads, u.files = entries(t, pid, "task"), entries(t, pid, "fd")
	for _, child := range childrenOf(t, pid) {
		u.children++
		u.childThreads += entries(t, child, "task")
		u.childFiles += entries(t, child, "fd")
	}
	for name, v := range s.metrics() {
		switch {
		case name == "go_goroutines":
			u.goroutines = int(v)
		case strings.HasPrefix(name, "keywright_hsm_sessions_in_use{"):
			u.inUse += int(v)
		case strings.HasPrefix(name, "keywright_hsm_sessions{"):
			u.known += int(v)
		}
	}
	for _, d := range devices {
		for _, p := range d.Processes(t) {
			u.open += p.Sessions
		}
	}
	return u
}

func entries(t *testing.T, pid int, of string) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, of))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// childrenOf gives the processes whose parent is pid, zombies included: those that are not waited for leak too.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for _, f := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, child)
		}
	}
	return out
}

// metrics gives the values of all series by name and labels.
func (s *service) metrics() map[string]float64 {
	s.t.Helper()
	address, err := os.ReadFile(filepath.Join(s.dir, "metrics.address"))
	if err != nil {
		s.t.Fatal(err)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + strings.TrimSpace(string(address)) + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64); err == nil {
			out[line[:at]] = v
		}
	}
	return out
}

// checkLeaks compares a service before and after. The Go runtime keeps the threads that it once needed, some more after hours of
// load than after seconds, and a connection may be closing at the moment of a look: so much is tolerated, whatever the length of the soak.
func checkLeaks(t *testing.T, before, after usage) {
	t.Helper()
	t.Logf("before: %+v", before)
	t.Logf("after:  %+v", after)
	for _, c := range []struct {
		what          string
		before, after int
		more          int
	}{
		{"threads of the service", before.threads, after.threads, 10},
		{"descriptors of the service", before.files, after.files, 4},
		{"goroutines", before.goroutines, after.goroutines, 8},
		{"children", before.children, after.children, 0},
		{"threads of the children", before.childThreads, after.childThreads, 20},
		{"descriptors of the children", before.childFiles, after.childFiles, 6},
		{"sessions in use", 0, after.inUse, 0},
		// A pool is as large as its load once was, at most 16 and the reserve of 2 in each of three processes.
		{"sessions", 3 * (16 + 2), after.open, 0},
		{"sessions that the service does not know of", after.known, after.open, 0},
	} {
		if c.after > c.before+c.more {
			t.Errorf("%s: %d before, %d after", c.what, c.before, c.after)
		}
	}
	if after.children != 3 {
		t.Errorf("%d children, want 3", after.children)
	}
}
