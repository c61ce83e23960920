package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keywright/keywright/fault"
)

// TestDatesThatCannotBeShown: a date in the year 9999 can be beyond it in UTC, where it has no form any more: every list with it would be an internal fault.
func TestDatesThatCannotBeShown(t *testing.T) {
	e := newEverything(t)
	e.ask("POST", "/keys", `{"name":"dated","algorithm":"AES-256-GCM"}`, e.owner)
	for expiry, status := range map[string]int{"9999-12-31T23:59:59-01:00": 400, "9999-12-31T23:59:59Z": 201} {
		for name, ask := range map[string]struct{ method, path, body string }{
			"an API key": {"POST", "/api-keys", `{"name":"far","role":"viewer","expires_at":%q}`},
			"a grant":    {"PUT", "/keys/dated/grants/" + id(), `{"principal":"peer:7","operations":["encrypt"],"expires_at":%q}`},
		} {
			w := e.ask(ask.method, ask.path, fmt.Sprintf(ask.body, expiry), e.owner)
			good := w.Code/100 == 2 && strings.Contains(w.Body.String(), expiry)
			if status == 201 && !good || status == 400 && (w.Code != status || !strings.Contains(w.Body.String(), string(fault.BadField))) {
				t.Errorf("%s until %s: %d %s", name, expiry, w.Code, w.Body)
			}
		}
	}
	for _, path := range []string{"/api-keys", "/keys/dated/grants"} {
		if w := e.ask("GET", path, "", e.owner); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
