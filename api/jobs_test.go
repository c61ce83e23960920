package api

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
)

// fakeJobs answers with one job, and keeps what it was asked.
type fakeJobs struct {
	mu     sync.Mutex // guards what follows
	caller jobs.Caller
	list   jobs.ListRequest
	id     uuid.UUID
	job    jobs.Job
	fail   error
}

func (f *fakeJobs) answer(c jobs.Caller, id uuid.UUID) (*jobs.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caller, f.id = c, id
	if f.fail != nil {
		return nil, f.fail
	}
	j := f.job
	return &j, nil
}

func (f *fakeJobs) List(_ context.Context, c jobs.Caller, r jobs.ListRequest) ([]*jobs.Job, string, error) {
	f.list = r
	j, err := f.answer(c, uuid.Nil)
	return []*jobs.Job{j}, "next", err
}
func (f *fakeJobs) Get(_ context.Context, c jobs.Caller, id uuid.UUID) (*jobs.Job, error) {
	return f.answer(c, id)
}
func (f *fakeJobs) Cancel(_ context.Context, c jobs.Caller, id uuid.UUID) (*jobs.Job, error) {
	return f.answer(c, id)
}

func TestJobs(t *testing.T) {
	r := newRig(t, Limits{})
	r.jobs.job = jobs.Job{ID: keyID, Tenant: tenant, Kind: "move", State: jobs.Queued, Params: []byte(`{"backend":"hsm"}`), Cursor: []byte("hidden"),
		Counts: jobs.Counts{Done: 1, Failed: 1, Total: 3}, Notices: []jobs.Notice{{Resource: "key:x/2", Code: fault.NotExportable, Message: "no"}},
		Error: fault.BackendUnavailable, Message: "not now", Attempts: 2, RetryAt: moment.Add(time.Minute), CreatedBy: "api-key:1", CreatedAt: moment,
		StartedAt: moment, UpdatedAt: moment, Node: tenant, Revision: 4}
	want := `{"id":"0195f3a2-7b1c-7def-8123-456789abcdef","kind":"move","state":"queued","params":{"backend":"hsm"},"done":1,"failed":1,"total":3,` +
		`"failures":[{"resource":"key:x/2","error":{"error_code":"ERR_NOT_EXPORTABLE","message":"no"}}],` +
		`"error":{"error_code":"ERR_BACKEND_UNAVAILABLE","message":"not now"},"attempts":2,"retry_at":"2026-01-02T03:05:05Z",` +
		`"node":"00000000-0000-7000-8000-000000000001","created_by":"api-key:1","created_at":"2026-01-02T03:04:05Z",` +
		`"started_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z"}`
	data := func(path, method, body string) string {
		t.Helper()
		w := r.do(method, path, body)
		if w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		text, _, _ := strings.Cut(strings.TrimPrefix(w.Body.String(), `{"data":`), `,"request_id"`)
		return text
	}
	for _, path := range []string{"GET /api/v1/jobs/" + keyID.String(), "POST /api/v1/jobs/" + keyID.String() + "/cancel"} {
		method, path, _ := strings.Cut(path, " ")
		if diff := cmp.Diff(want, data(path, method, "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
		if r.jobs.id != keyID || r.jobs.caller.Principal.Tenant != tenant || r.jobs.caller.RequestID == "" {
			t.Errorf("asked for %v by %+v", r.jobs.id, r.jobs.caller)
		}
	}
	if got := data("/api/v1/jobs?kind=move&state=done&limit=7&cursor=c", "GET", ""); got != `{"items":[`+want+`],"next_cursor":"next"}` {
		t.Errorf("list: %s", got)
	}
	if diff := cmp.Diff(jobs.ListRequest{Filter: jobs.Filter{Kind: "move", State: jobs.Done}, Cursor: "c", Limit: 7}, r.jobs.list); diff != "" {
		t.Error(diff)
	}
	r.jobs.job = jobs.Job{ID: keyID, Kind: "reseal", State: jobs.Done, CreatedBy: "system", CreatedAt: moment, UpdatedAt: moment, EndedAt: moment, RetryAt: moment}
	if diff := cmp.Diff(`{"id":"0195f3a2-7b1c-7def-8123-456789abcdef","kind":"reseal","state":"done","deployment":true,"done":0,"failed":0,"created_by":"system",`+
		`"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z","ended_at":"2026-01-02T03:04:05Z"}`, data("/api/v1/jobs/"+keyID.String(), "GET", "")); diff != "" {
		t.Error(diff)
	}
	refused(t, r.do("GET", "/api/v1/jobs/nothing", ""), 404, fault.JobNotFound)
	refused(t, r.do("POST", "/api/v1/jobs/{"+keyID.String()+"}/cancel", ""), 404, fault.JobNotFound)
	r.jobs.fail = fault.New(fault.JobEnded, "ended")
	refused(t, r.do("POST", "/api/v1/jobs/"+keyID.String()+"/cancel", ""), 409, fault.JobEnded)
}

// movingKeys keeps what Move was asked.
type movingKeys struct {
	*fakeKeys
	asked  keys.MoveRequest
	caller keys.Caller
}

func (f *movingKeys) Move(_ context.Context, c keys.Caller, r keys.MoveRequest) (*jobs.Job, error) {
	f.asked, f.caller = r, c
	return &jobs.Job{ID: keyID, Tenant: tenant, Kind: keys.KindMove, State: jobs.Queued, CreatedAt: moment, UpdatedAt: moment}, f.fail
}

func TestMove(t *testing.T) {
	r := newRig(t, Limits{})
	moving := &movingKeys{fakeKeys: r.keys}
	r.Server.keys = moving
	w := r.do("POST", "/api/v1/keys/team%2Fone/move", `{"backend":"hsm","custody":"sealed","mode":"new-version","allow_weaker":true}`, "Idempotency-Key", "once")
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"kind":"move","state":"queued"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want := keys.MoveRequest{Key: "team/one", Backend: "hsm", Custody: backend.CustodySealed, Mode: keys.MoveNewVersion, AllowWeaker: true}
	if diff := cmp.Diff(want, moving.asked); diff != "" || moving.caller.Idempotency.Key != "once" {
		t.Error(diff, moving.caller.Idempotency.Key)
	}
	w = r.do("POST", "/api/v1/keys/move", `{"backend":"hsm","name_prefix":"a","algorithm":"AES-256-GCM","state":"active","label":"x=1"}`)
	want = keys.MoveRequest{Filter: keys.Filter{NamePrefix: "a", Algorithm: backend.AES256GCM, State: keys.StateActive, Label: "x=1"}, Backend: "hsm"}
	if diff := cmp.Diff(want, moving.asked); diff != "" || w.Code != 201 {
		t.Error(diff, w.Code)
	}
	refused(t, r.do("POST", "/api/v1/keys/k/move", `{}`), 400, fault.MissingField)
	r.keys.fail = fault.New(fault.NotExportable, "no")
	refused(t, r.do("POST", "/api/v1/keys/k/move", `{"backend":"x"}`), 403, fault.NotExportable)
}
