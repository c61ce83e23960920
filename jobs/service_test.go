package jobs_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/jobs"
)

// TestWhoSees: a tenant's jobs are for the tenant, by scope; the deployment's for those who hold settings:write; others' are not there.
func TestWhoSees(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	mine := create(t, s, "k", nil)
	made := map[string]uuid.UUID{"mine": mine.ID}
	for name, of := range map[string]uuid.UUID{"deployment": uuid.Nil, "foreign": uuid.New()} {
		j, err := s.Create(t.Context(), jobs.Request{Tenant: of, Kind: "k"})
		if err != nil {
			t.Fatal(err)
		}
		if j.CreatedBy != jobs.System {
			t.Errorf("created by %q", j.CreatedBy)
		}
		made[name] = j.ID
	}
	for _, c := range []struct {
		scopes []auth.Scope
		get    map[string]fault.Code
		cancel map[string]fault.Code
	}{
		{nil, map[string]fault.Code{"mine": fault.InsufficientScope, "deployment": fault.InsufficientScope, "foreign": fault.InsufficientScope},
			map[string]fault.Code{"mine": fault.InsufficientScope, "deployment": fault.JobNotFound, "foreign": fault.JobNotFound}},
		{[]auth.Scope{auth.ScopeSettingsWrite, auth.ScopeAuditRead}, map[string]fault.Code{"mine": fault.InsufficientScope, "deployment": fault.InsufficientScope, "foreign": fault.InsufficientScope},
			map[string]fault.Code{"mine": fault.InsufficientScope, "deployment": fault.JobNotFound, "foreign": fault.JobNotFound}},
		{[]auth.Scope{auth.ScopeKeysRead}, map[string]fault.Code{"mine": "", "deployment": fault.JobNotFound, "foreign": fault.JobNotFound},
			map[string]fault.Code{"mine": fault.InsufficientScope, "deployment": fault.JobNotFound, "foreign": fault.JobNotFound}},
		{[]auth.Scope{auth.ScopeNodesRead}, map[string]fault.Code{"mine": fault.JobNotFound, "deployment": "", "foreign": fault.JobNotFound},
			map[string]fault.Code{"mine": fault.InsufficientScope, "foreign": fault.JobNotFound}},
	} {
		who := caller(c.scopes...)
		var want []uuid.UUID
		for name, code := range c.get {
			j, err := s.Get(t.Context(), who, made[name])
			wantFault(t, fmt.Sprint(c.scopes, " gets ", name), err, code)
			if err == nil {
				want = append(want, j.ID)
			}
		}
		page, _, err := s.List(t.Context(), who, jobs.ListRequest{})
		if len(want) == 0 {
			wantFault(t, "listing", err, fault.InsufficientScope)
		} else if err != nil || len(page) != len(want) || page[0].ID != want[0] {
			t.Errorf("%v lists %v, %v, want %v", c.scopes, page, err, want)
		}
		for name, code := range c.cancel {
			_, err := s.Cancel(t.Context(), who, made[name])
			wantFault(t, fmt.Sprint(c.scopes, " cancels ", name), err, code)
		}
	}
	for name, c := range map[string]jobs.Caller{"mine": caller(auth.ScopeKeysWrite), "deployment": caller(auth.ScopeBackendsWrite)} {
		if j, err := s.Cancel(t.Context(), c, made[name]); err != nil || j.State != jobs.Cancelled {
			t.Errorf("cancelling %s: %+v, %v", name, j, err)
		}
	}
	_, err := s.Get(t.Context(), jobs.Caller{}, mine.ID)
	wantFault(t, "nobody", err, fault.Unauthenticated)
	if told := e.actions(t, mine); !slices.Contains(told, "job.cancel ERR_INSUFFICIENT_SCOPE api-key:test") || told[len(told)-1] != "job.cancel ok api-key:test" {
		t.Errorf("the log: %q", told)
	}
}

// TestLimited: a credential that is limited to keys sees of its tenant's jobs those that it has made.
func TestLimited(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	var mine []uuid.UUID
	for i := range 9 {
		by := "api-key:other"
		if i%3 == 0 {
			by = "api-key:test"
		}
		j, err := s.Create(t.Context(), jobs.Request{Tenant: tenant, Kind: "k", CreatedBy: by})
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			mine = append(mine, j.ID)
		}
	}
	who := caller(auth.ScopeKeysRead, auth.ScopeKeysWrite)
	who.Principal.Restrictions = &auth.Restrictions{Labels: map[string]string{"team": "a"}}
	var got []uuid.UUID
	for cursor := ""; ; {
		page, next, err := s.List(t.Context(), who, jobs.ListRequest{Limit: 2, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page {
			got = append(got, j.ID)
		}
		if cursor = next; next == "" {
			break
		}
		// Where a page ends says nothing of the jobs of others.
		if at, err := base64.RawURLEncoding.DecodeString(next); err != nil || len(page) != 2 || uuid.UUID(at) != page[1].ID {
			t.Errorf("a page of %d ends at %x, %v", len(page), at, err)
		}
	}
	slices.Reverse(mine)
	if diff := cmp.Diff(mine, got); diff != "" {
		t.Error(diff)
	}
	all, _, err := s.List(t.Context(), caller(auth.ScopeKeysRead), jobs.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range all {
		code := fault.JobNotFound
		if j.CreatedBy == who.Principal.ID {
			code = ""
		}
		_, err := s.Get(t.Context(), who, j.ID)
		wantFault(t, "showing one of "+j.CreatedBy, err, code)
		_, err = s.Cancel(t.Context(), who, j.ID)
		wantFault(t, "cancelling one of "+j.CreatedBy, err, code)
	}
}

// TestList: page by page, of the tenant and the deployment in one order.
func TestList(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	var want []uuid.UUID
	for i := range 11 {
		of := tenant
		if i%3 == 0 {
			of = uuid.Nil
		}
		j, err := s.Create(t.Context(), jobs.Request{Tenant: of, Kind: jobs.Kind([]string{"a", "b"}[i%2])})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, j.ID)
	}
	slices.Reverse(want)
	who := caller(auth.ScopeKeysRead, auth.ScopeNodesRead)
	var got []uuid.UUID
	for cursor := ""; ; {
		page, next, err := s.List(t.Context(), who, jobs.ListRequest{Limit: 3, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page {
			got = append(got, j.ID)
		}
		if cursor = next; next == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if page, _, err := s.List(t.Context(), who, jobs.ListRequest{Filter: jobs.Filter{Kind: "b", State: jobs.Queued}}); err != nil || len(page) != 5 {
		t.Errorf("%d of a kind, %v", len(page), err)
	}
	for what, r := range map[string]jobs.ListRequest{"limit": {Limit: 1001}, "negative": {Limit: -1}, "state": {Filter: jobs.Filter{State: "x"}}} {
		_, _, err := s.List(t.Context(), who, r)
		wantFault(t, what, err, fault.BadQuery)
	}
	for _, cursor := range []string{"x", "AAAAAAAAAAAAAAAAAAAAAA", strings.Repeat("A", 23), "AZAAAAAAAAAAAAAAAAAAAB="} {
		_, _, err := s.List(t.Context(), who, jobs.ListRequest{Cursor: cursor})
		wantFault(t, "cursor "+cursor, err, fault.BadCursor)
	}
}

// TestIdempotency: the same token gives the same job, and another request under it none.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	r := jobs.Request{Tenant: tenant, Kind: "k", Idempotency: idempotency.Token{Key: "once", Request: [32]byte{1}}}
	first, err := s.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Create(t.Context(), r); err != nil || again.ID != first.ID {
		t.Errorf("%+v, %v", again, err)
	}
	r.Idempotency.Request[0]++
	_, err = s.Create(t.Context(), r)
	wantFault(t, "another request", err, fault.IdempotencyConflict)
	_, err = s.Create(t.Context(), jobs.Request{Tenant: tenant, Kind: "k", Params: strings.Repeat("x", jobs.MaxParams)})
	wantFault(t, "long parameters", err, fault.BadSize)
}

// TestReport: what a schedule did is a job that is over, and no runner takes it.
func TestReport(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.service(t)
	began := time.Now().Add(-time.Second)
	notices := make([]jobs.Notice, jobs.MaxNotices+5)
	for i := range notices {
		notices[i] = jobs.NewNotice(fmt.Sprint("key:", i), fault.New(fault.BackendUnavailable, "not here"))
	}
	j, err := s.Report(t.Context(), jobs.Summary{Tenant: tenant, Kind: jobs.KindRotation, Counts: jobs.Counts{Done: 3, Failed: 105}, Notices: notices, StartedAt: began})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), caller(auth.ScopeKeysRead), j.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j, got); diff != "" {
		t.Error(diff)
	}
	if got.State != jobs.Done || len(got.Notices) != jobs.MaxNotices || got.Counts.Failed != 105 || got.EndedAt.Sub(got.StartedAt) < time.Second || got.CreatedBy != jobs.System {
		t.Errorf("%+v", got)
	}
	if nothing, err := s.Report(t.Context(), jobs.Summary{Tenant: tenant, Kind: jobs.KindDeletion}); err != nil || nothing != nil {
		t.Errorf("of nothing: %+v, %v", nothing, err)
	}
	all, err := s.Report(t.Context(), jobs.Summary{Kind: jobs.KindDeletion, Counts: jobs.Counts{Failed: 1}, Notices: notices[:1], StartedAt: began})
	if err != nil || all.State != jobs.Failed || all.Error != fault.BackendUnavailable || all.Message != "not here" {
		t.Errorf("%+v, %v", all, err)
	}
	if again, err := s.Report(t.Context(), jobs.Summary{Kind: jobs.KindDeletion, Counts: jobs.Counts{Failed: 1}, Notices: notices[:1], StartedAt: began}); err != nil || again != nil {
		t.Errorf("the same failure a moment later: %+v, %v", again, err)
	}
	if other, err := s.Report(t.Context(), jobs.Summary{Kind: jobs.KindDeletion, Counts: jobs.Counts{Done: 1}, StartedAt: began}); err != nil || other.State != jobs.Done {
		t.Errorf("one that succeeds: %+v, %v", other, err)
	}
	if again, err := s.Report(t.Context(), jobs.Summary{Kind: jobs.KindDeletion, Counts: jobs.Counts{Failed: 1}, StartedAt: began}); err != nil || again == nil {
		t.Errorf("a failure after a success: %+v, %v", again, err)
	}
	if open, err := e.store.OpenJobs(t.Context(), time.Now().Add(time.Hour), 10, 10); err != nil || len(open) != 0 {
		t.Errorf("open: %v, %v", open, err)
	}
	if told := e.actions(t, j); !slices.Equal(told, []string{"job.report ok system"}) {
		t.Errorf("the log: %q", told)
	}
}
