package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/api/wire"
)

// transportFunc answers without a network, so that the waits can run in a bubble's time.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// scripted makes a client whose attempts are answered in turn; the last answer repeats.
func scripted(t *testing.T, answers ...http.HandlerFunc) (c *Client, seen *[]*http.Request) {
	t.Helper()
	seen = new([]*http.Request)
	c, err := New(Options{Address: "https://kms.example", HTTPClient: &http.Client{Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
		}
		n := min(len(*seen), len(answers)-1)
		*seen = append(*seen, r)
		if answers[n] == nil {
			return nil, errors.New("connection reset")
		}
		w := httptest.NewRecorder()
		answers[n](w, r)
		return w.Result(), nil
	})}})
	if err != nil {
		t.Fatal(err)
	}
	return c, seen
}

func ok(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{"valid":true}}`) }

func TestRetries(t *testing.T) {
	busy := refuse(503, "ERR_OVERLOADED", "")
	show := func(ctx context.Context, c *Client) error { _, err := c.Key(ctx, "k"); return err }
	create := func(ctx context.Context, c *Client) error { _, err := c.CreateKey(ctx, wire.CreateKey{}); return err }
	encrypt := func(ctx context.Context, c *Client) error { _, err := c.Encrypt(ctx, wire.Encrypt{}); return err }
	for _, tc := range []struct {
		name     string
		answers  []http.HandlerFunc
		call     func(context.Context, *Client) error
		attempts int
		fails    bool
	}{
		{"overloaded, then fine", []http.HandlerFunc{busy, busy, ok}, show, 3, false},
		{"connection lost, then fine", []http.HandlerFunc{nil, ok}, show, 2, false},
		{"verify", []http.HandlerFunc{busy, ok}, func(ctx context.Context, c *Client) error { _, err := c.Verify(ctx, wire.Verify{}); return err }, 2, false},
		{"decrypt", []http.HandlerFunc{busy, ok}, func(ctx context.Context, c *Client) error { _, err := c.Decrypt(ctx, wire.Decrypt{}); return err }, 2, false},
		{"create", []http.HandlerFunc{nil, busy, ok}, create, 3, false},
		{"always overloaded", []http.HandlerFunc{busy}, show, 4, true},
		{"encrypt is not repeated", []http.HandlerFunc{busy, ok}, encrypt, 1, true},
		{"encrypt is not repeated after a lost connection", []http.HandlerFunc{nil, ok}, encrypt, 1, true},
		{"a state change is not repeated", []http.HandlerFunc{nil, ok}, func(ctx context.Context, c *Client) error {
			_, err := c.SetVersionState(ctx, "k", 1, "active")
			return err
		}, 1, true},
		{"adding a slot is not repeated", []http.HandlerFunc{nil, ok}, func(ctx context.Context, c *Client) error { _, err := c.AddRootSlot(ctx, wire.AddSlot{}); return err }, 1, true},
		{"not found", []http.HandlerFunc{refuse(404, "ERR_KEY_NOT_FOUND", "")}, show, 1, true},
		{"an internal fault", []http.HandlerFunc{refuse(500, "ERR_INTERNAL", "")}, show, 1, true},
		{"locked waits for a person", []http.HandlerFunc{refuse(503, "ERR_LOCKED", ""), ok}, show, 1, true},
		{"a wait that is too long", []http.HandlerFunc{refuse(503, "ERR_OVERLOADED", "3600"), ok}, show, 1, true},
		{"a wait beyond the deadline", []http.HandlerFunc{refuse(503, "ERR_OVERLOADED", "29"), refuse(503, "ERR_OVERLOADED", "29"), ok}, show, 2, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, seen := scripted(t, tc.answers...)
				err := tc.call(t.Context(), c)
				if (err != nil) != tc.fails || len(*seen) != tc.attempts {
					t.Errorf("%d attempts, want %d: %v", len(*seen), tc.attempts, err)
				}
				if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the failure itself says more: %v", err)
				}
			})
		})
	}
}

func TestRetryAfterIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := scripted(t, refuse(503, "ERR_OVERLOADED", "7"), ok)
		start := time.Now()
		if _, err := c.Key(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 7*time.Second || d > 8*time.Second {
			t.Errorf("waited %v", d)
		}
	})
}

func TestRetriesShareOneIdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, seen := scripted(t, nil, nil, ok)
		if _, err := c.CreateKey(t.Context(), wire.CreateKey{Name: "n"}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CreateKey(t.Context(), wire.CreateKey{Name: "n"}); err != nil {
			t.Fatal(err)
		}
		key := func(i int) string { return (*seen)[i].Header.Get("Idempotency-Key") }
		if key(0) == "" || key(0) != key(1) || key(1) != key(2) || key(2) == key(3) {
			t.Errorf("keys %q %q %q, then %q", key(0), key(1), key(2), key(3))
		}
		if _, err := c.CreateKey(WithIdempotencyKey(t.Context(), "a\nb"), wire.CreateKey{}); err == nil || len(*seen) != 4 {
			t.Errorf("a malformed key went out: %v", err)
		}
	})
}

// TestCauseOfConflict: a repetition learns that the first attempt has failed, and the caller is told why; what was lost on the way stays a conflict.
func TestCauseOfConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone, conflict := refuse(503, "ERR_BACKEND_UNAVAILABLE", "1"), refuse(409, "ERR_CONFLICT", "")
		for want, answers := range map[string][]http.HandlerFunc{
			"ERR_BACKEND_UNAVAILABLE": {gone, conflict},
			"ERR_CONFLICT":            {nil, conflict},
		} {
			c, _ := scripted(t, answers...)
			if _, err := c.CreateKey(t.Context(), wire.CreateKey{Name: "n"}); !HasCode(err, want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		c, _ := scripted(t, gone, conflict)
		if _, err := c.UpdateKey(t.Context(), "k", wire.UpdateKey{}); HasCode(err, "ERR_CONFLICT") {
			t.Errorf("a call without a key was repeated: %v", err)
		}
	})
}

func TestCancelDuringWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, seen := scripted(t, refuse(503, "ERR_OVERLOADED", "20"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		_, err := c.Key(ctx, "k")
		if !errors.Is(err, context.Canceled) || !HasCode(err, "ERR_OVERLOADED") || time.Since(start) != time.Second || len(*seen) != 1 {
			t.Errorf("%v after %v, %d attempts", err, time.Since(start), len(*seen))
		}
	})
}

func TestErrors(t *testing.T) {
	c := serve(t, refuse(http.StatusConflict, "ERR_CONFLICT", "3"))
	_, err := c.UpdateKey(t.Context(), "k", wire.UpdateKey{})
	var e *Error
	if !errors.As(err, &e) || *e != (Error{Status: 409, Code: "ERR_CONFLICT", Message: "No.", RequestID: "r-1", RetryAfter: 3 * time.Second}) {
		t.Errorf("got %+v", e)
	}
	for name, h := range map[string]http.HandlerFunc{
		"a proxy's page": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, "<html>secret")
		},
		"JSON of another API": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, `{"error":"secret"}`)
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.invalid/secret", http.StatusFound)
		},
	} {
		c := serve(t, h)
		_, err := c.Key(t.Context(), "k")
		if !errors.As(err, &e) || e.Code != "" || e.Status < 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":{"error_code":"ERR_X","message":"a\u001b[2Jb"},"request_id":"r"}`)
	})
	if _, err := c.Key(t.Context(), "k"); !errors.As(err, &e) || e.Message != "a?[2Jb" {
		t.Errorf("a message that steers a terminal: %q", e.Message)
	}
}
