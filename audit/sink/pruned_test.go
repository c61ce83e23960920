package sink_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/audit/sink"
)

// prune takes the bodies before end.
func (e *env) prune(t *testing.T, end uint64) {
	t.Helper()
	first, _, err := e.store.AuditKept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := e.store.AuditHashes(t.Context(), first, int(end-first))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.store.PruneAudit(t.Context(), first, hashes); err != nil {
		t.Fatal(err)
	}
}

// TestFileBehind: a file that comes after something was pruned says in its first line where it begins, one that was away in the middle where it goes on.
func TestFileBehind(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	path := filepath.Join(e.dir, "audit.lines")
	o := e.options(t)
	var logged bytes.Buffer
	reg := prometheus.NewRegistry()
	m, err := sink.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	o.Metrics, o.Node, o.Logger = m, "one", slog.New(slog.NewTextHandler(&logged, nil))
	missed := func() string {
		var out strings.Builder
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.GetName() == "keywright_audit_sink_missed_total" {
				fmt.Fprint(&out, f.GetMetric())
			}
		}
		return out.String()
	}
	if n, err := testutil.GatherAndCount(reg, "keywright_audit_sink_missed_total"); n != 0 || err != nil {
		t.Error(n, err)
	}
	e.add(t, 700)
	e.prune(t, 300)
	want := func(lines ...string) {
		t.Helper()
		wait(t, "the file has what is kept", func() bool { return slices.Equal(read(t, path), lines) })
	}
	stop := run(t, sink.NewFile("file", path, o))
	first := append([]string{audit.LinesHeader + " 300"}, e.lines(t)[300:]...)
	want(first...)
	stop()
	all, err := e.store.SinkCursors(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != sink.LocalName("file", "one") {
		t.Errorf("others are told %+v, %v", all, err)
	}
	if !strings.Contains(logged.String(), "first=0 last=299") || !strings.Contains(missed(), "300") {
		t.Errorf("it is said as %q, %s", logged.String(), missed())
	}
	e.add(t, 600)
	e.prune(t, 1000)
	for range 2 { // a restart finds the place by the last of the lines that say it
		stop = run(t, sink.NewFile("file", path, o))
		want(slices.Concat(first, []string{audit.LinesHeader + " 1000"}, e.lines(t)[1000:])...)
		stop()
	}
	e.add(t, 1)
	stop = run(t, sink.NewFile("file", path, o))
	want(slices.Concat(first, []string{audit.LinesHeader + " 1000"}, e.lines(t)[1000:])...)
	stop()
	if got := strings.Count(logged.String(), "were pruned before"); got != 2 {
		t.Errorf("said %d times: %s", got, logged.String())
	}
}

// TestReceiverBehind: a receiver that comes after something was pruned gets the first entry that is kept by its index, and then every one.
func TestReceiverBehind(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.add(t, 900)
	e.prune(t, 257)
	var mu sync.Mutex // guards what follows
	var firsts, got []string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		firsts = append(firsts, r.Header.Get(sink.HeaderFirst))
		got = append(got, strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")...)
	}))
	defer s.Close()
	k, err := sink.NewHTTP("siem", s.URL, "", nil, e.options(t))
	if err != nil {
		t.Fatal(err)
	}
	run(t, k)
	wait(t, "the receiver has what is kept", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(got, e.lines(t)[257:]) && firsts[0] == "257"
	})
	wait(t, "the cursor is at the end", func() bool {
		next, err := e.store.SinkCursor(t.Context(), "siem")
		return err == nil && next == 900
	})
}
