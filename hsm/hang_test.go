package hsm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// twin copies a SoftHSM token as it is now, as an HSM's backup is restored to another one. Only the fault module can load it, which has an
// environment of its own.
func twin(t testing.TB, p *rig.Part) *rig.Part {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "twin")
	if out, err := exec.Command("cp", "-r", p.Dir, dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the token: %v: %s", err, out)
	}
	settings := filepath.Join(dir, "softhsm2.conf")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte(strings.ReplaceAll(string(text), p.Dir, dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	out := *p
	out.Dir, out.Env = dir, []string{"SOFTHSM2_CONF=" + settings}
	return &out
}

// timed makes n signatures by 4 callers and gives how long each took.
func timed(t *testing.T, b *hsm.Backend, r backend.Ref, n int) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range n / 4 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				start := time.Now()
				err := sign(ctx, b, r)
				d := time.Since(start)
				cancel()
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
				if err != nil {
					t.Errorf("Sign after %v: %v", d, err)
					return
				}
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

func p99(sorted []time.Duration) time.Duration { return sorted[len(sorted)*99/100] }

// TestHangs has two tokens with the same keys, each before a module in a process of its own, and hangs one of them: no call fails, none takes
// longer than the share of one member, those that come later notice nothing, and the member comes back.
func TestHangs(t *testing.T) {
	p := rig.SoftHSM(t)
	first := how{}.open(t, "first", p)
	r, err := first.Generate(t.Context(), spec(backend.ECDSAP256, backend.PurposeSigning))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	left, right := rig.Fault(t, p), rig.Fault(t, twin(t, p))
	b := open(t, hsm.Options{Members: []hsm.Member{{Name: "left", Open: opener(t, left.Part, "", nil)}, {Name: "right", Open: opener(t, right.Part, "", nil)}}})
	before := timed(t, b, r, 400)
	if left.Count(t, "C_Sign") == 0 || right.Count(t, "C_Sign") == 0 {
		t.Fatal("a member gets nothing")
	}
	for _, hangs := range []string{"C_Sign", "C_*"} {
		t.Run(hangs, func(t *testing.T) {
			left.Hang(t, hangs)
			during := timed(t, b, r, 40)
			// A machine that is busy with other things is slower by as much as it was before.
			if longest := during[len(during)-1]; longest < 200*time.Millisecond || longest > 1500*time.Millisecond+20*p99(before) {
				t.Errorf("the longest call while a member began to hang took %v", longest)
			}
			if state(b, 0) == hsm.StateHealthy {
				t.Error("a member that hangs is healthy")
			}
			after := timed(t, b, r, 4000)
			t.Logf("p99 before %v, with a member that hangs %v; longest %v", p99(before), p99(after), after[len(after)-1])
			if p99(after) > 10*p99(before)+20*time.Millisecond {
				t.Errorf("p99 was %v and is %v with a member that hangs", p99(before), p99(after))
			}
			left.Clear(t)
			until(t, "coming back", func() bool { return state(b, 0) == hsm.StateHealthy })
			calls := left.Count(t, "C_Sign")
			timed(t, b, r, 80)
			if left.Count(t, "C_Sign") == calls {
				t.Error("the member that came back gets nothing")
			}
		})
	}
}
