package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keywright/keywright/audit"
	auditsink "github.com/keywright/keywright/audit/sink"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/store/sqlite"
)

// agelogScript makes the store of a service that starts later, with a log of so many entries that are so old: agelog DATA COUNT AGE.
func agelogScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: agelog DATA COUNT AGE")
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	age, err := time.ParseDuration(args[2])
	ts.Check(err)
	data := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(data, 0o700))
	ctx := context.Background()
	s, err := sqlite.Open(ctx, filepath.Join(data, "keywright.db"), sqlite.Options{})
	ts.Check(err)
	log, err := audit.Open(ctx, s, audit.Options{Origin: "keywright/" + s.Deployment().String(), CheckpointEvery: -1,
		Now: func() time.Time { return time.Now().Add(-age) }})
	ts.Check(err)
	const writers = 64
	errs := make([]error, writers)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := w; i < count && errs[w] == nil; i += writers {
				_, errs[w] = log.Record(ctx, &audit.Entry{Tenant: firstTenant(s.Deployment()), Principal: "system", Action: "aged", Outcome: "ok", Items: i})
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		ts.Check(err)
	}
	ts.Check(log.Close(ctx))
	ts.Check(s.Close())
}

// TestTaken: nothing is pruned that a configured sink has not got, on whatever node.
func TestTaken(t *testing.T) {
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "keywright.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &node{store: s, self: &cluster.Node{Name: "one"}}
	want := func(next uint64, who string) {
		t.Helper()
		got, by, err := n.taken(t.Context())
		if err != nil || got != next || by != who {
			t.Errorf("taken up to %d by %q, %v; want %d by %q", got, by, err, next, who)
		}
	}
	save := func(name string, next uint64) {
		t.Helper()
		if err := s.SaveSinkCursor(t.Context(), name, next); err != nil {
			t.Fatal(err)
		}
	}
	want(math.MaxInt64, "")
	http, err := auditsink.NewHTTP("siem", "https://siem.example.org/", "", nil, auditsink.Options{Cursors: s})
	if err != nil {
		t.Fatal(err)
	}
	n.sinks = []*auditsink.Sink{auditsink.NewFile("trail", "trail.lines", auditsink.Options{}), http}
	want(0, auditsink.LocalName("trail", "one")) // it has said nothing yet
	save("trail/one", 70)
	want(0, "siem")
	save("siem", 90)
	save("removed", 5)
	save("other/one", 5)
	want(70, "trail/one")
	save("trail/two", 30) // a node that has been there lately
	want(30, "trail/two")
	save("trail/two", 80)
	want(70, "trail/one")
	if (&auditConfig{Retention: audit.MinRetention - 1}).completeRetention() == nil || (&auditConfig{Retention: -1}).completeRetention() == nil {
		t.Error("a retention that is too short")
	}
	for _, keep := range []time.Duration{0, audit.MinRetention} {
		if err := (&auditConfig{Retention: keep}).completeRetention(); err != nil {
			t.Error(err)
		}
	}
}

// TestAuditConfigChecked: what a start would refuse of sinks and witnesses, config check refuses.
func TestAuditConfigChecked(t *testing.T) {
	for name, c := range map[string]struct {
		audit auditConfig
		where string // "": it is right
	}{
		"right":         {auditConfig{Sinks: []sinkConfig{{File: "a"}, {File: "b", Name: "c"}, {HTTP: "https://x/", CAFile: "/nowhere"}}}, ""},
		"plain":         {auditConfig{Sinks: []sinkConfig{{HTTP: "http://siem.example.org/"}}}, "audit.sinks[0]"},
		"no port":       {auditConfig{Sinks: []sinkConfig{{File: "a"}, {Syslog: "tcp://x"}}}, "audit.sinks[1]"},
		"same name":     {auditConfig{Sinks: []sinkConfig{{File: "a"}, {File: "b"}}}, "audit.sinks[1]"},
		"not its file":  {auditConfig{Sinks: []sinkConfig{{File: "a", CAFile: "b"}}}, "audit.sinks[0]"},
		"witness's key": {auditConfig{Witnesses: []witnessConfig{{Key: "x", URL: "https://w.example"}}}, "audit.witnesses"},
		"witness's URL": {auditConfig{Witnesses: []witnessConfig{{Key: "x", URL: "w.example"}}}, "audit.witnesses[0]"},
	} {
		cfg := config{Data: t.TempDir(), Audit: c.audit}
		said := fmt.Sprint(cfg.complete(true))
		if c.where == "" && strings.Contains(said, "audit.") || !strings.Contains(said, c.where) {
			t.Errorf("%s: %s", name, said)
		}
	}
}
