package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

func newJob(tenant uuid.UUID, kind jobs.Kind) *jobs.Job {
	at := now()
	return &jobs.Job{
		ID: uuid.Must(uuid.NewV7()), Tenant: tenant, Kind: kind, State: jobs.Queued, Params: []byte(`{"a":1}`), RetryAt: at,
		CreatedBy: "api-key:x", CreatedAt: at, UpdatedAt: at, Revision: 1,
	}
}

func (e *env) insertJob(t *testing.T, tenant uuid.UUID, set func(*jobs.Job)) *jobs.Job {
	t.Helper()
	j := newJob(tenant, "test")
	if set != nil {
		set(j)
	}
	e.must(t, e.InsertJob(j))
	return j
}

func (e *env) job(t *testing.T, id uuid.UUID) *jobs.Job {
	t.Helper()
	j, err := e.Job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// testJobs follows one job from its creation to its end.
func testJobs(t *testing.T, e *env) {
	tenant, node, other := uuid.New(), uuid.New(), uuid.New()
	_, err := e.Job(t.Context(), uuid.New())
	wantFault(t, "a job that is not", err, fault.JobNotFound)
	j := e.insertJob(t, tenant, nil)
	wantSame(t, "inserted", e.job(t, j.ID), j)
	wantFault(t, "the same id again", e.do(t, e.InsertJob(j)), fault.Conflict)

	_, err = e.ClaimJob(t.Context(), uuid.New(), node, now())
	wantFault(t, "claiming what is not", err, fault.JobNotFound)
	before := e.size(t)
	begun := now()
	claimed, err := e.ClaimJob(t.Context(), j.ID, node, begun)
	if err != nil {
		t.Fatal(err)
	}
	j.State, j.Node, j.StartedAt, j.UpdatedAt, j.Revision = jobs.Running, node, begun, begun, claimed.Revision
	wantSame(t, "claimed", claimed, j)
	if claimed.Revision < 2 {
		t.Errorf("revision %d after a claim", claimed.Revision)
	}

	p := &jobs.Progress{
		ID: j.ID, Node: node, State: jobs.Running, Cursor: []byte("here"), Counts: jobs.Counts{Done: 3, Failed: 1, Total: 9},
		Notices: []jobs.Notice{{Resource: "key:x/1", Code: fault.NotExportable, Message: "no"}}, RetryAt: begun, At: now(),
	}
	state, err := e.SaveProgress(t.Context(), p)
	if err != nil || state != jobs.Running {
		t.Fatalf("progress: %q, %v", state, err)
	}
	j.Cursor, j.Counts, j.Notices, j.RetryAt, j.UpdatedAt = p.Cursor, p.Counts, p.Notices, p.RetryAt, p.At
	e.reopen(t)
	wantSame(t, "progressed", e.job(t, j.ID), j)
	foreign := *p
	foreign.Node = other
	_, err = e.SaveProgress(t.Context(), &foreign)
	wantFault(t, "progress of another node", err, fault.Conflict)

	// Another takes over; the first has nothing to say any more, neither of progress nor of the end.
	taken, err := e.ClaimJob(t.Context(), j.ID, other, now())
	if err != nil || !taken.StartedAt.Equal(begun) || string(taken.Cursor) != "here" || taken.Counts != p.Counts {
		t.Fatalf("taken over: %+v, %v", taken, err)
	}
	_, err = e.SaveProgress(t.Context(), p)
	wantFault(t, "progress of the first", err, fault.Conflict)
	late := *claimed
	late.State, late.EndedAt = jobs.Done, now()
	wantFault(t, "the end by the first", e.do(t, e.EndJob(&late)), fault.Conflict)

	// Given back for another attempt, with what went wrong.
	again := jobs.Progress{ID: j.ID, Node: other, State: jobs.Queued, Cursor: []byte("there"), Counts: p.Counts, Error: fault.BackendUnavailable,
		Message: "not now", Attempts: 2, RetryAt: now().Add(time.Minute), At: now()}
	if state, err := e.SaveProgress(t.Context(), &again); err != nil || state != jobs.Queued {
		t.Fatalf("given back: %q, %v", state, err)
	}
	if open, err := e.OpenJobs(t.Context(), now(), 4, 10); err != nil || len(open) != 0 {
		t.Errorf("due before its time: %v, %v", open, err)
	}
	open, err := e.OpenJobs(t.Context(), again.RetryAt, 4, 10)
	if err != nil || len(open) != 1 || open[0].Error != again.Error || open[0].Message != again.Message || open[0].Attempts != 2 || open[0].Cursor != nil {
		t.Errorf("due: %+v, %v", open, err)
	}
	wantSame(t, "entries of bookkeeping", e.size(t), before)

	taken, err = e.ClaimJob(t.Context(), j.ID, other, now())
	if err != nil || string(taken.Cursor) != "there" || taken.Attempts != 2 {
		t.Fatalf("claimed again: %+v, %v", taken, err)
	}
	end := *taken
	end.State, end.Counts, end.Error, end.Message, end.EndedAt = jobs.Failed, jobs.Counts{Done: 5, Failed: 4, Total: 9}, fault.Unsupported, "cannot", now()
	end.Notices = []jobs.Notice{{Resource: "key:x/2", Code: fault.BadState}}
	e.must(t, e.EndJob(&end))
	got := e.job(t, j.ID)
	if got.Cursor != nil || got.Revision <= taken.Revision || got.UpdatedAt != end.EndedAt {
		t.Errorf("ended: %+v", got)
	}
	end.Cursor, end.Revision, end.UpdatedAt = nil, got.Revision, end.EndedAt
	wantSame(t, "ended", got, &end)
	wantFault(t, "a second end", e.do(t, e.EndJob(got)), fault.Conflict)
	wantFault(t, "cancelling what has ended", e.do(t, e.CancelJob(j.ID, now())), fault.JobEnded)
	_, err = e.ClaimJob(t.Context(), j.ID, node, now())
	wantFault(t, "claiming what has ended", err, fault.JobEnded)
}

// testJobsCancel: a cancelled job stays so, and takes the last counts of who ran it.
func testJobsCancel(t *testing.T, e *env) {
	node := uuid.New()
	wantFault(t, "cancelling what is not", e.do(t, e.CancelJob(uuid.New(), now())), fault.JobNotFound)
	j := e.insertJob(t, uuid.New(), nil)
	claimed, err := e.ClaimJob(t.Context(), j.ID, node, now())
	if err != nil {
		t.Fatal(err)
	}
	at := now()
	e.must(t, e.CancelJob(j.ID, at))
	state, err := e.SaveProgress(t.Context(), &jobs.Progress{ID: j.ID, Node: node, State: jobs.Running, Cursor: []byte("x"),
		Counts: jobs.Counts{Done: 7}, Error: fault.Timeout, Message: "late", At: now()})
	if err != nil || state != jobs.Cancelled {
		t.Errorf("progress after the cancellation: %q, %v", state, err)
	}
	got := e.job(t, j.ID)
	if got.State != jobs.Cancelled || got.EndedAt != at || got.Counts.Done != 7 || got.Error != "" || got.Message != "" || got.Cursor != nil || got.Node != node {
		t.Errorf("cancelled: %+v", got)
	}
	claimed.State, claimed.EndedAt = jobs.Done, now()
	wantFault(t, "the end of a cancelled one", e.do(t, e.EndJob(claimed)), fault.Conflict)
	if open, err := e.OpenJobs(t.Context(), now().Add(time.Hour), 4, 10); err != nil || len(open) != 0 {
		t.Errorf("open: %v, %v", open, err)
	}
	told, _ := e.news(t, 0, 1000) // of the two changes, and of nothing between them
	if len(told) != 2 || told[0].Kind != cluster.KindJob || told[1].Kind != cluster.KindJob || told[0].ID != j.ID || told[1].ID != j.ID {
		t.Errorf("news: %+v", told)
	}
}

// testJobsLists: newest first, page by page, of one tenant, by kind and state; what is open in turn of the tenants.
func testJobsLists(t *testing.T, e *env) {
	a, b := uuid.New(), uuid.New()
	var made []uuid.UUID
	for i := range 9 {
		j := e.insertJob(t, a, func(j *jobs.Job) {
			j.Kind = jobs.Kind([]string{"move", "reseal", "rotation"}[i%3])
			if i%3 == 2 {
				j.State, j.StartedAt, j.EndedAt, j.Params = jobs.Done, j.CreatedAt, j.CreatedAt, nil
			}
		})
		made = append(made, j.ID)
	}
	other := e.insertJob(t, b, nil)
	deployment := e.insertJob(t, uuid.Nil, nil)
	ids := func(found []*jobs.Job, err error) (ids []uuid.UUID) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range found {
			ids = append(ids, j.ID)
		}
		return ids
	}
	newest := slices.Clone(made)
	slices.Reverse(newest)
	ctx := t.Context()
	wantSame(t, "all", ids(e.Jobs(ctx, a, jobs.Filter{}, uuid.Nil, 100)), newest)
	wantSame(t, "a page", ids(e.Jobs(ctx, a, jobs.Filter{}, uuid.Nil, 4)), newest[:4])
	wantSame(t, "the next", ids(e.Jobs(ctx, a, jobs.Filter{}, newest[3], 100)), newest[4:])
	wantSame(t, "by kind", ids(e.Jobs(ctx, a, jobs.Filter{Kind: "move"}, uuid.Nil, 100)), []uuid.UUID{made[6], made[3], made[0]})
	wantSame(t, "by state", ids(e.Jobs(ctx, a, jobs.Filter{State: jobs.Done}, uuid.Nil, 2)), []uuid.UUID{made[8], made[5]})
	wantSame(t, "by both", ids(e.Jobs(ctx, a, jobs.Filter{State: jobs.Done, Kind: "move"}, uuid.Nil, 2)), []uuid.UUID(nil))
	wantSame(t, "none", ids(e.Jobs(ctx, a, jobs.Filter{}, uuid.Nil, 0)), []uuid.UUID(nil))
	wantSame(t, "of the other", ids(e.Jobs(ctx, b, jobs.Filter{}, uuid.Nil, 100)), []uuid.UUID{other.ID})
	wantSame(t, "of the deployment", ids(e.Jobs(ctx, uuid.Nil, jobs.Filter{}, uuid.Nil, 100)), []uuid.UUID{deployment.ID})

	at := now().Add(time.Second)
	wantSame(t, "open", ids(e.OpenJobs(ctx, at, 2, 100)), []uuid.UUID{made[0], other.ID, deployment.ID, made[1]})
	wantSame(t, "open, bounded", ids(e.OpenJobs(ctx, at, 2, 2)), []uuid.UUID{made[0], other.ID})
	wantSame(t, "none open", ids(e.OpenJobs(ctx, at, 2, 0)), []uuid.UUID(nil))

	if n, err := e.PruneJobs(ctx, now().Add(time.Hour), 2); err != nil || n != 2 {
		t.Errorf("pruned %d, %v", n, err)
	}
	if n, err := e.PruneJobs(ctx, now().Add(time.Hour), 2); err != nil || n != 1 {
		t.Errorf("pruned %d, %v", n, err)
	}
	wantSame(t, "what has not ended", len(ids(e.Jobs(ctx, a, jobs.Filter{}, uuid.Nil, 100))), 6)
}

// testJobsBound: a tenant cannot pile up jobs without end, and what has ended does not count.
func testJobsBound(t *testing.T, e *env) {
	tenant := uuid.New()
	batch := make([]*audit.Item, 0, jobs.MaxOpen+2)
	last := newJob(tenant, "test")
	for range jobs.MaxOpen - 1 {
		batch = append(batch, Item(e.InsertJob(newJob(tenant, "test"))))
	}
	ended := newJob(tenant, "test")
	ended.State, ended.EndedAt = jobs.Done, now()
	batch = append(batch, Item(e.InsertJob(last)), Item(e.InsertJob(newJob(tenant, "test"))), Item(e.InsertJob(ended)))
	for len(batch) > 0 {
		n := min(len(batch), 501)
		if err := e.Commit(t.Context(), batch[:n], Extend); err != nil {
			t.Fatal(err)
		}
		if n == len(batch) {
			for i, code := range []fault.Code{"", fault.Overloaded, ""} {
				wantFault(t, fmt.Sprintf("the last but %d", 2-i), batch[n-3+i].Err, code)
			}
		}
		batch = batch[n:]
	}
	e.must(t, e.InsertJob(newJob(uuid.New(), "test")))
	e.must(t, e.CancelJob(last.ID, now()), e.InsertJob(newJob(tenant, "test")))
}

// testSharedJobs: two nodes that end one job at once: one of them does, and neither after a cancellation by the other.
func testSharedJobs(t *testing.T, nodes [2]*env, _ func(t *testing.T) Store) {
	for round := range 12 {
		j := nodes[round%2].insertJob(t, uuid.New(), nil)
		claimed, err := nodes[0].ClaimJob(t.Context(), j.ID, uuid.New(), now())
		if err != nil {
			t.Fatal(err)
		}
		var ended [2]error
		var group sync.WaitGroup
		for i, e := range nodes {
			group.Go(func() {
				end := *claimed
				end.State, end.EndedAt = jobs.Done, now()
				change := e.EndJob(&end)
				if round%2 == 1 && i == 1 {
					change = e.CancelJob(j.ID, now())
				}
				item := Item(change)
				if err := e.Commit(context.WithoutCancel(t.Context()), []*audit.Item{item}, Extend); err != nil {
					t.Error(err)
				}
				ended[i] = item.Err
			})
		}
		group.Wait()
		if (ended[0] == nil) == (ended[1] == nil) {
			t.Errorf("round %d: %v and %v", round, ended[0], ended[1])
		}
		want := jobs.Done
		if round%2 == 1 && ended[1] == nil {
			want = jobs.Cancelled
		}
		for _, e := range nodes {
			wantSame(t, "state", e.job(t, j.ID).State, want)
		}
	}
}
