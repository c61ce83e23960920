package softhsmtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// nodesOn are several services on one PostgreSQL store.
type nodesOn struct {
	t      *testing.T
	server *rig.Server
	dir    string
	all    []*service
	key    string // the owner's
}

// startNodes starts n nodes at the same moment on an empty store: one of them makes the root and the owner's key. more is for the configuration.
func startNodes(t *testing.T, server *rig.Server, n int, more ...string) *nodesOn {
	t.Helper()
	c := &nodesOn{t: t, server: server, dir: t.TempDir(), all: make([]*service, n)}
	if out, err := exec.Command(binary, "root", "new-key-file", filepath.Join(c.dir, "root.key")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i := range n {
		if err := os.Mkdir(c.data(i), 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("node: {name: node-%d}\nstore: {url: %q, password_file: %q}\nroot: {key_file: %q}\n",
			i, server.URI, server.PasswordFile, filepath.Join(c.dir, "root.key")) + strings.Join(more, "")
		if err := os.WriteFile(c.data(i)+".yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.all[i] = c.launch(i)
	}
	for _, s := range c.all {
		s.answers(t)
	}
	for i := range n {
		key, err := os.ReadFile(filepath.Join(c.data(i), "owner.key"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || c.key != "" {
			t.Fatalf("another owner's key was made, or: %v", err)
		}
		c.key = strings.TrimSpace(string(key))
	}
	if c.key == "" {
		t.Fatal("no node has made the owner's key")
	}
	for _, s := range c.all {
		s.key = c.key
	}
	return c
}

func (c *nodesOn) data(i int) string { return filepath.Join(c.dir, fmt.Sprint("node", i)) }

func (c *nodesOn) socket(i int) string { return c.data(i) + ".sock" }

func (c *nodesOn) launch(i int) *service {
	s := launch(c.t, c.data(i), "--config", c.data(i)+".yaml", "--listen", "unix:"+c.socket(i))
	s.key = c.key
	return s
}

// answers waits until the service does, and is unlocked.
func (s *service) answers(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-s.done:
			t.Fatalf("the service ended at start: %v\n%s", err, s.log)
		default:
		}
		address, err := os.ReadFile(filepath.Join(s.dir, "address"))
		if err != nil || len(bytes.TrimSpace(address)) == 0 {
			continue
		}
		s.base = "http://" + strings.TrimSpace(string(address))
		if r, err := s.http.Get(s.base + "/ready"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
	}
	t.Fatalf("the service did not answer within 30 s\n%s", s.log)
}

// TestNodes: three nodes on one database are one service.
func TestNodes(t *testing.T) {
	server := rig.Postgres(t)
	c := startNodes(t, server, 3, ownPeer())
	c.all[0].must(201, "POST", "/keys", m{"name": "shared", "algorithm": "AES-256-GCM"})
	t.Run("List", c.list)
	t.Run("Disabled", c.disabled)
	t.Run("Revoked", c.revoked)
	t.Run("SessionEnded", c.sessionEnded)
	t.Run("LeaseHolderKilled", c.holderKilled)
	t.Run("KilledInTurn", c.killedInTurn)
	t.Run("DatabaseKilled", c.databaseKilled)
	part := rig.SoftHSM(t)
	part.Setenv(t)
	t.Run("Elsewhere", func(t *testing.T) { c.elsewhere(t, part) })
	for _, s := range c.all {
		s.stop()
	}
}

type shownNode struct {
	Name, Address string
	Self          bool
	Leases        []string
	Backends      []struct{ Name string }
}

func (c *nodesOn) nodes(t *testing.T, s *service) []shownNode {
	t.Helper()
	var list struct{ Items []shownNode }
	s.must(200, "GET", "/nodes", nil).into(t, &list)
	return list.Items
}

// list: every node shows all of them, and the work of one is shown once.
func (c *nodesOn) list(t *testing.T) {
	leases := map[string]int{}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		clear(leases)
		for _, n := range c.nodes(t, c.all[0]) {
			for _, l := range n.Leases {
				leases[l]++
			}
		}
		if leases["maintain"] == 1 && leases["checkpoints"] == 1 && leases["maintain/software"] == 1 || time.Now().After(deadline) {
			break
		}
	}
	if leases["maintain"] != 1 || leases["checkpoints"] != 1 || leases["maintain/software"] != 1 {
		t.Errorf("leases: %v", leases)
	}
	for i, s := range c.all {
		nodes := c.nodes(t, s)
		if len(nodes) != 3 {
			t.Fatalf("node %d shows %+v", i, nodes)
		}
		for j, n := range nodes {
			if n.Name != fmt.Sprint("node-", j) || n.Self != (i == j) || "http://"+n.Address != c.all[j].base || len(n.Backends) != 1 {
				t.Errorf("node %d shows as the %d-th %+v", i, j, n)
			}
		}
	}
}

// elsewhere: a key on one node's own device answers there, and elsewhere says where.
func (c *nodesOn) elsewhere(t *testing.T, part *rig.Part) {
	file, err := os.OpenFile(c.data(2)+".yaml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(file, "backends: [{name: software, uri: 'software:'}, {name: vault, uri: %q}]\n", part.URI)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	c.all[2].stop()
	c.all[2] = c.launch(2)
	c.all[2].answers(t)
	c.all[2].must(201, "POST", "/keys", m{"name": "local", "algorithm": "AES-256-GCM", "backend": "vault"})
	c.all[2].must(200, "POST", "/keys/local/encrypt", m{"plaintext": []byte("x")})
	for _, s := range c.all[:2] {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			out, err := s.cli("encrypt", "-k", "local", filepath.Join(c.dir, "root.key"), "--out", filepath.Join(c.dir, "no"))
			if err != nil && strings.Contains(out, "vault is open on node-2") && strings.Contains(out, "ERR_BACKEND_UNAVAILABLE") {
				break
			}
			if err == nil || time.Now().After(deadline) {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
}

// stopsWithin runs calls on all nodes, makes a change on the first that must stop them, and checks that no call that began more than a second
// after the change was answered succeeded. ok says that an answer is a success, refused that it is the refusal that is wanted.
func (c *nodesOn) stopsWithin(t *testing.T, call func(s *service) (answer, error), refused func(a answer) bool, change func()) {
	t.Helper()
	var changed atomic.Int64 // when the change was answered, in nanoseconds since begun; 0: not yet
	begun := time.Now()
	stop := make(chan struct{})
	var successes, refusals [3]atomic.Int64
	var latest [3]atomic.Int64
	var group sync.WaitGroup
	for i, s := range c.all {
		for range 2 {
			group.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					at := time.Since(begun)
					a, err := call(s)
					switch {
					case err != nil:
						t.Errorf("node %d: %v", i, err)
						return
					case a.status == 200:
						successes[i].Add(1)
						if since := changed.Load(); since > 0 && int64(at) > since {
							latest[i].Store(max(latest[i].Load(), int64(at)-since))
						}
					case refused(a):
						refusals[i].Add(1)
						time.Sleep(time.Millisecond)
					default:
						t.Errorf("node %d: status %d %s", i, a.status, a.code)
						return
					}
				}
			})
		}
	}
	time.Sleep(500 * time.Millisecond)
	change()
	changed.Store(int64(time.Since(begun)))
	time.Sleep(1300 * time.Millisecond)
	close(stop)
	group.Wait()
	for i := range c.all {
		late := time.Duration(latest[i].Load())
		t.Logf("node %d: %d successes, the last began %v after the change; %d refusals", i, successes[i].Load(), late, refusals[i].Load())
		if late > time.Second {
			t.Errorf("node %d went on for %v", i, late)
		}
		if successes[i].Load() == 0 || refusals[i].Load() == 0 {
			t.Errorf("node %d: %d successes and %d refusals prove nothing", i, successes[i].Load(), refusals[i].Load())
		}
	}
}

func encryptWith(key string) func(s *service) (answer, error) {
	return func(s *service) (answer, error) {
		return s.call("POST", "/keys/"+key+"/encrypt", m{"plaintext": []byte("x")})
	}
}

func (c *nodesOn) disabled(t *testing.T) {
	c.all[1].must(201, "POST", "/keys", m{"name": "to-disable", "algorithm": "AES-256-GCM"})
	c.stopsWithin(t, encryptWith("to-disable"), func(a answer) bool { return a.status == 409 && a.code == "ERR_KEY_STATE" }, func() {
		c.all[0].must(200, "POST", "/keys/to-disable/versions/1/state", m{"state": "suspended"})
	})
}

func (c *nodesOn) revoked(t *testing.T) {
	var made struct{ ID, Key string }
	c.all[0].must(201, "POST", "/api-keys", m{"name": "to-revoke", "scopes": []string{"encryption:write"}}).into(t, &made)
	others := make([]*service, 3)
	for i, s := range c.all {
		other := *s //nolint:govet // the copy is for its key alone
		other.key = made.Key
		others[i] = &other
	}
	call := func(s *service) (answer, error) {
		for i := range c.all {
			if s == c.all[i] {
				s = others[i]
				break
			}
		}
		return encryptWith("shared")(s)
	}
	c.stopsWithin(t, call, func(a answer) bool { return a.status == 401 }, func() {
		a, err := c.all[2].call("DELETE", "/api-keys/"+made.ID, nil)
		if err != nil || a.status >= 300 {
			t.Errorf("revoking: %d %s, %v", a.status, a.code, err)
		}
	})
}

// sql runs a statement as the superuser: what only time does otherwise.
func (c *nodesOn) sql(t *testing.T, query string, args ...any) {
	t.Helper()
	config, err := pgx.ParseConfig(c.server.Admin)
	if err != nil {
		t.Fatal(err)
	}
	config.Password = c.server.Password(t, c.server.AdminFile)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	if tag, err := conn.Exec(t.Context(), query, args...); err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("%s: %v, %v", query, tag, err)
	}
}

// holderKilled: when the node that rotates dies, another one rotates within seconds.
func (c *nodesOn) holderKilled(t *testing.T) {
	const period = 24 * 30 * time.Hour
	c.all[0].must(201, "POST", "/keys", m{"name": "to-rotate", "algorithm": "AES-256-GCM", "policy": m{"rotation_period": "720h"}})
	holder := -1
	for i, n := range c.nodes(t, c.all[0]) {
		for _, l := range n.Leases {
			if l == "maintain/software" {
				holder = i
			}
		}
	}
	if holder < 0 {
		t.Fatal("nobody maintains the backend")
	}
	c.all[holder].kill()
	killed := time.Now()
	past := time.Now().Add(-2 * period).UnixMicro()
	c.sql(t, "UPDATE keys SET created_at = $1, rotated_at = $1, due_at = $1 WHERE name = 'to-rotate'", past)
	other := c.all[(holder+1)%3]
	for {
		var k struct {
			PrimaryVersion int `json:"primary_version"`
		}
		other.must(200, "GET", "/keys/to-rotate", nil).into(t, &k)
		if k.PrimaryVersion == 2 {
			break
		}
		if time.Since(killed) > 15*time.Second {
			t.Fatalf("not rotated within %v", time.Since(killed))
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("rotated %v after the node that did it was killed", time.Since(killed))
	c.all[holder] = c.launch(holder)
	c.all[holder].answers(t)
}

// killedInTurn kills one node after the other under load and starts it again. Only calls on connections to the node that was killed may fail;
// everything acknowledged is in the log once, and the log verifies.
func (c *nodesOn) killedInTurn(t *testing.T) {
	var mu sync.Mutex // guards what follows
	acknowledged := map[string]bool{}
	running := [3]*service{c.all[0], c.all[1], c.all[2]}
	var killed [3]atomic.Int64 // generations
	stop := make(chan struct{})
	var group sync.WaitGroup
	for w := range 6 {
		node := w % 3
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				s := running[node]
				mu.Unlock()
				generation := killed[node].Load()
				if s == nil {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				var a answer
				var err error
				if i%8 == 0 {
					a, err = s.call("POST", "/keys", m{"name": fmt.Sprintf("k-%d-%d", w, i), "algorithm": "AES-256-GCM"})
				} else {
					a, err = encryptWith("shared")(s)
				}
				switch {
				case err != nil && killed[node].Load() != generation:
				case err != nil:
					t.Errorf("node %d, which was not killed: %v", node, err)
					return
				case a.status >= 300:
					t.Errorf("node %d: status %d %s", node, a.status, a.code)
					return
				default:
					mu.Lock()
					acknowledged[a.requestID] = true
					mu.Unlock()
				}
			}
		})
	}
	begun := time.Now()
	kills := 0
	for i := 0; time.Since(begun) < 8*time.Second; i = (i + 1) % 3 {
		time.Sleep(700 * time.Millisecond)
		mu.Lock()
		running[i] = nil
		mu.Unlock()
		killed[i].Add(1)
		c.all[i].kill()
		kills++
		c.all[i] = c.launch(i)
		c.all[i].answers(t)
		mu.Lock()
		running[i] = c.all[i]
		mu.Unlock()
	}
	close(stop)
	group.Wait()
	if kills < 4 || len(acknowledged) < 200 {
		t.Errorf("%d kills and %d acknowledged requests prove little", kills, len(acknowledged))
	}
	t.Logf("%d kills, %d acknowledged requests", kills, len(acknowledged))
	verifyAudit(t, c.all[0])
	c.once(t, acknowledged)
}

// once holds an export of the log to what was acknowledged: each of it stands there once.
func (c *nodesOn) once(t *testing.T, acknowledged map[string]bool) {
	t.Helper()
	export := filepath.Join(t.TempDir(), "log")
	if out, err := c.all[1].cli("audit", "export", "--out", export); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(export)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	times := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "{") {
			continue
		}
		var e struct {
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		times[e.RequestID]++
	}
	lost, doubled := 0, 0
	for id := range acknowledged {
		switch times[id] {
		case 1:
		case 0:
			lost++
		default:
			doubled++
		}
	}
	if lost > 0 || doubled > 0 {
		t.Errorf("of %d acknowledged requests %d are not in the log, and %d more than once", len(acknowledged), lost, doubled)
	}
}

// databaseKilled: while the database is away every node refuses, and all go on when it is back.
func (c *nodesOn) databaseKilled(t *testing.T) {
	for _, s := range c.all {
		s.must(200, "POST", "/keys/shared/encrypt", m{"plaintext": []byte("x")})
	}
	c.server.Stop(t, "immediate")
	time.Sleep(1100 * time.Millisecond)
	for i, s := range c.all {
		if a, err := s.call("POST", "/keys/shared/encrypt", m{"plaintext": []byte("x")}); err != nil || a.status != 503 {
			t.Errorf("node %d: status %d %s, %v", i, a.status, a.code, err)
		}
	}
	c.server.Start(t)
	back := time.Now()
	for i, s := range c.all {
		for {
			a, err := s.call("POST", "/keys/shared/encrypt", m{"plaintext": []byte("x")})
			if err == nil && a.status == 200 {
				break
			}
			if time.Since(back) > 5*time.Second {
				t.Fatalf("node %d: status %d %s, %v, %v after the database was back", i, a.status, a.code, err, time.Since(back))
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	t.Logf("all nodes work %v after the database was back", time.Since(back))
	verifyAudit(t, c.all[2])
}
