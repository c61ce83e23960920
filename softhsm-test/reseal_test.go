package softhsmtest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// rotateRoot replaces the root, with the key file at path as its only slot, and gives the job's id.
func (s *service) rotateRoot(path string) string {
	s.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	_, coded, _ := strings.Cut(strings.TrimSpace(string(text)), ":v1:")
	secret, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		s.t.Fatal(err)
	}
	var slots struct{ Items []struct{ ID string } }
	s.must(200, "GET", "/root/slots", nil).into(s.t, &slots)
	var done struct{ Job struct{ ID string } }
	s.must(200, "POST", "/root/rotate", m{"slots": []m{{"replaces": slots.Items[0].ID, "kind": "key-file", "key_file": secret}}}).into(s.t, &done)
	if done.Job.ID == "" {
		s.t.Fatalf("no job was made\n%s", s.log)
	}
	return done.Job.ID
}

type resealed struct {
	State               string
	Done, Failed, Total int
}

func (s *service) resealing(id string) (j resealed) {
	s.t.Helper()
	s.must(200, "GET", "/jobs/"+id, nil).into(s.t, &j)
	return j
}

// retired checks that nothing is left of the earlier roots.
func (s *service) retired(generation int) {
	s.t.Helper()
	var root struct {
		Generation int
		Earlier    []int
		Stale      int
	}
	s.must(200, "GET", "/root", nil).into(s.t, &root)
	if root.Generation != generation || len(root.Earlier) != 0 || root.Stale != 0 {
		s.t.Fatalf("the root is %+v, not of generation %d alone\n%s", root, generation, s.log)
	}
}

// TestKilledWhileResealing: the root is replaced under load and the service killed again and again while everything is sealed anew. The job goes on where it
// was, ends, gives the old root up, and every ciphertext of before opens.
func TestKilledWhileResealing(t *testing.T) {
	const keys = 200
	dir := t.TempDir()
	config := filepath.Join(t.TempDir(), "keywright.yaml")
	if err := os.WriteFile(config, []byte("reseal: {share: 0.01, batch: 4, settle: 500ms}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir, "--config", config)
	s.must(201, "POST", "/keys", m{"name": "shared", "algorithm": "AES-256-GCM"})
	before := map[string][]byte{} // ciphertext to plaintext, of each key's first version
	for i := range keys {
		name, plain := fmt.Sprint("old-", i), fmt.Appendf(nil, "plaintext %d", i)
		s.must(201, "POST", "/keys", m{"name": name, "algorithm": "AES-256-GCM"})
		var v struct{ Ciphertext string }
		s.must(200, "POST", "/keys/"+name+"/encrypt", m{"plaintext": plain}).into(t, &v)
		before[v.Ciphertext] = plain
		s.must(200, "POST", "/keys/"+name+"/rotate", nil)
	}
	id := s.rotateRoot(filepath.Join(dir, "root.key"))
	l := &ledger{sealed: map[string][]byte{}, versions: map[int]bool{}}
	far, killed := 0, 0
	for round := range 2 {
		var j resealed
		for deadline := time.Now().Add(30 * time.Second); j.State != "done" && j.Done <= far; time.Sleep(20 * time.Millisecond) {
			if j = s.resealing(id); time.Now().After(deadline) {
				t.Fatalf("it does not get on: %+v\n%s", j, s.log)
			}
		}
		stop := make(chan struct{})
		wg := load(t, s, l, round, stop)
		time.Sleep(time.Duration(20+rand.IntN(200)) * time.Millisecond)
		s.kill()
		close(stop)
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		if j.State != "done" {
			killed++
		}
		far = max(far, j.Done)
		s = start(t, dir, "--config", config)
		l.check(t, s)
	}
	if killed != 2 {
		t.Fatalf("killed %d times in the midst: the job was over before", killed)
	}
	var j resealed
	for deadline := time.Now().Add(time.Minute); j.State != "done"; time.Sleep(50 * time.Millisecond) {
		if j = s.resealing(id); j.State == "failed" || time.Now().After(deadline) {
			t.Fatalf("%+v\n%s", j, s.log)
		}
	}
	if j.Failed != 0 || j.Done != j.Total || j.Done < 2*keys || j.Done < far {
		t.Errorf("%+v, though it had come to %d", j, far)
	}
	s.retired(2)
	s.stop()
	s = start(t, dir, "--config", config)
	for ciphertext, plain := range before {
		var v struct{ Plaintext []byte }
		s.must(200, "POST", "/decrypt", m{"ciphertext": ciphertext}).into(t, &v)
		if !bytes.Equal(v.Plaintext, plain) {
			t.Fatal("a ciphertext decrypts to something else")
		}
	}
	t.Logf("killed %d times, the last time after %d of %d", killed, far, j.Total)
	verifyAudit(t, s)
	s.stop()
}

// TestRootFollowed: of two nodes on one store one replaces the root. The other goes on working without anybody's doing, both make keys meanwhile, and when the
// old root is given up nothing is lost.
func TestRootFollowed(t *testing.T) {
	c := startNodes(t, rig.Postgres(t), 2)
	for i, s := range c.all {
		s.stop()
		f, err := os.OpenFile(c.data(i)+".yaml", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString("reseal: {share: 1, settle: 4s}\n")
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		c.all[i] = c.launch(i)
	}
	for _, s := range c.all {
		s.answers(t)
	}
	sealed := map[string]string{} // ciphertext to plaintext
	use := func(s *service, name string) {
		t.Helper()
		s.must(201, "POST", "/keys", m{"name": name, "algorithm": "AES-256-GCM"})
		var v struct{ Ciphertext string }
		s.must(200, "POST", "/keys/"+name+"/encrypt", m{"plaintext": []byte(name)}).into(t, &v)
		sealed[v.Ciphertext] = name
	}
	for n := range 20 {
		use(c.all[n%2], fmt.Sprint("before-", n))
	}
	id := c.all[0].rotateRoot(filepath.Join(c.dir, "root.key"))
	var j resealed
	for n := 0; j.State != "done"; n++ {
		use(c.all[n%2], fmt.Sprint("meanwhile-", n))
		if j = c.all[n%2].resealing(id); j.State == "failed" || n > 2000 {
			t.Fatalf("%+v\n%s\n%s", j, c.all[0].log, c.all[1].log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for i, s := range c.all {
		s.stop()
		c.all[i] = c.launch(i)
	}
	for _, s := range c.all {
		s.answers(t)
		s.retired(2)
		for ciphertext, plain := range sealed {
			var v struct{ Plaintext []byte }
			s.must(200, "POST", "/decrypt", m{"ciphertext": ciphertext}).into(t, &v)
			if string(v.Plaintext) != plain {
				t.Fatal("a ciphertext decrypts to something else")
			}
		}
	}
	t.Logf("%d keys, %+v", len(sealed), j)
	for _, s := range c.all {
		s.stop()
	}
}
