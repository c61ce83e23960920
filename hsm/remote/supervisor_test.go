package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// quick makes supervision fast enough for tests.
var quick = Options{Grace: 200 * time.Millisecond, RestartEvery: 300 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(raceWatch{}, nil))}

// raceWatch is the log of children: what the race detector finds in them must end the test.
type raceWatch struct{}

func (raceWatch) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("DATA RACE")) {
		panic("a data race in a child: see its output with a logger of your own")
	}
	return len(p), nil
}

func quickly(processes int) Options {
	o := quick
	o.Processes = processes
	return o
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition, for the 2 s in which a token must work again, and a while for a busy machine.
func eventually(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("not reached: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

func works(s *Supervisor) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	out, err := use(ctx, s, "echo")
	return err == nil && out == "echo"
}

// wantUnavailable checks an error of a call whose child was lost.
func wantUnavailable(t testing.TB, err error) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.BackendUnavailable || f.After <= 0 {
		t.Errorf("got %v, want %s with a time to try again", err, fault.BackendUnavailable)
	}
}

func TestEveryMethodReachesTheToken(t *testing.T) {
	t.Parallel()
	s := open(t, device(t), quick)
	ctx := within(t, 10*time.Second)
	id := token.ID{1, 2, 3}
	made, err := s.Generate(ctx, id, backend.ECDSAP256, backend.PurposeSigning, true)
	want := token.Object{ID: id, Algorithm: backend.ECDSAP256, Public: []byte("public"), Wrapped: []byte("wrapped"), Local: true, Sensitive: true, NeverExtractable: true}
	if diff := cmp.Diff(want, made); err != nil || diff != "" {
		t.Fatalf("Generate: %v\n%s", err, diff)
	}
	if _, err := s.Generate(ctx, id, backend.ECDSAP256, backend.PurposeSigning, false); !fault.Has(err, fault.Conflict) {
		t.Errorf("Generate again: %v", err)
	}
	if o, err := s.Import(ctx, token.ID{9}, backend.AES256GCM, backend.PurposeEncryption, []byte("material"), false); err != nil || len(o.Public) != 32 || o.Wrapped != nil {
		t.Errorf("Import: %+v, %v", o, err)
	}
	want.Wrapped = nil
	found, err := s.Find(ctx, id)
	if diff := cmp.Diff(want, found); err != nil || diff != "" {
		t.Errorf("Find: %v\n%s", err, diff)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 2 {
		t.Errorf("List: %v, %v", list, err)
	}
	if err := s.Destroy(ctx, id); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(ctx, id); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("Find after Destroy: %v", err)
	}
	if p, err := s.Random(ctx, 1000); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{7}, 1000)) {
		t.Errorf("Random: %d bytes, %v", len(p), err)
	}
	if err := s.Ping(ctx); err != nil {
		t.Error(err)
	}
	if out, err := use(ctx, s, ""); err != nil || out != "" {
		t.Errorf("Use of nothing: %q, %v", out, err)
	}
	large := strings.Repeat("x", 3<<20)
	if out, err := use(ctx, s, large); err != nil || out != large {
		t.Errorf("Use of 3 MiB: %d bytes, %v", len(out), err)
	}
	if _, err := use(ctx, s, strings.Repeat("x", maxFrame)); !fault.Has(err, fault.BadSize) {
		t.Errorf("Use of more than a frame: %v", err)
	}
	if _, err := use(ctx, s, "huge"); !fault.Has(err, fault.BadSize) {
		t.Errorf("Use with a huge answer: %v", err)
	}
	_, err = use(ctx, s, "fault")
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.DecryptionFailed || f.Message != "it does not open" || f.After != 3*time.Second {
		t.Errorf("a fault: %v", err)
	}
	if d := s.Describe(); d.Label != "fake" || d.Generation != 1 || len(d.Mechanisms) != 1 || len(d.Capabilities) != 1 {
		t.Errorf("Describe: %+v", d)
	}
	if _, err := use(ctx, s, "reinitialise"); err != nil {
		t.Error(err)
	}
	if d := s.Describe(); d.Generation != 2 {
		t.Errorf("Describe after a new generation: %d", d.Generation)
	}
	if st := s.Stats(); st.Logins != 1 || st.Sessions != 1 || st.Breaker != "closed" || st.Reinitialisations != 1 {
		t.Errorf("Stats: %+v", st)
	}
	if c := s.Counters(); c.Ready != 1 || c.Restarts+c.Crashes+c.Kills != 0 {
		t.Errorf("Counters: %+v", c)
	}
}

func TestLongListsComeInParts(t *testing.T) {
	t.Parallel()
	s := open(t, device(t), quick)
	ctx := within(t, 30*time.Second)
	var wg sync.WaitGroup
	const each, makers = 500, 16
	for m := range makers {
		wg.Go(func() {
			for i := range each {
				id := token.ID{byte(m), byte(i >> 8), byte(i)}
				if _, err := s.Import(ctx, id, backend.Algorithm(strings.Repeat("A", 500)), backend.PurposeEncryption, nil, false); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	list, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[token.ID]bool)
	for _, o := range list {
		seen[o.ID] = true
	}
	if len(list) != each*makers || len(seen) != len(list) {
		t.Errorf("%d objects, %d different", len(list), len(seen))
	}
}

// TestChildIsLost loses a child in every way that a module has. Operations succeed again within two seconds, and the
// test says how long it took.
func TestChildIsLost(t *testing.T) {
	for _, input := range []string{"crash", "hang", "stuck", "stop"} {
		t.Run(input, func(t *testing.T) {
			t.Parallel()
			s := open(t, device(t), Options{})
			start := time.Now()
			_, err := use(within(t, 300*time.Millisecond), s, input)
			if input == "crash" {
				wantUnavailable(t, err)
			} else if !fault.Has(err, fault.Timeout) {
				t.Errorf("got %v", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("the caller waited %v beyond its deadline", d)
			}
			eventually(t, "the child is replaced", func() bool { return s.Counters().Restarts == 1 })
			eventually(t, "operations succeed", func() bool { return works(s) })
			t.Logf("operations succeeded %v after the call began", time.Since(start))
			c := s.Counters()
			if c.Kills+c.Crashes != 1 || (c.Crashes == 1) != (input == "crash") {
				t.Errorf("%+v", c)
			}
			if d := s.Describe(); d.Generation != 2 {
				t.Errorf("generation %d: it must grow with a new child", d.Generation)
			}
		})
	}
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		dir := device(t)
		s := open(t, dir, Options{})
		waiting := make(chan error)
		go func() {
			_, err := use(within(t, 20*time.Second), s, "sleep 30s")
			waiting <- err
		}()
		eventually(t, "a call is under way", func() bool { return s.Counters().InFlight == 1 })
		time.Sleep(time.Second) // it has lived long enough to be replaced at once
		pid, err := strconv.Atoi(recorded(t, dir, "pids")[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		wantUnavailable(t, <-waiting)
		eventually(t, "operations succeed", func() bool { return works(s) })
		t.Logf("operations succeeded after %v", time.Since(start))
	})
}

// TestOtherCallsSurvive crashes a child under many callers: uses of keys are made again on the other child and all succeed.
func TestOtherCallsSurvive(t *testing.T) {
	t.Parallel()
	dir := device(t)
	s := open(t, dir, quickly(2))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 200 {
				want := fmt.Sprint("call ", i, n)
				if i == 0 && n == 100 {
					want = "crash-once"
				}
				got, err := use(within(t, 10*time.Second), s, want)
				if err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
	if c := s.Counters(); c.Crashes != 1 || c.Retries == 0 || c.Lost != 0 {
		t.Errorf("%+v", c)
	}
}

func TestMakingIsNeverRepeated(t *testing.T) {
	t.Parallel()
	dir := device(t)
	s := open(t, dir, quickly(2))
	set(t, dir, "crash-generate")
	_, err := s.Generate(within(t, 5*time.Second), token.ID{1}, backend.ECDSAP256, backend.PurposeSigning, false)
	wantUnavailable(t, err)
	if n := len(recorded(t, dir, "generated")); n != 1 {
		t.Errorf("the token was told %d times to make the key", n)
	}
	if c := s.Counters(); c.Retries != 0 {
		t.Errorf("%+v", c)
	}
}

func TestCallsGoToTheChildWithTheLeastToDo(t *testing.T) {
	t.Parallel()
	s := open(t, device(t), quickly(3))
	if c := s.Counters(); c.Ready != 3 {
		t.Fatalf("%+v", c)
	}
	pids := make(map[string]bool)
	for n := range 3 {
		pid, err := use(within(t, 5*time.Second), s, "pid")
		if err != nil || pids[pid] {
			t.Fatalf("process %q again, or %v", pid, err)
		}
		pids[pid] = true
		go func() {
			if _, err := use(within(t, 20*time.Second), s, "sleep 5s"); err == nil {
				t.Error("a call of 5 s ended before the test")
			}
		}()
		eventually(t, "the call is under way", func() bool { return s.Counters().InFlight == n+1 })
	}
}

// TestFullQueueKillsNobody has calls that wait in the child until their deadline: the child is busy, not broken.
func TestFullQueueKillsNobody(t *testing.T) {
	t.Parallel()
	dir := device(t)
	config := testConfig(dir)
	config.Sessions, config.Queue = 4, 4
	s, err := Open(t.Context(), config, quick)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := use(within(t, 2*time.Second), s, "wait"); !fault.Has(err, fault.Timeout) {
				t.Error(err)
			}
		})
	}
	eventually(t, "all calls are under way", func() bool { return s.Counters().InFlight == 8 })
	_, err = use(within(t, 10*time.Second), s, "one too many")
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.Overloaded || f.After <= 0 {
		t.Errorf("got %v", err)
	}
	wg.Wait()
	time.Sleep(4 * quick.Grace)
	eventually(t, "no call is under way", func() bool { return s.Counters().InFlight == 0 })
	eventually(t, "operations succeed", func() bool { return works(s) })
	if c := s.Counters(); c.Kills+c.Crashes != 0 {
		t.Errorf("%+v", c)
	}
	for _, line := range recorded(t, dir, "ended") {
		if line != context.DeadlineExceeded.Error() && line != context.Canceled.Error() {
			t.Errorf("a call ended with %q", line)
		}
	}
}

// TestTokenThatDoesNotAnswer has calls that only time out, and a test operation that does too: then the child is replaced.
func TestTokenThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	dir := device(t)
	s := open(t, dir, quick)
	set(t, dir, "hang-ping")
	if _, err := use(within(t, 50*time.Millisecond), s, "wait"); !fault.Has(err, fault.Timeout) {
		t.Error(err)
	}
	eventually(t, "the child is killed", func() bool { return s.Counters().Kills == 1 })
}

func TestCancelledCallsEndInTheChild(t *testing.T) {
	t.Parallel()
	dir := device(t)
	s := open(t, dir, quick)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := use(ctx, s, "wait")
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { return s.Counters().InFlight == 1 })
	cancel()
	if err := <-done; !fault.Has(err, fault.Timeout) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "it has ended in the child", func() bool { return s.Counters().InFlight == 0 })
	if lines := recorded(t, dir, "ended"); len(lines) != 1 || lines[0] != context.Canceled.Error() {
		t.Errorf("%q", lines)
	}
	if _, err := use(ctx, s, "echo"); !fault.Has(err, fault.Timeout) {
		t.Errorf("a call whose context has ended: %v", err)
	}
}

func TestRestartsAreRateLimited(t *testing.T) {
	t.Parallel()
	dir := device(t)
	s := open(t, dir, quick)
	set(t, dir, "crash-open")
	if _, err := use(within(t, time.Second), s, "crash"); err == nil {
		t.Error("a crash succeeded")
	}
	start := time.Now()
	eventually(t, "some starts have failed", func() bool { return s.Counters().FailedStarts >= 4 })
	if d := time.Since(start); d < 3*quick.RestartEvery-50*time.Millisecond {
		t.Errorf("four starts in %v", d)
	}
	_, err := use(within(t, time.Second), s, "echo")
	wantUnavailable(t, err)
	if st := s.Stats(); st.Breaker != "open" || st.Sessions != 0 {
		t.Errorf("%+v", st)
	}
	unset(t, dir, "crash-open")
	set(t, dir, "gone")
	n := s.Counters().FailedStarts
	eventually(t, "the token is still away", func() bool { return s.Counters().FailedStarts > n })
	unset(t, dir, "gone")
	d := eventually(t, "operations succeed", func() bool { return works(s) })
	t.Logf("operations succeeded %v after the token was back", d)
	if c := s.Counters(); c.Restarts != 1 {
		t.Errorf("%+v", c)
	}
}

func TestOpenFails(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		code fault.Code
	}{
		"hang": {"hang-open", fault.Timeout}, "crash": {"crash-open", fault.BackendUnavailable}, "no token": {"gone", fault.BackendUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := device(t)
			set(t, dir, c.file)
			s, err := Open(within(t, time.Second), testConfig(dir), quick)
			if !fault.Has(err, c.code) || s != nil {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("no program", func(t *testing.T) {
		t.Parallel()
		o := quick
		o.Command = missing
		if _, err := Open(t.Context(), testConfig(device(t)), o); !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

// TestRefusedPINIsSentOnce has every occasion on which a wrong PIN could be sent a second time.
func TestRefusedPINIsSentOnce(t *testing.T) {
	t.Run("when opening", func(t *testing.T) {
		t.Parallel()
		dir := device(t)
		config := testConfig(dir)
		config.PIN = []byte("111111")
		_, err := Open(t.Context(), config, quickly(3))
		if !fault.Has(err, fault.BackendUnavailable) || !errors.Is(err, token.ErrPINRefused) {
			t.Errorf("got %v", err)
		}
		if n := len(recorded(t, dir, "logins")); n != 1 {
			t.Errorf("the PIN was sent %d times", n)
		}
	})
	t.Run("when it was changed", func(t *testing.T) {
		t.Parallel()
		dir := device(t)
		s := open(t, dir, quickly(3))
		if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("222222"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(recorded(t, dir, "logins"))
		// All sessions die at once, and all children want to log in again.
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				if _, err := use(within(t, 5*time.Second), s, "relogin"); !errors.Is(err, token.ErrPINRefused) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if n := len(recorded(t, dir, "logins")) - before; n != 1 {
			t.Errorf("the PIN was sent %d times", n)
		}
		if !works(s) || !s.Counters().PINRefused {
			t.Error("children that are logged in must go on")
		}
		for range 3 { // all children crash
			if _, err := use(within(t, 5*time.Second), s, "crash"); err == nil {
				t.Error("a crash succeeded")
			}
		}
		eventually(t, "no child is left", func() bool { return s.Counters().Ready == 0 })
		time.Sleep(3 * quick.RestartEvery)
		if n := len(recorded(t, dir, "logins")) - before; n != 1 {
			t.Errorf("the PIN was sent %d times", n)
		}
		_, err := use(within(t, time.Second), s, "echo")
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BackendUnavailable || f.After != 0 || !errors.Is(err, token.ErrPINRefused) {
			t.Errorf("got %v: there is nothing to wait for", err)
		}
	})
}

// TestSecretsStayOut looks for the PIN where others can see it.
func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	dir := device(t)
	o := quick
	o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := open(t, dir, o)
	pid := recorded(t, dir, "pids")[0]
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(filepath.Join("/proc", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, testConfig(dir).PIN) || len(b) == 0 {
			t.Errorf("%s: %q", file, b)
		}
	}
	status, err := os.ReadFile(filepath.Join("/proc", pid, "limits"))
	if err != nil || !strings.Contains(string(status), "Max core file size        0                    0") {
		t.Errorf("core files are not switched off: %s, %v", status, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Contains(text, string(testConfig(dir).PIN)) || !strings.Contains(text, "opening with [redacted]") {
		t.Errorf("the log has the PIN, or not what the child printed:\n%s", text)
	}
	if lines := recorded(t, dir, "closed"); len(lines) != 1 || lines[0] != pid {
		t.Errorf("the token was not closed by its child: %q", lines)
	}
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestCloseWaitsForCalls(t *testing.T) {
	t.Parallel()
	s := open(t, device(t), quickly(2))
	done := make(chan error)
	go func() {
		out, err := use(within(t, 5*time.Second), s, "sleep 300ms")
		if err == nil && out != "sleep 300ms" {
			err = errors.New(out)
		}
		done <- err
	}()
	eventually(t, "the call is under way", func() bool { return s.Counters().InFlight == 1 })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("a call under way: %v", err)
	}
	if _, err := use(within(t, time.Second), s, "echo"); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a call after Close: %v", err)
	}
	if d := s.Describe(); d.Label != "fake" {
		t.Errorf("Describe after Close: %+v", d)
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}
