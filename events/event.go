// Package events tells a tenant what has changed: as a stream that a client can take up again where it left off, and by signed calls
// to receivers that the tenant has named (webhooks, after the Standard Webhooks specification 1.0).
//
// Its source is the audit log: the news of the store say which entries tell of a change, and an event is what such an entry says. So
// an event is there exactly once, its id is the entry's index, and every node tells the same. It trusts the store for both, and the
// receivers for nothing: addresses inside the machine are refused, answers are hardly read.
package events

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
)

// Keep is how long events can be asked for: as long as the store keeps its news. What is older stands in the audit log.
const Keep = 72 * time.Hour

// Event is one change. It is not altered once it is made: streams and webhooks share it.
type Event struct {
	Index  uint64 // of the audit entry
	Time   time.Time
	Tenant uuid.UUID
	Type   string
	Key    uuid.UUID // zero: of none
	Action string    // as the audit log has it
	Labels map[string]string
	// Principal is whose act it was.
	Principal string
	JSON      []byte // wire.Event
}

// kinds says what an action of the audit log is called as an event. What is not here is "<kind>.changed", by the kind of its news.
func typeOf(action string, kind cluster.Kind) string {
	switch action {
	case "key.create":
		return "key.created"
	case "key.import":
		return "key.imported"
	case "key.rotate":
		return "key.rotated"
	case "key.update":
		return "key.updated"
	case "key.state", "key.activate", "key.expire":
		return "key.state_changed"
	case "key.delete":
		return "key.deletion_scheduled"
	case "key.cancel-deletion":
		return "key.deletion_cancelled"
	case "key.destroy":
		return "key.destroyed"
	case "key.abandon":
		return "key.version_abandoned"
	case "key.move":
		return "key.moved"
	case "key.move.version":
		return "key.version_moved"
	case "key.reseal":
		return "key.resealed"
	case "tenant.create":
		return "tenant.created"
	case "tenant.update":
		return "tenant.updated"
	case "tenant.suspend":
		return "tenant.suspended"
	case "tenant.resume":
		return "tenant.resumed"
	case "api-key.create", "tenant.recover":
		return "api_key.created"
	case "api-key.rotate":
		return "api_key.rotated"
	case "api-key.revoke":
		return "api_key.revoked"
	case "session.end", "session.leave":
		return "session.ended"
	case "settings.security.set":
		return "settings.changed"
	case "job.begin", "job.create":
		return "job.begun"
	case "job.end", "job.report":
		return "job.ended"
	case "job.cancel":
		return "job.cancelled"
	case ActionCreate:
		return "webhook.created"
	case ActionRemove:
		return "webhook.removed"
	case ActionEnable:
		return "webhook.enabled"
	case ActionDisable:
		return "webhook.disabled"
	case ActionRotate:
		return "webhook.secret_rotated"
	}
	switch kind {
	case cluster.KindKey:
		return "key.changed"
	case cluster.KindAPIKey:
		return "api_key.changed"
	case cluster.KindSettings:
		return "settings.changed"
	case cluster.KindTenant:
		return "tenant.changed"
	case cluster.KindPolicy:
		return "policy.changed"
	case cluster.KindJob:
		return "job.changed"
	case cluster.KindWebhook:
		return "webhook.changed"
	case cluster.KindSession:
		return "session.ended"
	}
	return ""
}

// TypePing is the type of what `test` sends: no change, so no stream has it.
const TypePing = "webhook.ping"

// Types lists all types, in the order of the documentation.
func Types() []string {
	return []string{
		"key.created", "key.imported", "key.rotated", "key.updated", "key.state_changed", "key.deletion_scheduled",
		"key.deletion_cancelled", "key.destroyed", "key.version_abandoned", "key.moved", "key.version_moved", "key.resealed", "key.changed",
		"api_key.created", "api_key.rotated", "api_key.revoked", "api_key.changed", "session.ended",
		"settings.changed", "tenant.created", "tenant.updated", "tenant.suspended", "tenant.resumed", "tenant.changed", "policy.changed",
		"job.begun", "job.ended", "job.cancelled", "job.changed",
		"webhook.created", "webhook.removed", "webhook.enabled", "webhook.disabled", "webhook.secret_rotated", "webhook.changed",
	}
}

// begun ends the actions of first steps: a key is not there yet, and the entry of the last step tells of it.
const begun = ".begin"

// happened reports whether an entry is an event to anybody.
func happened(e *audit.Entry) bool {
	if e.Tenant == uuid.Nil {
		return false
	}
	if strings.HasPrefix(e.Action, "key.") && strings.HasSuffix(e.Action, begun) {
		return false
	}
	return e.Action != "key.destroy" || e.Detail != "versions" // a part of it: the last one tells of the whole
}

const jobPrefix = "job:"

// fromEntry makes the event of an entry. kind is that of its first news; name and labels are the key's. It gives nil for what is no event.
func fromEntry(index uint64, e *audit.Entry, kind cluster.Kind, name string, labels map[string]string) (*Event, error) {
	if !happened(e) {
		return nil, nil
	}
	ev := &Event{Index: index, Time: e.Time, Tenant: e.Tenant, Type: typeOf(e.Action, kind), Key: e.Key, Action: e.Action, Principal: e.Principal, Labels: labels}
	if ev.Type == "" {
		return nil, nil // the deployment's own, such as the root's slots
	}
	w := wire.Event{ID: index, Time: e.Time.UTC(), Type: ev.Type, Resource: e.Resource, Principal: e.Principal, Detail: e.Detail, RequestID: e.RequestID}
	if e.Outcome != "ok" {
		w.Outcome = e.Outcome
	}
	if e.Key != uuid.Nil {
		w.Key = &wire.EventKey{ID: e.Key.String(), Name: name, Version: e.KeyVersion}
	}
	if id, ok := strings.CutPrefix(e.Resource, jobPrefix); ok {
		w.Job, w.Resource = id, ""
	}
	var err error
	if ev.JSON, err = encode(&w); err != nil {
		return nil, err
	}
	return ev, nil
}

func encode(w *wire.Event) ([]byte, error) {
	b, err := json.Marshal(w, jsonv1.OmitEmptyWithLegacySemantics(true), json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return b, nil
}

// ParseID reads an event id as a client sends it back: a decimal number without sign, blanks and leading zeros, below 2^63.
func ParseID(s string) (uint64, bool) {
	if s == "" || len(s) > 19 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return n, err == nil
}
