package events_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
)

// nodeURI is set for a process that is a node of TestNodes, and nothing else.
const nodeURI, nodePassword = "KEYWRIGHT_TEST_NODE_URI", "KEYWRIGHT_TEST_NODE_PASSWORD_FILE"

func TestMain(m *testing.M) {
	if uri := os.Getenv(nodeURI); uri != "" {
		fmt.Fprintln(os.Stderr, runNode(uri, os.Getenv(nodePassword)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// pgNames is for a store without keys.
type pgNames struct{ store *postgres.Store }

func (n pgNames) EventKey(ctx context.Context, tenant, id uuid.UUID) (string, map[string]string, error) {
	_, err := n.store.KeyByID(ctx, tenant, id)
	return "", nil, err
}

// runNode delivers until it is killed.
func runNode(uri, passwordFile string) error {
	ctx := context.Background()
	store, err := postgres.Open(ctx, uri, postgres.Options{PasswordFile: passwordFile})
	if err != nil {
		return err
	}
	log, err := audit.Open(ctx, store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1})
	if err != nil {
		return err
	}
	w, err := events.New(events.Options{Store: store, Recorder: log, Feed: events.NewFeed(store, pgNames{store}, nil), Derive: derive,
		Reach: events.Reach{Allow: []string{"127.0.0.1"}, PlainHTTP: true}, UserAgent: fmt.Sprint("node-", os.Getpid()), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	leases, err := cluster.NewLeases(cluster.LeasesOptions{Store: store, Holder: uuid.New()})
	if err != nil {
		return err
	}
	w.Deliver(ctx, leases)
	return nil
}

// TestNodes: of several nodes on one database one delivers; when it is killed another takes over within seconds, and nothing is lost or out of
// order: only what came last may come twice.
func TestNodes(t *testing.T) {
	server := rig.Postgres(t)
	store, err := postgres.Open(t.Context(), server.URI, postgres.Options{PasswordFile: server.PasswordFile})
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	tenant := uuid.New()
	feed := events.NewFeed(store, pgNames{store}, nil)
	t.Cleanup(feed.Close)
	r := newReceiver(t, false)
	w, err := events.New(events.Options{Store: store, Recorder: log, Feed: feed, Derive: derive, Reach: events.Reach{Allow: []string{"127.0.0.1"}, PlainHTTP: true}})
	if err != nil {
		t.Fatal(err)
	}
	h, secret, err := w.Add(t.Context(), events.Caller{Tenant: tenant, Principal: "p"}, events.NewWebhook{Name: "x", URL: r.URL, Filter: changesOnly})
	if err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), program, "-test.run=none")
		c.Env = append(os.Environ(), nodeURI+"="+server.URI, nodePassword+"="+server.PasswordFile)
		c.Stderr = t.Output()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	nodes := []*exec.Cmd{start(), start()}
	t.Cleanup(func() {
		for _, n := range nodes {
			if n.ProcessState == nil {
				if err := n.Process.Kill(); err != nil {
					t.Error(err)
				}
				_ = n.Wait() // it was killed
			}
		}
	})
	change := func(n int) {
		t.Helper()
		k := &auth.APIKey{ID: uuid.New(), Tenant: tenant, Name: "ci", Brand: "kw", Prefix: uuid.NewString(), CreatedAt: time.Now()}
		if _, err := log.Record(t.Context(), &audit.Entry{Tenant: tenant, Principal: "p", Action: "api-key.create", Outcome: "ok", Detail: fmt.Sprint(n)}, store.InsertAPIKey(k)); err != nil {
			t.Fatal(err)
		}
	}
	const first, all = 30, 60
	const saved = time.Second // far longer than it takes to be kept
	for n := range first {
		change(n)
	}
	highest := func() (n int) {
		for _, m := range r.got() {
			var i int
			if _, err := fmt.Sscan(m.event.Detail, &i); err != nil {
				t.Fatal(err)
			}
			n = max(n, i)
		}
		return n
	}
	wait(t, "the first are delivered", 20*time.Second, func() bool { return len(r.got()) > 0 && highest() == first-1 })
	if err := nodes[0].Process.Kill(); err != nil { // -9: whether it is the one that delivers or not
		t.Fatal(err)
	}
	_ = nodes[0].Wait() // it was killed
	for n := first; n < all; n++ {
		change(n)
	}
	began := time.Now()
	wait(t, "the other takes over", 10*time.Second, func() bool { return highest() == all-1 })
	t.Logf("taken over after %v", time.Since(began).Round(time.Millisecond))
	// And again, with one that has just come, once it is kept what was done: then nothing comes twice.
	nodes = append(nodes, start())
	wait(t, "the progress is kept", 5*time.Second, func() bool {
		got, err := store.Webhook(t.Context(), tenant, h.ID)
		return err == nil && got.Progress.Delivered >= all-first && got.Progress.Next > 0 && got.Progress.LastSuccess.Add(saved).Before(time.Now())
	})
	before := len(r.got())
	if err := nodes[1].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = nodes[1].Wait() // it was killed
	change(all)
	wait(t, "the third takes over", 10*time.Second, func() bool { return highest() == all })
	if n := len(r.got()) - before; n != 1 {
		t.Errorf("%d calls for one event, although progress was kept", n)
	}
	next, doubled := 0, 0
	for _, m := range r.got() {
		var i int
		if _, err := fmt.Sscan(m.event.Detail, &i); err != nil {
			t.Fatal(err)
		}
		switch {
		case i == next:
			next++
		case i < next:
			doubled++
		default:
			t.Fatalf("event %d came before %d", i, next)
		}
	}
	if next != all+1 || doubled > first {
		t.Errorf("%d events, %d doubled", next, doubled)
	}
	t.Logf("%d calls for %d events", next+doubled, next)
	if m := r.got()[all]; !m.signed(t, secret) {
		t.Error("openssl does not verify what another node has signed")
	}
	got, err := store.Webhook(t.Context(), tenant, h.ID)
	if err != nil || got.State != events.StateActive {
		t.Errorf("%+v, %v", got, err)
	}
}
