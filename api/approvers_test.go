package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
)

// TestApproversAreOthers: nobody brings a quorum together alone, by credentials made or renewed for that.
func TestApproversAreOthers(t *testing.T) {
	e := newEverything(t)
	key := func(by, body string) wire.APIKey { return made[wire.APIKey](e, by, "POST", "/api-keys", body) }
	admin := func(by, name string) wire.APIKey { return key(by, fmt.Sprintf(`{"name":%q,"role":"admin"}`, name)) }
	ann, bob, dev := admin(e.owner, "ann"), admin(e.owner, "bob"), key(e.owner, `{"name":"dev","role":"admin"}`)
	made[wire.Key](e, e.owner, "POST", "/keys", `{"name":"release","algorithm":"Ed25519","policy":{"quorum":{"operations":["sign"],"approvals":2,"role":"admin"}}}`)
	const body = `{"message":"AA=="}`
	ask := func(by string) string {
		t.Helper()
		return made[wire.Approval](e, by, "POST", "/approvals", fmt.Sprintf(`{"key":"release","operation":"sign","body":%q}`, body)).ID
	}
	puppet := admin(dev.Key, "puppet")      // made by the requester, beforehand
	child := admin(puppet.Key, "its-own")   // and by its puppet
	ofAnn := admin(ann.Key, "ann's second") // one person, two voices
	renewed := admin(e.owner, "renewed")    // by the requester, and then by itself
	taken := made[wire.APIKey](e, dev.Key, "POST", "/api-keys/"+renewed.ID+"/rotate", "")
	taken = made[wire.APIKey](e, taken.Key, "POST", "/api-keys/"+renewed.ID+"/rotate", "")
	selfMade := made[wire.APIKey](e, puppet.Key, "POST", "/api-keys/"+puppet.ID+"/rotate", "")
	request := ask(dev.Key)
	late := admin(ann.Key, "late")
	lateByOwner := admin(e.owner, "late too")
	vote := func(by, id string) (int, string) {
		t.Helper()
		w := e.ask("POST", "/approvals/"+id+"/approve", "", by)
		if w.Code != http.StatusOK {
			refused(t, w, 403, fault.Forbidden)
		}
		return w.Code, w.Body.String()
	}
	for what, by := range map[string]string{"the requester": dev.Key, "a puppet that has renewed itself": selfMade.Key, "a puppet's puppet": child.Key,
		"one that the requester has renewed": taken.Key, "one made after the request": late.Key, "one made after it by another": lateByOwner.Key} {
		if code, body := vote(by, request); code != http.StatusForbidden || !strings.Contains(body, "nobody approves") {
			t.Errorf("%s: %d %s", what, code, body)
		}
	}
	entries := made[wire.List[wire.AuditEntry]](e, e.owner, "GET", "/audit?action=approval.approve&outcome=ERR_FORBIDDEN", "")
	if len(entries.Items) != 6 || !strings.Contains(entries.Items[0].Detail, "rule quorum") {
		t.Errorf("%+v", entries.Items)
	}
	state := func(id string) wire.Approval {
		return made[wire.Approval](e, e.owner, "GET", "/approvals/"+id, "")
	}
	sign := func() int { return e.ask("POST", "/keys/release/sign", body, dev.Key, "X-Approval", request).Code }
	// The second voice first, then the first: together they are one.
	if code, body := vote(ofAnn.Key, request); code != http.StatusOK {
		t.Fatal(body)
	}
	if code, body := vote(ann.Key, request); code != http.StatusOK {
		t.Fatal(body)
	}
	if a := state(request); a.State != "pending" || len(a.Votes) != 2 || a.Votes[0].Counts == a.Votes[1].Counts || sign() != http.StatusForbidden {
		t.Fatalf("one person with two credentials: %+v", a)
	}
	if code, body := vote(bob.Key, request); code != http.StatusOK {
		t.Fatal(body)
	}
	if a := state(request); a.State != "approved" || sign() != http.StatusOK {
		t.Fatalf("two persons: %+v", a)
	}

	// The first voice first: then the second is not heard.
	second := ask(dev.Key)
	if code, body := vote(ann.Key, second); code != http.StatusOK {
		t.Fatal(body)
	}
	if code, body := vote(ofAnn.Key, second); code != http.StatusForbidden || !strings.Contains(body, "another that has approved") {
		t.Errorf("%d %s", code, body)
	}
	// Who has made the requester's credential is not another either.
	third := ask(puppet2(e, ann.Key))
	if code, body := vote(ann.Key, third); code != http.StatusForbidden || !strings.Contains(body, "comes from the own") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := vote(bob.Key, third); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	// Who may approve may reject, however new.
	if w := e.ask("POST", "/approvals/"+second+"/reject", "", late.Key); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// Certificates come from outside: what made them is not known, and they count by their names.
	fourth := ask(dev.Key)
	for _, by := range []string{e.credential(byCertificate, "admin"), e.credential(byToken, "admin")} {
		if code, body := vote(by, fourth); code != http.StatusOK {
			t.Fatal(body)
		}
	}
	if a := state(fourth); a.State != "approved" {
		t.Errorf("%+v", a)
	}
}

func puppet2(e *everything, by string) string {
	return made[wire.APIKey](e, by, "POST", "/api-keys", `{"name":"made by an approver","role":"admin"}`).Key
}
