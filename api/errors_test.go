package api

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

var update = flag.Bool("update", false, "write the files that are made from the tables")

const errorsPage = "../docs/errors.md"

func TestEveryCodeHasAStatus(t *testing.T) {
	for _, c := range fault.Codes() {
		if _, ok := statusOf(c.Code); !ok {
			t.Errorf("%s has no status", c.Code)
		}
	}
	if status, ok := statusOf("ERR_SOMETHING_ELSE"); ok || status != http.StatusInternalServerError {
		t.Errorf("an unknown code gives %d, %v", status, ok)
	}
}

func TestErrorsPage(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`# Error codes

Made from the table of codes in package fault and the table of statuses in package api: do not edit. ` + "`go test ./api -run TestErrorsPage -update`" + ` writes it.

Every failed request is answered in one form, with the status below:

` + "```json" + `
{"error":{"error_code":"ERR_KEY_NOT_FOUND","message":"…"},"request_id":"…","timestamp":"…"}
` + "```" + `

Codes are never renamed or reused: decide by the code. The message is for people and may change. It never holds a value
that was sent. The items of a batch carry the same ` + "`error`" + ` object, each its own. Where trying again helps, ` + "`Retry-After`" + ` says
after how many seconds.

| code | status | meaning |
| --- | --- | --- |
`)
	for _, c := range fault.Codes() {
		status, _ := statusOf(c.Code)
		fmt.Fprintf(&b, "| `%s` | %d | %s |\n", c.Code, status, strings.ReplaceAll(c.Meaning, "|", `\|`))
	}
	if *update {
		if err := os.WriteFile(errorsPage, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, b.Bytes()) {
		t.Error("docs/errors.md is out of step with the tables: go test ./api -run TestErrorsPage -update")
	}
}

func TestUnknownFaultsShowNothing(t *testing.T) {
	r := newRig(t, Limits{})
	for name, err := range map[string]error{
		"bare":         errors.New("disk on fire at /var/lib"),
		"wrapped":      fmt.Errorf("reading: %w", errors.New("disk on fire at /var/lib")),
		"internal":     fault.Wrap(fault.Internal, "disk on fire", errors.New("at /var/lib")),
		"unknown code": fault.New("ERR_NEW", "disk on fire at /var/lib"),
	} {
		r.log.Reset()
		r.keys.fail = err
		w := r.do("GET", "/api/v1/keys/a", "", "X-Request-ID", "abc.1")
		refused(t, w, 500, fault.Internal)
		if strings.Contains(w.Body.String(), "fire") || strings.Contains(w.Body.String(), "var") {
			t.Errorf("%s: the cause is shown: %s", name, w.Body)
		}
		if !strings.Contains(r.log.String(), "fire") || !strings.Contains(r.log.String(), "abc.1") {
			t.Errorf("%s: the cause is not logged under its id: %s", name, r.log)
		}
	}
}

func TestFaultsAreShown(t *testing.T) {
	r := newRig(t, Limits{})
	for _, c := range fault.Codes() {
		if c.Code == fault.Internal {
			continue
		}
		r.keys.fail = fmt.Errorf("getting: %w", fault.Wrap(c.Code, `say "this"`, errors.New("inner cause")).RetryAfter(1500*time.Millisecond))
		w := r.do("GET", "/api/v1/keys/a", "")
		status, _ := statusOf(c.Code)
		refused(t, w, status, c.Code)
		if !strings.Contains(w.Body.String(), `"message":"say \"this\""`) || strings.Contains(w.Body.String(), "inner") {
			t.Errorf("%s: %s", c.Code, w.Body)
		}
		if got := w.Header().Get("Retry-After"); got != "2" {
			t.Errorf("%s: Retry-After is %q, want 2", c.Code, got)
		}
	}
}

func TestPanic(t *testing.T) {
	r := newRig(t, Limits{})
	w := r.do("POST", "/api/v1/encrypt", `{"plaintext":"cGFuaWM="}`)
	refused(t, w, 500, fault.Internal)
	if log := r.log.String(); strings.Contains(log, "secret text") || !strings.Contains(log, "panic=string") {
		t.Errorf("log: %s", log)
	}
	if w := r.do("POST", "/api/v1/encrypt", `{"plaintext":"AAEC"}`); w.Code != 200 {
		t.Errorf("after a panic: %d", w.Code)
	}
}
