package softhsmtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// ledger is what the service has acknowledged: all of it must be there after any crash.
type ledger struct {
	mu       sync.Mutex // guards all below
	keys     []string
	sealed   map[string][]byte // ciphertext (as sent) to plaintext
	versions map[int]bool      // of the shared key
	requests []string          // request ids that must be in the audit log
}

func (l *ledger) add(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// load drives the service with everything that changes something until the service dies. Every answer is noted; an answer
// that is neither success nor a conflict fails the test.
func load(t *testing.T, s *service, l *ledger, round int, stop <-chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	work := func(worker int, step func(i int) (answer, func(answer), error)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				a, note, err := step(i)
				if err != nil {
					return // the connection died with the service: nothing was acknowledged
				}
				if a.status == http.StatusConflict {
					continue
				}
				if a.status >= 300 {
					t.Errorf("worker %d: status %d %s", worker, a.status, a.code)
					return
				}
				l.add(func() {
					note(a)
					l.requests = append(l.requests, a.requestID)
				})
			}
		})
	}
	for w := range 4 {
		work(w, func(i int) (answer, func(answer), error) {
			a, err := s.call("POST", "/keys", m{"name": fmt.Sprintf("k-%d-%d-%d", round, w, i), "algorithm": "AES-256-GCM"})
			return a, func(a answer) {
				var v struct{ ID string }
				a.into(t, &v)
				l.keys = append(l.keys, v.ID)
			}, err
		})
		work(10+w, func(i int) (answer, func(answer), error) {
			plain := fmt.Appendf(nil, "plaintext %d %d %d", round, w, i)
			a, err := s.call("POST", "/keys/shared/encrypt", m{"plaintext": plain})
			return a, func(a answer) {
				var v struct{ Ciphertext string }
				a.into(t, &v)
				l.sealed[v.Ciphertext] = plain
			}, err
		})
	}
	work(20, func(int) (answer, func(answer), error) {
		a, err := s.call("POST", "/keys/shared/rotate", nil)
		return a, func(a answer) {
			var v struct {
				PrimaryVersion int `json:"primary_version"`
			}
			a.into(t, &v)
			l.versions[v.PrimaryVersion] = true
		}, err
	})
	return &wg
}

// check holds the service to what it acknowledged since the last crash, and empties the ledger.
func (l *ledger) check(t *testing.T, s *service) {
	t.Helper()
	for _, id := range sample(l.keys, 40) {
		s.must(200, "GET", "/keys/"+id, nil)
		s.must(200, "POST", "/keys/"+id+"/encrypt", m{"plaintext": []byte("x")})
	}
	n := 0
	for ciphertext, plain := range l.sealed {
		if n++; n > 60 {
			break
		}
		var v struct{ Plaintext []byte }
		s.must(200, "POST", "/decrypt", m{"ciphertext": ciphertext}).into(t, &v)
		if !bytes.Equal(v.Plaintext, plain) {
			t.Fatalf("a ciphertext decrypts to something else")
		}
	}
	var list struct {
		Items []struct {
			Version int
			State   string
		}
		NextCursor string `json:"next_cursor"`
	}
	have := map[int]bool{}
	for cursor := ""; ; {
		s.must(200, "GET", "/keys/shared/versions?limit=1000&cursor="+cursor, nil).into(t, &list)
		for _, v := range list.Items {
			have[v.Version] = true
		}
		if cursor = list.NextCursor; cursor == "" {
			break
		}
	}
	for v := range l.versions {
		if !have[v] {
			t.Fatalf("version %d was answered as made and is gone", v)
		}
	}
	l.checkAudit(t, s)
	*l = ledger{sealed: map[string][]byte{}, versions: map[int]bool{}}
}

// checkAudit looks for every acknowledged request in the newest entries of the log.
func (l *ledger) checkAudit(t *testing.T, s *service) {
	t.Helper()
	missing := map[string]bool{}
	for _, id := range l.requests {
		missing[id] = true
	}
	cursor := ""
	for page := 0; len(missing) > 0; page++ {
		var list struct {
			Items []struct {
				RequestID string `json:"request_id"`
			}
			NextCursor string `json:"next_cursor"`
		}
		s.must(200, "GET", "/audit?limit=1000&cursor="+cursor, nil).into(t, &list)
		for _, e := range list.Items {
			delete(missing, e.RequestID)
		}
		if cursor = list.NextCursor; cursor == "" {
			break
		}
	}
	if len(missing) > 0 {
		t.Fatalf("%d acknowledged requests are not in the audit log", len(missing))
	}
}

func sample[T any](s []T, n int) []T {
	if len(s) <= n {
		return s
	}
	s = slices.Clone(s)
	rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s[:n]
}

// TestKilledUnderLoad kills the service without warning at random moments: every acknowledged key, version, ciphertext and audit
// entry is there afterwards, and the log verifies offline against a checkpoint taken before each crash.
func TestKilledUnderLoad(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.must(201, "POST", "/keys", m{"name": "shared", "algorithm": "AES-256-GCM"})
	l := &ledger{sealed: map[string][]byte{}, versions: map[int]bool{}}
	total := 0
	for round := range *kills {
		stop := make(chan struct{})
		wg := load(t, s, l, round, stop)
		time.Sleep(time.Duration(20+rand.IntN(180)) * time.Millisecond)
		s.kill()
		close(stop)
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		total += len(l.requests)
		s = start(t, dir)
		l.check(t, s)
	}
	if total < *kills {
		t.Fatalf("only %d requests in %d rounds: no load worth the name", total, *kills)
	}
	t.Logf("%d kills, %d acknowledged requests", *kills, total)
	verifyAudit(t, s)
	s.stop()
}

// verifyAudit exports the log and proves it offline.
func verifyAudit(t *testing.T, s *service) {
	t.Helper()
	dir := t.TempDir()
	export := filepath.Join(dir, "audit.export")
	if out, err := s.cli("audit", "export", "--out", export); err != nil {
		t.Fatalf("audit export: %v\n%s", err, out)
	}
	checkpoint := filepath.Join(dir, "checkpoint")
	var v struct {
		Checkpoint  string
		VerifierKey string `json:"verifier_key"`
	}
	s.must(200, "GET", "/audit/checkpoint", nil).into(t, &v)
	if err := os.WriteFile(checkpoint, []byte(v.Checkpoint), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := s.cli("audit", "verify", export, "--verifier-key", v.VerifierKey)
	if err != nil {
		t.Fatalf("audit verify: %v\n%s", err, out)
	}
}

// TestRotatedByMany: 24 callers rotate one key at once, then the service is killed. Nobody gets a 500, every version that was
// answered as made is there, every ciphertext ever returned decrypts.
func TestRotatedByMany(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.must(201, "POST", "/keys", m{"name": "one", "algorithm": "AES-256-GCM"})
	var (
		mu       sync.Mutex // guards both below
		versions = map[int]bool{}
		sealed   []string
		wg       sync.WaitGroup
	)
	for range 24 {
		wg.Go(func() {
			for range 5 {
				a, err := s.call("POST", "/keys/one/rotate", nil)
				if err != nil {
					t.Error(err)
					return
				}
				switch a.status {
				case 200, 201:
					var v struct {
						PrimaryVersion int `json:"primary_version"`
					}
					a.into(t, &v)
					mu.Lock()
					if versions[v.PrimaryVersion] {
						t.Errorf("version %d was answered twice", v.PrimaryVersion)
					}
					versions[v.PrimaryVersion] = true
					mu.Unlock()
				case 409:
				default:
					t.Errorf("rotate: status %d %s", a.status, a.code)
				}
				e, err := s.call("POST", "/keys/one/encrypt", m{"plaintext": []byte("between rotations")})
				if err != nil || e.status != 200 {
					t.Errorf("encrypt: status %d %s, %v", e.status, e.code, err)
					return
				}
				var c struct{ Ciphertext string }
				e.into(t, &c)
				mu.Lock()
				sealed = append(sealed, c.Ciphertext)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.kill()
	s = start(t, dir)
	var list struct{ Items []struct{ Version int } }
	s.must(200, "GET", "/keys/one/versions?limit=1000", nil).into(t, &list)
	have := map[int]bool{}
	for _, v := range list.Items {
		have[v.Version] = true
	}
	for v := range versions {
		if !have[v] {
			t.Errorf("version %d was answered as made and is gone", v)
		}
	}
	if len(versions) == 0 {
		t.Error("no rotation succeeded")
	}
	for _, c := range sealed {
		s.must(200, "POST", "/decrypt", m{"ciphertext": c})
	}
	s.stop()
}
