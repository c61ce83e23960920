package events_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
)

// changesOnly keeps what a webhook does itself out of what it is told.
var changesOnly = events.Filter{Types: []string{"api_key.*"}}

func (e *env) add(t *testing.T, w *events.Webhooks, url string) (*events.Hook, string) {
	t.Helper()
	h, secret, err := w.Add(t.Context(), e.caller(), events.NewWebhook{Name: "trail", URL: url, Filter: changesOnly})
	if err != nil {
		t.Fatal(err)
	}
	return h, secret
}

func (e *env) hook(t *testing.T, id uuid.UUID) *events.Hook {
	t.Helper()
	h, err := e.store.Webhook(t.Context(), e.tenant, id)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestDeliver: over TLS, in order, each once, signed so that another implementation verifies it, with what an event stream says.
func TestDeliver(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, true)
	roots := x509.NewCertPool()
	roots.AddCert(r.Certificate())
	w := e.webhooks(t, func(o *events.Options) { o.Reach = events.Reach{Allow: []string{"127.0.0.1"}, Roots: roots} })
	e.change(t, e.tenant, "before")
	h, secret := e.add(t, w, r.URL+"/hooks?token=x")
	e.change(t, uuid.New(), "another's")
	var want []string
	for i := range 20 {
		d := fmt.Sprint("d", i)
		want = append(want, d)
		e.change(t, e.tenant, d)
		e.noise(t)
	}
	stop := e.deliver(t, w)
	wait(t, "all are delivered", 10*time.Second, func() bool { return len(r.got()) >= len(want) })
	if got := r.details(); got != strings.Join(want, " ") {
		t.Errorf("delivered: %s", got)
	}
	ids := map[string]bool{}
	for i, m := range r.got() {
		ids[m.id] = true
		if i%7 == 0 && !m.signed(t, secret) {
			t.Errorf("openssl does not verify %s", m.signature)
		}
		if strings.ContainsAny(m.id, ". ") || time.Since(m.at).Abs() > time.Minute || m.event.Type != "api_key.created" {
			t.Errorf("%+v", m)
		}
	}
	if len(ids) != len(want) {
		t.Errorf("%d ids for %d messages", len(ids), len(want))
	}
	stop()
	p := e.hook(t, h.ID).Progress
	if p.Delivered != uint64(len(want)) || p.Attempts != 0 || p.LastSuccess.IsZero() || !p.LastFailure.IsZero() || p.GivenUp != 0 {
		t.Errorf("%+v", p)
	}
	// A node that goes on repeats nothing of what was kept.
	e.change(t, e.tenant, "later")
	e.deliver(t, w)
	wait(t, "the next", 10*time.Second, func() bool { return len(r.got()) > len(want) })
	if got := r.details(); got != strings.Join(append(want, "later"), " ") {
		t.Errorf("delivered: %s", got)
	}
}

// TestUntrusted: a receiver whose certificate is not trusted gets nothing.
func TestUntrusted(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, true)
	w := e.webhooks(t, nil)
	h, _ := e.add(t, w, r.URL)
	test, err := w.Test(t.Context(), e.caller(), h.ID)
	if err != nil || test.Delivered || test.Error != "TLS failed" || test.Status != 0 {
		t.Errorf("%+v, %v", test, err)
	}
	if n := len(r.called()); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// TestRetry: what fails is tried again, further and further apart, with the same id, and holds up what comes after it; the failures are shown.
func TestRetry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	elsewhere := newReceiver(t, false)
	r.answers(func(w http.ResponseWriter, req *http.Request, n int) {
		switch n {
		case 0:
			w.WriteHeader(http.StatusInternalServerError)
		case 1:
			http.Redirect(w, req, elsewhere.URL, http.StatusTemporaryRedirect)
		case 2:
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			w.(*kept).code = 0 // not answered
			c.Close()
		case 3: // an answer without an end
			w.WriteHeader(http.StatusBadGateway)
			b := bytes.Repeat([]byte("x"), 32<<10)
			for range 1000 {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		default:
			w.WriteHeader(http.StatusOK)
		}
	})
	reg := prometheus.NewRegistry()
	w := e.webhooks(t, func(o *events.Options) {
		o.FirstWait = 40 * time.Millisecond
		o.MaxWait = time.Second
		o.Registerer = reg
	})
	h, secret := e.add(t, w, r.URL)
	e.change(t, e.tenant, "one")
	e.change(t, e.tenant, "two")
	stop := e.deliver(t, w)
	wait(t, "both are delivered", 10*time.Second, func() bool { return len(r.got()) >= 2 })
	stop()
	calls := r.called()
	if got := r.details(); got != "one two" || len(calls) != 6 {
		t.Errorf("%d calls, delivered: %s", len(calls), got)
	}
	for i, m := range calls[:5] {
		if m.id != calls[0].id || !m.signed(t, secret) || !bytes.Equal(m.body, calls[0].body) {
			t.Errorf("attempt %d is %+v", i, m)
		}
		if least := 20 * time.Millisecond << i; i < 4 && calls[i+1].when.Sub(m.when) < least {
			t.Errorf("attempt %d came %v after the one before, and not %v at least", i+1, calls[i+1].when.Sub(m.when), least)
		}
	}
	if n := len(elsewhere.called()); n != 0 {
		t.Errorf("%d calls followed a redirect", n)
	}
	p := e.hook(t, h.ID).Progress
	if p.Delivered != 2 || p.Attempts != 0 || p.LastFailure.IsZero() || p.LastStatus != 200 || !p.TryAt.IsZero() {
		t.Errorf("%+v", p)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP keywright_webhook_calls_total Calls to receivers of webhooks, by result: delivered or failed.
# TYPE keywright_webhook_calls_total counter
keywright_webhook_calls_total{result="delivered"} 2
keywright_webhook_calls_total{result="failed"} 4
`), "keywright_webhook_calls_total"); err != nil {
		t.Error(err)
	}
}

// TestHang: a receiver that does not answer holds up neither the others nor the end of the service.
func TestHang(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	dead, well := newReceiver(t, false), newReceiver(t, false)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	dead.answers(func(_ http.ResponseWriter, req *http.Request, _ int) {
		select {
		case <-req.Context().Done():
		case <-over:
		}
	})
	w := e.webhooks(t, nil)
	e.add(t, w, dead.URL)
	e.add(t, w, well.URL)
	e.change(t, e.tenant, "one")
	stop := e.deliver(t, w)
	wait(t, "the other is called", 5*time.Second, func() bool { return len(well.got()) == 1 && len(dead.called()) == 1 })
	began := time.Now()
	stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the end took %v", took)
	}
	for _, h := range mustList(t, e, w) {
		if h.Progress.Attempts != 0 {
			t.Errorf("a call that was broken off counts as a failure: %+v", h.Progress)
		}
	}
}

func mustList(t *testing.T, e *env, w *events.Webhooks) []*events.Hook {
	t.Helper()
	list, next, err := w.List(t.Context(), e.caller(), "", 1000)
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	return list
}

// TestGoneReceiver: one that answers 410 is disabled, which the log tells; enabled again it gets what it has missed, and nothing twice.
func TestGoneReceiver(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	r.answers(status(http.StatusGone))
	w := e.webhooks(t, nil)
	h, _ := e.add(t, w, r.URL)
	streams := e.streams(t, events.StreamOptions{})
	s, err := streams.Open(t.Context(), e.tenant, nil, events.Filter{Types: []string{"webhook.*"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e.change(t, e.tenant, "one")
	e.change(t, e.tenant, "two")
	e.deliver(t, w)
	list, _ := read(t, s, 1)
	if got := decode(t, list[0].JSON); got.Type != "webhook.disabled" || got.Detail != "gone" || got.Principal != "system" || got.Resource != "webhook:"+h.ID.String() {
		t.Errorf("%+v", got)
	}
	time.Sleep(1500 * time.Millisecond)
	got := e.hook(t, h.ID)
	if n := len(r.called()); n != 1 || got.State != events.StateDisabled || got.Reason != events.ReasonGone || got.Progress.LastStatus != 410 {
		t.Errorf("%d calls, %+v", n, got)
	}
	r.answers(nil)
	if _, err := w.Enable(t.Context(), e.caller(), h.ID); err != nil {
		t.Fatal(err)
	}
	wait(t, "what was missed", 5*time.Second, func() bool { return r.details() == "one two" })
}

// TestDisable: what is disabled by hand is not called, within two seconds.
func TestDisable(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	w := e.webhooks(t, nil)
	h, _ := e.add(t, w, r.URL)
	e.deliver(t, w)
	e.change(t, e.tenant, "one")
	wait(t, "the first", 5*time.Second, func() bool { return r.details() == "one" })
	if got, err := w.Disable(t.Context(), e.caller(), h.ID); err != nil || got.State != events.StateDisabled || got.Reason != events.ReasonByHand {
		t.Fatalf("%+v, %v", got, err)
	}
	time.Sleep(2 * time.Second)
	e.change(t, e.tenant, "two")
	time.Sleep(500 * time.Millisecond)
	if got := r.details(); got != "one" {
		t.Errorf("delivered: %s", got)
	}
	if err := w.Remove(t.Context(), e.caller(), h.ID); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "removing it again", w.Remove(t.Context(), e.caller(), h.ID), fault.WebhookNotFound)
	_, err := w.Enable(t.Context(), e.caller(), h.ID)
	wantFault(t, "enabling a removed one", err, fault.WebhookNotFound)
}

// TestRotateSecret: for the time of overlap both secrets verify, afterwards the new one alone.
func TestRotateSecret(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	c := &clock{}
	w := e.webhooks(t, func(o *events.Options) { o.Now = c.now })
	h, first := e.add(t, w, r.URL)
	ping := func() message {
		t.Helper()
		test, err := w.Test(t.Context(), e.caller(), h.ID)
		if err != nil || !test.Delivered || test.Status != http.StatusNoContent {
			t.Fatalf("%+v, %v", test, err)
		}
		all := r.got()
		return all[len(all)-1]
	}
	if m := ping(); !m.signed(t, first) || m.event.Type != events.TypePing || !strings.HasPrefix(m.id, "msg_ping_") {
		t.Errorf("%+v", m)
	}
	got, second, err := w.RotateSecret(t.Context(), e.caller(), h.ID, time.Hour)
	if err != nil || second == first || got.PriorUntil.IsZero() {
		t.Fatal(err)
	}
	if m := ping(); !m.signed(t, first) || !m.signed(t, second) || len(strings.Fields(m.signature)) != 2 {
		t.Errorf("within the overlap: %s", m.signature)
	}
	c.forward(2 * time.Hour)
	if m := ping(); m.signed(t, first) || !m.signed(t, second) {
		t.Errorf("after the overlap: %s", m.signature)
	}
	_, third, err := w.RotateSecret(t.Context(), e.caller(), h.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m := ping(); m.signed(t, second) || !m.signed(t, third) {
		t.Errorf("without overlap: %s", m.signature)
	}
	for _, bad := range []time.Duration{-1, events.MaxOverlap + 1} {
		_, _, err := w.RotateSecret(t.Context(), e.caller(), h.ID, bad)
		wantFault(t, fmt.Sprint(bad), err, fault.BadField)
	}
	// What lies in the store opens under this root, tenant and webhook alone.
	stored := e.hook(t, h.ID)
	for _, shown := range []string{first, second, third} {
		if bytes.Contains(stored.Secret, []byte(shown)) {
			t.Error("the secret lies in clear")
		}
	}
	moved := *stored
	moved.ID, moved.Revision = uuid.New(), 1
	if _, err := e.log.Record(t.Context(), &audit.Entry{Tenant: e.tenant, Principal: "p", Action: "test", Outcome: "ok"}, e.store.InsertWebhook(&moved.Webhook, 0)); err != nil {
		t.Fatal(err)
	}
	_, err = w.Test(t.Context(), e.caller(), moved.ID)
	wantFault(t, "a secret of another webhook", err, fault.KeyMaterial)
}

// TestGiveUp: an event that is not taken within a day is given up, counted and shown, and so are those behind it that are as old without a call
// each; younger ones are delivered.
func TestGiveUp(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	r.answers(status(http.StatusServiceUnavailable))
	c := &clock{}
	w := e.webhooks(t, func(o *events.Options) { o.Now = c.now })
	h, _ := e.add(t, w, r.URL)
	for i := range 5 {
		e.change(t, e.tenant, fmt.Sprint("old-", i))
	}
	e.deliver(t, w)
	wait(t, "failures", 5*time.Second, func() bool { return len(r.called()) > 3 })
	p := e.hook(t, h.ID).Progress
	if p.Delivered != 0 || p.GivenUp != 0 || p.Attempts < 3 || p.LastStatus != 503 || p.LastError != "refused" || p.TryAt.Before(p.LastFailure) {
		t.Errorf("meanwhile: %+v", p)
	}
	c.forward(25 * time.Hour)
	wait(t, "they are given up", 10*time.Second, func() bool { return e.hook(t, h.ID).Progress.GivenUp == 5 })
	r.answers(nil)
	k := e.log // an entry of the clock's time
	if _, err := k.Record(t.Context(), &audit.Entry{Time: c.now(), Tenant: e.tenant, Principal: "p", Action: "api-key.rotate", Detail: "new", Outcome: "ok"},
		e.store.UpdateWebhook(func() *events.Webhook { h := e.hook(t, h.ID).Webhook; h.Revision++; return &h }())); err != nil {
		t.Fatal(err)
	}
	wait(t, "the new one", 5*time.Second, func() bool { return r.details() == "new" })
	if p := e.hook(t, h.ID).Progress; p.GivenUp != 5 {
		t.Errorf("%+v", p)
	}
}

// TestPruned: what was pruned before it could be delivered is said, and deliveries go on.
func TestPruned(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	w := e.webhooks(t, nil)
	h, _ := e.add(t, w, r.URL)
	e.change(t, e.tenant, "lost")
	if err := e.store.PruneNews(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	e.deliver(t, w)
	wait(t, "the gap is shown", 5*time.Second, func() bool { return e.hook(t, h.ID).Progress.LastError == "events were no longer kept" })
	e.change(t, e.tenant, "next")
	wait(t, "the next", 5*time.Second, func() bool { return r.details() == "next" })
}

// TestAdd: what can never be called is refused, as it is recorded; secrets are strong and each another one.
func TestAdd(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	strict := e.webhooks(t, func(o *events.Options) { o.Reach = events.Reach{} })
	good := events.NewWebhook{Name: "trail", URL: "https://hooks.example.org/a", Filter: events.Filter{}}
	for name, test := range map[string]struct {
		set  func(*events.NewWebhook)
		code fault.Code
	}{
		"no name":         {func(n *events.NewWebhook) { n.Name = "" }, fault.BadName},
		"control":         {func(n *events.NewWebhook) { n.Name = "a\x1bb" }, fault.BadName},
		"long name":       {func(n *events.NewWebhook) { n.Name = strings.Repeat("a", 129) }, fault.BadName},
		"type":            {func(n *events.NewWebhook) { n.Filter.Types = []string{"x.y"} }, fault.BadField},
		"plain":           {func(n *events.NewWebhook) { n.URL = "http://hooks.example.org/" }, fault.BadField},
		"other scheme":    {func(n *events.NewWebhook) { n.URL = "ftp://hooks.example.org/" }, fault.BadField},
		"file":            {func(n *events.NewWebhook) { n.URL = "file:///etc/passwd" }, fault.BadField},
		"no host":         {func(n *events.NewWebhook) { n.URL = "https:///x" }, fault.BadField},
		"opaque":          {func(n *events.NewWebhook) { n.URL = "https:x" }, fault.BadField},
		"user":            {func(n *events.NewWebhook) { n.URL = "https://a:b@hooks.example.org/" }, fault.BadField},
		"fragment":        {func(n *events.NewWebhook) { n.URL = "https://hooks.example.org/#x" }, fault.BadField},
		"blank":           {func(n *events.NewWebhook) { n.URL = "https://hooks.example.org/ x" }, fault.BadField},
		"line end":        {func(n *events.NewWebhook) { n.URL = "https://hooks.example.org/\r\nX: y" }, fault.BadField},
		"long":            {func(n *events.NewWebhook) { n.URL = "https://h/" + strings.Repeat("a", 2048) }, fault.BadField},
		"loopback":        {func(n *events.NewWebhook) { n.URL = "https://127.0.0.1/" }, fault.BadField},
		"localhost":       {func(n *events.NewWebhook) { n.URL = "https://LocalHost./" }, fault.BadField},
		"loopback 6":      {func(n *events.NewWebhook) { n.URL = "https://[::1]:8443/" }, fault.BadField},
		"mapped":          {func(n *events.NewWebhook) { n.URL = "https://[::ffff:127.0.0.1]/" }, fault.BadField},
		"metadata":        {func(n *events.NewWebhook) { n.URL = "https://169.254.169.254/latest" }, fault.BadField},
		"link-local zone": {func(n *events.NewWebhook) { n.URL = "https://[fe80::1%25eth0]/" }, fault.BadField},
		"unspecified":     {func(n *events.NewWebhook) { n.URL = "https://0.0.0.0/" }, fault.BadField},
	} {
		n := good
		test.set(&n)
		_, _, err := strict.Add(t.Context(), e.caller(), n)
		wantFault(t, name, err, test.code)
		found, _, err := e.log.List(t.Context(), audit.Filter{}, "", 1)
		if err != nil || found[0].Entry.Action != events.ActionCreate || found[0].Entry.Outcome != string(test.code) {
			t.Errorf("%s: recorded as %+v, %v", name, found, err)
		}
	}
	seen := map[string]bool{}
	for range events.MostWebhooks {
		_, secret, err := strict.Add(t.Context(), e.caller(), good)
		if err != nil || seen[secret] {
			t.Fatal(err)
		}
		seen[secret] = true
	}
	_, _, err := strict.Add(t.Context(), e.caller(), good)
	wantFault(t, "one too many", err, fault.Forbidden)
	_, err = strict.Get(t.Context(), events.Caller{Tenant: uuid.New()}, mustList(t, e, strict)[0].ID)
	wantFault(t, "another tenant's", err, fault.WebhookNotFound)
	page, next, err := strict.List(t.Context(), e.caller(), "", 20)
	rest, end, err2 := strict.List(t.Context(), e.caller(), next, 20)
	if err != nil || err2 != nil || len(page) != 20 || len(rest) != 12 || end != "" || slices.ContainsFunc(rest, func(h *events.Hook) bool { return h.ID == page[19].ID }) {
		t.Errorf("pages of %d and %d, %q, %v, %v", len(page), len(rest), end, err, err2)
	}
	_, _, err = strict.List(t.Context(), e.caller(), "!", 20)
	wantFault(t, "a cursor", err, fault.BadCursor)
}

// TestInside: a name that means this machine is refused when it is called, whatever it meant when it was added.
func TestInside(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := newReceiver(t, false)
	port := r.URL[strings.LastIndex(r.URL, ":"):]
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	open := e.webhooks(t, func(o *events.Options) { o.Reach = events.Reach{Allow: []string{"localhost", host}, PlainHTTP: true} })
	h, _ := e.add(t, open, "http://localhost"+port)
	if test, err := open.Test(t.Context(), e.caller(), h.ID); err != nil || !test.Delivered {
		t.Fatalf("a host that is allowed: %+v, %v", test, err)
	}
	// The same record on a node that allows no more.
	shut := e.webhooks(t, func(o *events.Options) { o.Reach = events.Reach{PlainHTTP: true} })
	if test, err := shut.Test(t.Context(), e.caller(), h.ID); err != nil || test.Delivered || test.Error != "address refused" {
		t.Errorf("a host that is not: %+v, %v", test, err)
	}
	_, err = shut.Enable(t.Context(), e.caller(), h.ID)
	wantFault(t, "enabling it", err, fault.BadField)
	for _, bad := range []string{"", "http://x", "a b", "10.0.0.0/33", "*.example.org", "host:80"} {
		_, err := events.New(events.Options{Reach: events.Reach{Allow: []string{bad}}})
		if err == nil {
			t.Errorf("%q is allowed", bad)
		}
	}
	if n := len(r.called()); n != 1 {
		t.Errorf("%d calls", n)
	}
}
