package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/store/sqlite"
)

// eventRig is the server over a real store, a real log and real streams, on a real listener.
type eventRig struct {
	*Server
	t       *testing.T
	store   *sqlite.Store
	log     *audit.Log
	streams *events.Streams
	auth    *revocable
	metrics *prometheus.Registry
	http    *http.Server
	url     string
	client  *http.Client
}

// revocable is an Auth whose one credential can be taken away.
type revocable struct {
	fakeAuth
	gone atomic.Bool
}

func (a *revocable) Authenticate(ctx context.Context, presented string, from netip.Addr) (*auth.Principal, auth.Decision, error) {
	if a.gone.Load() {
		return nil, auth.Decision{}, fault.New(fault.Unauthenticated, "the credential is not valid")
	}
	return a.fakeAuth.Authenticate(ctx, presented, from)
}

type noKeys struct{}

func (noKeys) EventKey(context.Context, uuid.UUID, uuid.UUID) (string, map[string]string, error) {
	return "", nil, fault.New(fault.KeyNotFound, "no such key")
}

func newEventRig(t *testing.T, o ServeOptions, so events.StreamOptions, limits Limits) *eventRig {
	t.Helper()
	r := &eventRig{t: t, auth: &revocable{fakeAuth: fakeAuth{scopes: auth.Scopes()}}, metrics: prometheus.NewRegistry()}
	var err error
	if r.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	if r.log, err = audit.Open(t.Context(), r.store, audit.Options{Origin: "test.example/audit", CheckpointEvery: -1}); err != nil {
		t.Fatal(err)
	}
	feed := events.NewFeed(r.store, noKeys{}, nil)
	so.Registerer = r.metrics
	if r.streams, err = events.NewStreams(feed, so); err != nil {
		t.Fatal(err)
	}
	r.Server, err = New(Options{Keys: &fakeKeys{}, Auth: r.auth, Root: &fakeRoot{}, Audit: r.log, Jobs: &fakeJobs{}, Rekey: &fakeRekey{}, Events: r.streams, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.url, r.client = "http://"+l.Addr().String(), http.DefaultClient
	if o.TLS != nil {
		borrowed := httptest.NewTLSServer(nil) // for its certificate
		o.TLS.Certificates = borrowed.TLS.Certificates
		r.url, r.client = "https://"+l.Addr().String(), borrowed.Client()
		r.client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		borrowed.Close()
	}
	r.http = NewHTTPServer(r.Handler(), o)
	done := make(chan error, 1)
	go func() { done <- ServeListener(r.http, l, o.TLS != nil) }()
	t.Cleanup(func() {
		r.streams.Drain()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(r.http.Shutdown(ctx), r.log.Close(ctx)); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		feed.Close()
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// change makes a change of the tenant.
func (r *eventRig) change(detail string) uint64 {
	r.t.Helper()
	k := &auth.APIKey{ID: uuid.New(), Tenant: tenant, Name: "ci", Brand: "kw", Prefix: uuid.NewString(), CreatedAt: time.Now()}
	n, err := r.log.Record(r.t.Context(), &audit.Entry{Tenant: tenant, Principal: "p", Action: "api-key.create", Outcome: "ok", Detail: detail}, r.store.InsertAPIKey(k))
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// open begins a stream. The answer must be of the status.
func (r *eventRig) open(status int, query string, headers ...string) *http.Response {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+"/api/v1/events"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-API-Key", "good")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != status {
		r.t.Fatalf("status %d, want %d", resp.StatusCode, status) // the body may be without an end
	}
	return resp
}

// running is the number of streams that are open.
func (r *eventRig) running() int {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "keywright_event_streams" {
			return int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	r.t.Fatal("no such metric")
	return 0
}

func (r *eventRig) wantRunning(n int, within time.Duration) {
	r.t.Helper()
	for end := time.Now().Add(within); r.running() != n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%d streams after %v, want %d", r.running(), within, n)
		}
	}
}

// until reads lines of a stream up to one that begins so.
func until(t *testing.T, in *bufio.Reader, start string) string {
	t.Helper()
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("before a line %q: %v", start, err)
		}
		if strings.HasPrefix(line, start) {
			return strings.TrimSpace(line)
		}
	}
}

// TestEventStream: over both protocols a stream outlives every time limit of the server, beats while nothing happens, and gives each event with
// its id and type.
func TestEventStream(t *testing.T) {
	for name, o := range map[string]ServeOptions{
		"http/1.1": {ReadTime: 500 * time.Millisecond, WriteTime: 500 * time.Millisecond, IdleTime: 500 * time.Millisecond},
		"http/2": {ReadTime: 500 * time.Millisecond, WriteTime: 500 * time.Millisecond, IdleTime: 500 * time.Millisecond,
			TLS: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newEventRig(t, o, events.StreamOptions{}, Limits{EventBeat: 300 * time.Millisecond, Timeout: 400 * time.Millisecond})
			r.change("before")
			resp := r.open(200, "")
			if (resp.ProtoMajor == 2) != (o.TLS != nil) || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" ||
				resp.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s, %v", resp.Proto, resp.Header)
			}
			in := bufio.NewReader(resp.Body)
			if got := until(t, in, "id:"); got != "id: 0" {
				t.Errorf("it begins behind %s", got)
			}
			for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
				until(t, in, ":")
			}
			n := r.change("after\nall")
			until(t, in, fmt.Sprint("id: ", n))
			if got := until(t, in, ""); got != "event: api_key.created" {
				t.Error(got)
			}
			if got := until(t, in, "data: "); !strings.Contains(got, `"detail":"after\nall"`) {
				t.Error(got)
			}
			until(t, in, "\n")
			resp.Body.Close()
			r.wantRunning(0, 2*time.Second)
		})
	}
}

// TestEventPosition: where a stream begins, and what it says when it cannot.
func TestEventPosition(t *testing.T) {
	t.Parallel()
	r := newEventRig(t, ServeOptions{}, events.StreamOptions{MostOfTenant: 2}, Limits{})
	for i := range 5 {
		r.change(fmt.Sprint("c", i))
	}
	first := func(resp *http.Response) string {
		in := bufio.NewReader(resp.Body)
		line := until(t, in, "data:")
		resp.Body.Close()
		r.wantRunning(0, 2*time.Second)
		return line
	}
	if got := first(r.open(200, "?since=2")); !strings.Contains(got, `"c3"`) {
		t.Error(got)
	}
	if got := first(r.open(200, "?since=2", "Last-Event-ID", "0")); !strings.Contains(got, `"c1"`) {
		t.Errorf("the header does not stand above the query: %s", got)
	}
	for _, bad := range []string{"?since=x", "?since=", "?since=-1", "?since=01", "?types=nothing.*", "?label==x", "?since=1&since=2"} {
		resp := r.open(400, bad)
		resp.Body.Close()
	}
	for _, bad := range []string{"x", "", "1 2", "99999999999999999999"} {
		req := r.open(400, "", "Last-Event-ID", bad)
		req.Body.Close()
	}
	gone := r.open(410, "?since=5")
	b, err := io.ReadAll(gone.Body)
	if err != nil || !strings.Contains(string(b), string(fault.EventsGone)) {
		t.Error(string(b), err)
	}
	r.open(200, "")
	r.open(200, "")
	if resp := r.open(503, ""); resp.Header.Get("Retry-After") == "" {
		t.Error("no time to come back")
	}
}

// TestEventCredential: a stream ends when its credential does, or its scope, or when the root is locked.
func TestEventCredential(t *testing.T) {
	t.Parallel()
	r := newEventRig(t, ServeOptions{}, events.StreamOptions{}, Limits{})
	resp := r.open(200, "")
	in := bufio.NewReader(resp.Body)
	until(t, in, "retry")
	time.Sleep(1200 * time.Millisecond) // it has been asked once
	r.auth.gone.Store(true)
	began := time.Now()
	if _, err := io.Copy(io.Discard, in); err != nil {
		t.Errorf("it does not end well: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it ended after %v", took)
	}
	r.wantRunning(0, time.Second)
}

// TestEventStall: a client that does not read is cut off, and holds nothing.
func TestEventStall(t *testing.T) {
	t.Parallel()
	r := newEventRig(t, ServeOptions{}, events.StreamOptions{}, Limits{EventStall: 300 * time.Millisecond})
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: good\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r.wantRunning(1, 2*time.Second)
	detail := strings.Repeat("x", 500)
	for end := time.Now().Add(20 * time.Second); r.running() > 0; {
		if time.Now().After(end) {
			t.Fatal("it is still there")
		}
		done := make(chan struct{})
		for range 16 {
			go func() { r.change(detail); done <- struct{}{} }()
		}
		for range 16 {
			<-done
		}
	}
}

// TestEventDrain: streams do not hold up the end of the service, and their clients see an end and no failure.
func TestEventDrain(t *testing.T) {
	t.Parallel()
	r := newEventRig(t, ServeOptions{}, events.StreamOptions{}, Limits{})
	ended := make(chan error, 3)
	for range cap(ended) {
		resp := r.open(200, "")
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			ended <- err
		}()
	}
	began := time.Now()
	r.streams.Drain()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := r.http.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}
