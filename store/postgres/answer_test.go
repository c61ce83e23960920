package postgres_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/storetest"
)

// What the proxy does to the next bytes that a client sends.
const (
	pass     = int32(iota)
	noAnswer // they arrive, and the connection breaks instead of the answer
	noCall   // the connection breaks before they arrive
)

// proxy stands between a store and the server, and breaks connections at a chosen moment.
type proxy struct {
	listener net.Listener
	server   string // the server's socket
	next     atomic.Int32
	group    sync.WaitGroup
	mu       sync.Mutex // guards open
	open     []net.Conn
}

// newProxy gives a proxy and the URI through it.
func newProxy(t *testing.T, server *rig.Server) (*proxy, string) {
	t.Helper()
	_, query, _ := strings.Cut(server.URI, "?host=")
	dir, port, _ := strings.Cut(query, "&port=")
	socket := "/.s.PGSQL." + port
	mine := filepath.Join(server.Dir, "proxy"+uuid.NewString()[:8])
	p := &proxy{server: dir + socket}
	if err := os.Mkdir(mine, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.listener, err = net.Listen("unix", mine+socket); err != nil {
		t.Fatal(err)
	}
	p.group.Go(p.accept)
	t.Cleanup(func() {
		p.listener.Close()
		p.mu.Lock()
		for _, c := range p.open {
			c.Close()
		}
		p.mu.Unlock()
		p.group.Wait()
	})
	return p, strings.Replace(server.URI, dir, mine, 1)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.open = append(p.open, client, server)
		p.mu.Unlock()
		var silent atomic.Bool
		p.group.Go(func() { p.calls(client, server, &silent) })
		p.group.Go(func() { answers(client, server, &silent) })
	}
}

func (p *proxy) calls(client, server net.Conn, silent *atomic.Bool) {
	defer server.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		switch p.next.Swap(pass) {
		case noCall:
			client.Close()
			return
		case noAnswer:
			silent.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func answers(client, server net.Conn, silent *atomic.Bool) {
	defer client.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := server.Read(buf)
		if err != nil || silent.Load() {
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// testLostAnswers: the connection breaks when a transaction is being committed, before or after the server heard of it. Either way the
// batch is stored once, and said to be.
func testLostAnswers(t *testing.T, server *rig.Server) {
	p, uri := newProxy(t, server)
	s := open(t, uri, options(server))
	tenant := uuid.New()
	stored := uint64(0)
	for _, mode := range []int32{pass, pass, pass, noAnswer, pass, pass, noCall, pass, noAnswer, noCall} {
		for _, changes := range []func(name string) []audit.Change{
			func(string) []audit.Change { return nil },
			func(name string) []audit.Change {
				k, v := storetest.NewKey(tenant, name)
				return []audit.Change{s.InsertKey(k, v)}
			},
		} {
			name := uuid.NewString()
			own := changes(name)
			first := true
			it, plain := storetest.Item(own...), storetest.Item()
			err := s.Commit(t.Context(), []*audit.Item{it, plain}, func(h audit.Head, items []*audit.Item) (audit.Head, []audit.Node, error) {
				if first {
					p.next.Store(mode)
				}
				first = false
				return storetest.Extend(h, items)
			})
			stored += 2
			if err != nil || it.Err != nil {
				t.Fatalf("mode %d: %v, %v", mode, err, it.Err)
			}
			wantSize(t, s, stored)
			found, err := s.AuditEntries(t.Context(), it.Index, 2)
			if err != nil || len(found) != 2 || string(found[0].Leaf) != string(it.Leaf) || string(found[1].Leaf) != string(plain.Leaf) {
				t.Fatalf("mode %d: other entries are stored: %v", mode, err)
			}
			if len(own) > 0 {
				if _, err := s.KeyByName(t.Context(), tenant, name); err != nil {
					t.Errorf("mode %d: %v", mode, err)
				}
			}
		}
	}
}

// testRejected: transactions that the server undoes for others' sake are repeated, and not for ever.
func testRejected(t *testing.T, server *rig.Server) {
	o := options(server)
	s := open(t, server.URI, o)
	mustCommit(t, s)
	db := admin(t, server, o.Schema)
	do(t, db, "CREATE SEQUENCE tries") // counts what is undone, too
	do(t, db, "CREATE TABLE refusals (until BIGINT, state TEXT)")
	do(t, db, "INSERT INTO refusals VALUES (0, '40001')")
	do(t, db, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
		DECLARE r refusals%ROWTYPE;
		BEGIN
			SELECT * INTO r FROM refusals;
			IF nextval('tries') <= r.until THEN RAISE EXCEPTION 'give way' USING ERRCODE = r.state; END IF;
			RETURN NEW;
		END $$`)
	do(t, db, "CREATE TRIGGER refuse BEFORE UPDATE ON audit_head FOR EACH ROW EXECUTE FUNCTION refuse()")
	size := uint64(1)
	for _, state := range []string{"40001", "40P01"} {
		for _, change := range []bool{false, true} {
			do(t, db, "SELECT setval('tries', 1, false)")
			do(t, db, "UPDATE refusals SET until = 3, state = $1", state)
			k, v := storetest.NewKey(uuid.New(), "k")
			var changes []audit.Change
			if change {
				changes = append(changes, s.InsertKey(k, v))
			}
			if err := commit(t, s, changes...); err != nil {
				t.Errorf("%s three times: %v", state, err)
			}
			size++
			wantSize(t, s, size)
		}
	}
	do(t, db, "UPDATE refusals SET until = 1000000000")
	wantAgain(t, "always", commit(t, s))
	do(t, db, "UPDATE refusals SET until = 0")
	mustCommit(t, s)
	wantSize(t, s, size+1)
}
