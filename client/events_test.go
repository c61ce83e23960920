package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/api/wire"
)

// TestEventsComeBack: a stream that is cut, in the middle of an event or between two, is taken up again behind the last whole one.
func TestEventsComeBack(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Last-Event-ID")+" "+r.URL.RawQuery)
		w.Header().Set("Content-Type", "text/event-stream")
		switch len(asked) {
		case 1:
			fmt.Fprint(w, "retry: 1000\nid: 7\n\n: nothing new\n\nid: 8\nevent: key.created\ndata: {\"id\":8,\"type\":\"key.created\"}\n\nid: 9\ndata: {\"id\":9,")
		case 2:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			fmt.Fprint(w, "id: 9\r\ndata:{\"id\":9}\r\n\r\nid: 12\n\n")
		case 4:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusGone)
			fmt.Fprint(w, `{"error":{"error_code":"ERR_EVENTS_GONE","message":"x"},"request_id":"r"}`)
		}
	}))
	defer s.Close()
	c, err := New(Options{Address: s.URL, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	since := uint64(3)
	var got []uint64
	var last error
	for e, err := range c.Events(t.Context(), EventFilter{Since: &since, Types: []string{"key.*", "job.*"}, Label: "a=b"}) {
		if last = err; err == nil {
			got = append(got, e.ID)
		}
	}
	var e *Error
	if fmt.Sprint(got) != "[8 9]" || !errors.As(last, &e) || e.Code != "ERR_EVENTS_GONE" {
		t.Errorf("%v, %v", got, last)
	}
	q := " label=a%3Db&types=key.%2A%2Cjob.%2A"
	if want := []string{"3" + q, "8" + q, "8" + q, "12" + q}; fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked for %q", asked)
	}
}

// TestEventsEnd: a caller who has enough, a context that ends, and a service that was never there.
func TestEventsEnd(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "id: 1\ndata: {\"id\":1}\n\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-r.Context().Done()
	}))
	c, err := New(Options{Address: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range c.Events(t.Context(), EventFilter{}) {
		if e.ID != 1 || err != nil {
			t.Error(e, err)
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n := 0
	for e, err := range c.Events(ctx, EventFilter{}) {
		if n++; n == 2 && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(e, err)
		}
	}
	if n != 2 {
		t.Errorf("%d values", n)
	}
	s.CloseClientConnections()
	s.Close()
	n = 0
	for _, err := range c.Events(t.Context(), EventFilter{}) {
		if n++; !errors.Is(err, ErrConnection) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d values", n)
	}
}

// FuzzEvents: whatever a stream holds, reading it ends, and gives blocks with something in them and errors of the two kinds.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{"id: 1\ndata: {}\n\n", ": x\n\n", "data: a\ndata: b\n\n", "id: -1\n\n", "id:1\n\nid", "\r\n\r\n", "event: x\nretry: 5\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := eventParser{in: bufio.NewReader(bytes.NewReader(b)), heard: func() {}}
		for n := 0; ; n++ {
			block, err := p.next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, ErrResponse) {
					t.Error(err)
				}
				return
			}
			if block.id == nil && block.data == nil || n > len(b) || bytes.ContainsRune(block.data, '\n') {
				t.Errorf("%+v", block)
			}
		}
	})
}

// TestWebhookCalls: each call goes to its route.
func TestWebhookCalls(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = append(asked, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1")+" "+string(body))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"data":{"items":[],"next_cursor":""},"request_id":"r"}`)
	}))
	defer s.Close()
	c, err := New(Options{Address: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	zero := 0
	ctx := t.Context()
	_, e1 := c.AddWebhook(ctx, wire.CreateWebhook{Name: "n", URL: "u"})
	_, e2 := c.Webhook(ctx, "a b")
	_, e3 := c.TestWebhook(ctx, "a")
	_, e4 := c.EnableWebhook(ctx, "a")
	_, e5 := c.DisableWebhook(ctx, "a")
	_, e6 := c.RotateWebhookSecret(ctx, "a", &zero)
	_, e7 := c.RotateWebhookSecret(ctx, "a", nil)
	e8 := c.RemoveWebhook(ctx, "a")
	for range c.Webhooks(ctx) {
		t.Error("there is none")
	}
	if err := errors.Join(e1, e2, e3, e4, e5, e6, e7, e8); err != nil {
		t.Fatal(err)
	}
	want := []string{`POST /webhooks {"name":"n","url":"u"}`, "GET /webhooks/a b ", "POST /webhooks/a/test ", "POST /webhooks/a/enable ", "POST /webhooks/a/disable ",
		`POST /webhooks/a/rotate-secret {"overlap_hours":0}`, "POST /webhooks/a/rotate-secret {}", "DELETE /webhooks/a ", "GET /webhooks "}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked for\n%s\nwant\n%s", strings.Join(asked, "\n"), strings.Join(want, "\n"))
	}
	if _, err := c.Webhook(ctx, ""); err == nil {
		t.Error("no webhook was named")
	}
}
