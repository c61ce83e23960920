package remote

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func missing() *exec.Cmd { return exec.Command("/nonexistent/keywright") }

// TestNothingIsLeft goes through openings, losses and closings, and counts what there is afterwards. It runs alone: parallel tests
// wait until those that are not are over.
func TestNothingIsLeft(t *testing.T) {
	round := func() {
		s, err := Open(t.Context(), testConfig(device(t)), quickly(2))
		if err != nil {
			t.Fatal(err)
		}
		for _, input := range []string{"echo", "crash-once", "hang", "stuck", "stop"} {
			_, _ = use(within(t, 50*time.Millisecond), s, input) // how each ends is for other tests
		}
		eventually(t, "all is well", func() bool { c := s.Counters(); return c.Restarts >= 2 && c.Ready == 2 && c.InFlight == 0 })
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		o := quick
		o.Command = rogue("garbage hello")
		if _, err := Open(t.Context(), testConfig(device(t)), o); err == nil {
			t.Error("a child that speaks nonsense was taken")
		}
		o.Command = missing
		if _, err := Open(t.Context(), testConfig(device(t)), o); err == nil {
			t.Error("a program that does not exist was started")
		}
	}
	round() // what the runtime opens once
	descriptors, goroutines := count(t, "/proc/self/fd/*"), runtime.NumGoroutine()
	for range 2 {
		round()
	}
	eventually(t, "no descriptor is left", func() bool { return count(t, "/proc/self/fd/*") <= descriptors })
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	if list := children(t); len(list) > 0 {
		t.Errorf("children are left, or not reaped: %v", list)
	}
}

func count(t *testing.T, pattern string) int {
	t.Helper()
	list, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// children gives the process's children, the dead included.
func children(t *testing.T) (list []string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Fatal("the system does not tell the children: ", err)
	}
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		list = append(list, strings.Fields(string(b))...)
	}
	return list
}

// TestChildEndsWithItsParent kills a parent: its child, which hangs in its module, is gone at once.
func TestChildEndsWithItsParent(t *testing.T) {
	dir := device(t)
	cmd := rogue("")()
	cmd.Args = append(cmd.Args[:1:1], "-test.run=^TestParentThatDies$")
	cmd.Env = append(os.Environ(), parentVariable+"="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child is there", func() bool { return len(recorded(t, dir, "pids")) == 1 && len(recorded(t, dir, "hanging")) == 1 })
	pid := recorded(t, dir, "pids")[0]
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the parent ended well")
	}
	eventually(t, "the child is gone", func() bool {
		b, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		return err != nil || strings.Contains(string(b), ") Z ") // nobody may be there to reap it
	})
}

const parentVariable = "KEYWRIGHT_TEST_PARENT"

// TestParentThatDies is the parent of TestChildEndsWithItsParent; without it there is nothing to do.
func TestParentThatDies(t *testing.T) {
	dir := os.Getenv(parentVariable)
	if dir == "" {
		return
	}
	s, err := Open(t.Context(), testConfig(dir), quick)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if _, err := use(t.Context(), s, "hang"); err == nil {
			t.Error("a hang succeeded")
		}
	}()
	eventually(t, "the call is under way", func() bool { return s.Counters().InFlight == 1 })
	if err := record(dir, "hanging", "yes"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
}
