package softhsmtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

type shownJob struct {
	ID, State, Node     string
	Done, Failed, Total int64
	Failures            []struct{ Resource string }
	Error               *struct {
		Code string `json:"error_code"`
	}
}

func (c *nodesOn) job(t *testing.T, s *service, id string) shownJob {
	t.Helper()
	var j shownJob
	s.must(200, "GET", "/jobs/"+id, nil).into(t, &j)
	return j
}

// TestMoveAndKill: two nodes share a database and a token. Keys move from the software root to the token while both nodes use them; the node that
// moves them is killed with -9 in the middle. The other goes on where it was, no call on it fails, every key ends up on the token, and what was protected
// before opens.
func TestMoveAndKill(t *testing.T) {
	part := rig.SoftHSM(t)
	part.Setenv(t)
	c := startNodes(t, rig.Postgres(t), 2, fmt.Sprintf("backends:\n  - {name: software, uri: \"software:\"}\n  - {name: hsm, uri: %q}\n", part.URI))
	const count = 240 // some seconds of work on a quiet machine, and progress is written once a second
	names := make([]string, count)
	old := map[string]string{} // ciphertexts of before
	for i := range names {
		names[i] = fmt.Sprintf("moving-%03d", i)
		s := c.all[i%2]
		s.must(201, "POST", "/keys", m{"name": names[i], "algorithm": "AES-256-GCM", "backend": "software"})
		var sealed struct{ Ciphertext string }
		s.must(200, "POST", "/keys/"+names[i]+"/encrypt", m{"plaintext": []byte(names[i])}).into(t, &sealed)
		old[names[i]] = sealed.Ciphertext
	}
	var made shownJob
	c.all[0].must(201, "POST", "/keys/move", m{"name_prefix": "moving-", "backend": "hsm"}).into(t, &made)

	// The node that has it, once it is well under way.
	var runner int
	var before shownJob
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		before = c.job(t, c.all[0], made.ID)
		if before.State == "running" && before.Done > 0 {
			break
		}
		if time.Now().After(deadline) || before.State == "done" {
			t.Fatalf("the move is not seen under way: %+v", before)
		}
	}
	runner = -1
	for i, n := range c.nodes(t, c.all[0]) {
		for _, l := range n.Leases {
			if l == "job/"+made.ID {
				runner = i
			}
		}
	}
	if runner < 0 {
		t.Fatalf("no node has the lease of %+v", before)
	}
	other := c.all[1-runner]

	// Use goes on on the other node, while the first one is killed and long after.
	stop := make(chan struct{})
	var group sync.WaitGroup
	var used int
	group.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				used = i
				return
			default:
			}
			name := names[i%count]
			a, err := other.call("POST", "/keys/"+name+"/decrypt", m{"ciphertext": old[name]})
			if err != nil || a.status != 200 {
				t.Errorf("using %s during its move: %d %s, %v", name, a.status, a.code, err)
				return
			}
		}
	})
	c.all[runner].kill()
	killed := time.Now()
	var resumed time.Duration
	var last shownJob
	for {
		last = c.job(t, other, made.ID)
		if resumed == 0 && last.Node != before.Node {
			resumed = time.Since(killed)
		}
		if last.State == "done" || last.State == "failed" {
			break
		}
		if time.Since(killed) > 90*time.Second {
			t.Fatalf("the move does not end: %+v", last)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d of %d were moved when the node was killed; the other went on after %v and was done after %v", before.Done, count,
		resumed.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	if last.State != "done" || last.Failed != 0 || last.Done != count || last.Node == before.Node {
		t.Errorf("the job ended as %+v", last)
	}
	if resumed > 10*time.Second {
		t.Errorf("gone on with after %v", resumed)
	}
	close(stop)
	group.Wait()
	if used < count {
		t.Errorf("%d uses during the move", used)
	}
	for _, name := range names {
		var k struct{ Backend, Custody, Origin string }
		other.must(200, "GET", "/keys/"+name, nil).into(t, &k)
		if k.Backend != "hsm" || k.Custody != "device" || k.Origin != "moved" {
			t.Errorf("%s: %+v", name, k)
		}
		var opened struct{ Plaintext []byte }
		other.must(200, "POST", "/keys/"+name+"/decrypt", m{"ciphertext": old[name]}).into(t, &opened)
		if string(opened.Plaintext) != name {
			t.Errorf("%s opens as something else", name)
		}
	}
	// Each key is on the token once, and none without a record: an object that the killed node had made was found again.
	out, err := other.cli("hsm", "reconcile", "--uri", part.URI, "--store", c.server.URI, "--store-password-file", c.server.PasswordFile)
	if err != nil || strings.Contains(out, "without") {
		t.Errorf("reconcile: %v\n%s", err, out)
	}
	other.stop()
}
