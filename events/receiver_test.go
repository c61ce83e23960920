package events_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/api/wire"
)

// receiver is a receiver of webhooks: a real server that keeps what it is sent.
type receiver struct {
	*httptest.Server
	t      *testing.T
	mu     sync.Mutex // guards what follows
	answer func(w http.ResponseWriter, r *http.Request, n int)
	taken  []message // that were answered with a success
	calls  []message
}

type message struct {
	id, signature string
	at            time.Time
	when          time.Time // of the call
	body          []byte
	event         wire.Event
}

// newReceiver starts one that answers 204 until it is told otherwise.
func newReceiver(t *testing.T, tls bool) *receiver {
	t.Helper()
	r := &receiver{t: t}
	start := httptest.NewServer
	if tls {
		start = httptest.NewTLSServer
	}
	r.Server = start(r)
	r.Config.ErrorLog = nil
	t.Cleanup(r.Close)
	return r
}

// answers sets how the n-th call from now on (from 0) is answered.
func (r *receiver) answers(f func(w http.ResponseWriter, req *http.Request, n int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer, r.calls = f, nil
}

// status answers every call with a status.
func status(code int) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(code) }
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the caller broke off
	}
	seconds, err := strconv.ParseInt(req.Header.Get("webhook-timestamp"), 10, 64)
	if err != nil || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/json" || req.Header.Get("User-Agent") == "" {
		r.t.Errorf("a call with %v", req.Header)
	}
	m := message{id: req.Header.Get("webhook-id"), signature: req.Header.Get("webhook-signature"), at: time.Unix(seconds, 0), when: time.Now(), body: body}
	m.event = decode(r.t, body)
	r.mu.Lock()
	n, answer := len(r.calls), r.answer
	r.calls = append(r.calls, m)
	r.mu.Unlock()
	out := &kept{ResponseWriter: w, code: http.StatusOK}
	if answer == nil {
		answer = status(http.StatusNoContent)
	}
	answer(out, req, n)
	if out.code/100 == 2 && req.Context().Err() == nil {
		r.mu.Lock()
		r.taken = append(r.taken, m)
		r.mu.Unlock()
	}
}

type kept struct {
	http.ResponseWriter
	code int
}

func (k *kept) Unwrap() http.ResponseWriter { return k.ResponseWriter }

func (k *kept) WriteHeader(code int) {
	k.code = code
	k.ResponseWriter.WriteHeader(code)
}

func (r *receiver) got() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]message(nil), r.taken...)
}

func (r *receiver) called() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]message(nil), r.calls...)
}

// details are those of the events that were taken, in order.
func (r *receiver) details() string {
	var s []string
	for _, m := range r.got() {
		s = append(s, m.event.Detail)
	}
	return strings.Join(s, " ")
}

// signed checks a message with a secret by other code than ours: openssl.
func (m *message) signed(t *testing.T, secret string) bool {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) != 32 || !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("the secret %q is not one of Standard Webhooks", secret)
	}
	content := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(content, fmt.Appendf(nil, "%s.%d.%s", m.id, m.at.Unix(), m.body), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", fmt.Sprintf("hexkey:%x", key), "-binary", content).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "v1," + base64.StdEncoding.EncodeToString(sum)
	for s := range strings.FieldsSeq(m.signature) {
		if s == want {
			return true
		}
	}
	return false
}
