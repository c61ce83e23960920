package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// TestLimitedAreToldTheirs: a credential that is limited to keys, labels or operations reads, of the audit log and the events of its tenant, what is about those
// keys and operations, and what it did itself; what cannot be told or done in part is refused for it by a rule that says so.
func TestLimitedAreToldTheirs(t *testing.T) {
	e := newEverything(t)
	do := func(credential, method, path, body string) {
		t.Helper()
		made[any](e, credential, method, path, body)
	}
	mine := made[wire.Key](e, e.owner, "POST", "/keys", `{"name":"mine","algorithm":"AES-256-GCM","labels":{"team":"a"}}`)
	theirs := made[wire.Key](e, e.owner, "POST", "/keys", `{"name":"theirs","algorithm":"AES-256-GCM","labels":{"team":"b"}}`)
	gone := made[wire.Key](e, e.owner, "POST", "/keys", `{"name":"gone","algorithm":"AES-256-GCM"}`)
	for _, k := range []string{"mine", "theirs", "gone"} {
		do(e.owner, "POST", "/keys/"+k+"/encrypt", `{"plaintext":"AA=="}`)
	}
	do(e.owner, "PATCH", "/keys/gone", `{"name":"was-mine"}`) // what it is called today decides
	do(e.owner, "POST", "/tenants", `{"name":"another"}`)
	const scopes = `"scopes":["audit:read","keys:read","settings:write","audit:export"]`
	limited := func(limits string) string {
		return e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"limited",%s,%s}`, scopes, limits)).Key
	}
	all := e.newAPIKey(e.owner, fmt.Sprintf(`{"name":"all",%s}`, scopes)).Key
	type entries = []wire.AuditEntry
	read := func(credential, query string) (found entries) {
		t.Helper()
		cursor := ""
		for {
			page := made[wire.List[wire.AuditEntry]](e, credential, "GET", "/audit?limit=7"+query+cursor, "")
			found = append(found, page.Items...)
			if page.NextCursor == "" {
				return found
			}
			cursor = "&cursor=" + page.NextCursor
		}
	}
	everyone := read(all, "")
	for _, c := range []struct {
		what, limits string
		may          func(e wire.AuditEntry) bool
	}{
		{"by name", `"keys":["mine"]`, func(e wire.AuditEntry) bool { return e.KeyID == mine.ID }},
		{"by id", `"keys":["` + theirs.ID + `"]`, func(e wire.AuditEntry) bool { return e.KeyID == theirs.ID }},
		{"by a name of before", `"keys":["gone"]`, func(wire.AuditEntry) bool { return false }},
		{"by the name of today", `"keys":["was-mine"]`, func(e wire.AuditEntry) bool { return e.KeyID == gone.ID }},
		{"by label", `"labels":{"team":"a"}`, func(e wire.AuditEntry) bool { return e.KeyID == mine.ID }},
		{"by operation", `"operations":["encrypt"]`, func(e wire.AuditEntry) bool { return e.Action == "encrypt" }},
		{"by both", `"labels":{"team":"b"},"operations":["encrypt"]`, func(e wire.AuditEntry) bool { return e.KeyID == theirs.ID && e.Action == "encrypt" }},
	} {
		credential := limited(c.limits)
		me := made[wire.Me](e, credential, "GET", "/me", "").ID
		seen := map[uint64]bool{}
		for _, entry := range read(credential, "") {
			seen[entry.Index] = true
			if entry.Principal != me && !c.may(entry) {
				t.Errorf("%s is told of %+v", c.what, entry)
			}
		}
		for _, entry := range everyone {
			if c.may(entry) && !seen[entry.Index] {
				t.Errorf("%s is not told of %+v", c.what, entry)
			}
			w := e.ask("GET", fmt.Sprintf("/audit/entries/%d/proof", entry.Index), "", credential)
			if want := c.may(entry); want != (w.Code == http.StatusOK) {
				t.Errorf("%s: the proof of %+v: %d %s", c.what, entry, w.Code, w.Body)
			} else if !want {
				refused(t, w, 404, fault.EntryNotFound)
			}
		}

		// What cannot be told or done in part.
		for _, r := range [][3]string{{"GET", "/audit/export", ""}, {"GET", "/webhooks", ""}, {"POST", "/webhooks", `{"name":"x","url":"http://127.0.0.1:9/"}`},
			{"DELETE", "/webhooks/" + id(), ""}, {"POST", "/webhooks/" + id() + "/test", ""}} {
			refused(t, e.ask(r[0], r[1], r[2], credential), 403, fault.Forbidden)
		}
		own := read(credential, "&action=authorize&outcome=ERR_FORBIDDEN")
		if len(own) < 5 || slices.ContainsFunc(own, func(e wire.AuditEntry) bool {
			return !strings.HasSuffix(e.Detail, " rule "+string(auth.RuleUnfiltered))
		}) {
			t.Errorf("%s: the log says %+v", c.what, own)
		}
		if said := e.explained(credential, `{"operation":"webhook.create"}`); said.Allowed || said.Rule != string(auth.RuleUnfiltered) {
			t.Errorf("%s: %+v", c.what, said)
		}
		for _, line := range strings.Split(e.eventsOf(credential), "\n") {
			data, is := strings.CutPrefix(line, "data: ")
			var ev wire.Event
			if !is {
				continue
			}
			if err := json.Unmarshal([]byte(data), &ev); err != nil {
				t.Fatal(err)
			}
			entry := wire.AuditEntry{Action: "key.create", Principal: ev.Principal}
			if ev.Key != nil {
				entry.KeyID = ev.Key.ID
			}
			if ev.Type == "key.updated" {
				entry.Action = "key.update"
			}
			if !c.may(entry) {
				t.Errorf("%s is told %s", c.what, line)
			}
		}
	}
	if got := e.eventsOf(all); !strings.Contains(got, theirs.ID) || !strings.Contains(got, mine.ID) {
		t.Errorf("the events of all are %s", got)
	}
	if got := e.eventsOf(limited(`"keys":["mine"]`)); strings.Contains(got, theirs.ID) || !strings.Contains(got, mine.ID) || !strings.Contains(got, "key.created") {
		t.Errorf("the events of the limited one are %s", got)
	}
}

// TestNothingIsToldByCursors: where a page ends says nothing of what a limited credential is not told of, whatever it asks for.
func TestNothingIsToldByCursors(t *testing.T) {
	e := newEverything(t)
	made[wire.Key](e, e.owner, "POST", "/keys", `{"name":"mine","algorithm":"AES-256-GCM"}`)
	made[wire.Key](e, e.owner, "POST", "/keys", `{"name":"theirs","algorithm":"AES-256-GCM"}`)
	owner := made[wire.Me](e, e.owner, "GET", "/me", "").ID
	for range 3 {
		made[any](e, e.owner, "POST", "/keys/theirs/encrypt", `{"plaintext":"AA=="}`)
	}
	limited := e.newAPIKey(e.owner, `{"name":"limited","scopes":["audit:read"],"keys":["mine"]}`).Key
	for _, query := range []string{"action=encrypt", "action=encrypt&principal=" + owner, "action=api-key.create&outcome=ok"} {
		page := made[wire.List[wire.AuditEntry]](e, limited, "GET", "/audit?limit=1&"+query, "")
		if len(page.Items) != 0 || page.NextCursor != "" {
			t.Errorf("%s: %+v", query, page)
		}
	}
	for range 5 {
		made[any](e, e.owner, "POST", "/keys/mine/encrypt", `{"plaintext":"AA=="}`)
		made[any](e, e.owner, "POST", "/keys/theirs/encrypt", `{"plaintext":"AA=="}`)
	}
	found, cursor := 0, ""
	for pages := 0; ; pages++ {
		page := made[wire.List[wire.AuditEntry]](e, limited, "GET", "/audit?limit=2&action=encrypt"+cursor, "")
		if found += len(page.Items); page.NextCursor == "" {
			break
		}
		if cursor = "&cursor=" + page.NextCursor; len(page.Items) != 2 || pages > 5 {
			t.Fatalf("page %d: %+v", pages, page)
		}
	}
	if found != 5 {
		t.Errorf("%d entries, not 5", found)
	}
}

// TestRefusalOfOneWhoHasGone: a denial stands in the log though its caller hangs up at once, as a probe does that wants no trace.
func TestRefusalOfOneWhoHasGone(t *testing.T) {
	e := newEverything(t)
	reader := e.newAPIKey(e.owner, `{"name":"reader","scopes":["keys:read"]}`)
	refused(t, e.ask("GET", "/audit", "", reader.Key), 403, fault.InsufficientScope) // it is known from here on
	logged := func() int {
		return len(made[wire.List[wire.AuditEntry]](e, e.owner, "GET", "/audit?action=authorize&principal=api-key:"+reader.ID, "").Items)
	}
	before := logged()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, prefix+"/audit", nil)
	req.Header.Set("Authorization", "Bearer "+reader.Key)
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, req)
	if w.Code == http.StatusOK || logged() != before+1 {
		t.Errorf("%d %s: %d entries of %d", w.Code, w.Body, logged(), before)
	}
}

// eventsOf reads the tenant's events from the beginning, for as long as some come.
func (e *everything) eventsOf(credential string) string {
	ctx, cancel := context.WithTimeout(e.t.Context(), 500*time.Millisecond)
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, prefix+"/events?since=0", nil)
	req.Header.Set("Authorization", "Bearer "+credential)
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		e.t.Fatal(w.Code, w.Body)
	}
	return w.Body.String()
}
