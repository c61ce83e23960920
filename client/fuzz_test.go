package client

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzFailure: whatever an error answer holds, what is shown of it is bounded and cannot steer a terminal.
func FuzzFailure(f *testing.F) {
	f.Add("application/json", "5", []byte(`{"error":{"error_code":"ERR_X","message":"m"},"request_id":"r","timestamp":"2026-01-02T03:04:05Z"}`))
	f.Add("text/html", "Wed, 21 Oct 2037 07:28:00 GMT", []byte("<html>"))
	f.Add("application/json", "-1", []byte("{\"error\":{\"error_code\":\"\\u001b[2J\",\"message\":\"\\n\"}}"))
	f.Fuzz(func(t *testing.T, media, after string, body []byte) {
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Content-Type": {media}, "Retry-After": {after}, "X-Request-Id": {after}}}
		e := failure(resp, body)
		s := e.Error()
		if s == "" || len([]rune(s)) > 2048 || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\x07\x1b\r\n\u009b") || e.RetryAfter < 0 {
			t.Fatalf("%q, %v", s, e.RetryAfter)
		}
		if e.Status != 503 {
			t.Fatal(e.Status)
		}
	})
}

func TestRetryAfterForms(t *testing.T) {
	for s, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-7": 0, "1.5": 0, "soon": 0, "Wed, 21 Oct 2015 07:28:00 GMT": 0, "99999999999": 0} {
		if got := retryAfter(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
	if d := retryAfter(time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)); d < 58*time.Second || d > time.Minute {
		t.Errorf("a date: %v", d)
	}
}
