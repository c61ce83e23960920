// Package jobs is work that outlives the request that asked for it: moving keys, sealing everything anew, what a schedule did. A
// job is a record in the store; any node may run it, one at a time does, and another goes on with it when that one is gone.
//
// It trusts the store and the audit log. What a job may do is decided by who makes it, when it is made: a running job acts for its
// creator and asks nobody again. Params, failures and messages are shown to whoever may see the job: they hold no secrets.
package jobs

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

// State of a job.
type State string

const (
	Queued    State = "queued"  // waits for a node, or for the time of its next attempt
	Running   State = "running" // some node has it, or had it and is gone
	Done      State = "done"    // all that was to do was tried; Failed says how much of it did not succeed
	Failed    State = "failed"  // given up; Error says why
	Cancelled State = "cancelled"
)

// States lists all states in the order of the documentation.
func States() []State { return []State{Queued, Running, Done, Failed, Cancelled} }

// Ended reports whether the state is final.
func (s State) Ended() bool { return s == Done || s == Failed || s == Cancelled }

// Kind names what a job does: lower-case words joined by hyphens.
type Kind string

// Kinds of what the schedule did by itself; such a job is written when it is over. Kinds that run are named by those who register them.
const (
	KindRotation   Kind = "rotation"
	KindDeletion   Kind = "deletion"
	KindActivation Kind = "activation"
	KindExpiry     Kind = "expiry"
	KindAbandoning Kind = "abandoning" // of versions that were never finished
)

// Job is the record of one.
type Job struct {
	ID      uuid.UUID // version 7: jobs sort by when they were made
	Tenant  uuid.UUID // zero: the deployment's
	Kind    Kind
	State   State
	Params  json.RawMessage // as validated by the kind; at most MaxParams bytes
	Cursor  []byte          // the worker's own note of where to go on; at most MaxCursor bytes, never shown
	Counts  Counts
	Notices []Notice // of what failed, the first MaxNotices of them

	// Error and Message say why the job failed or, while it waits for another attempt, why the last one did.
	Error    fault.Code
	Message  string
	Attempts int       // failed ones since the job last got on
	RetryAt  time.Time // when a queued job is due, by the clock of the node that wrote it

	CreatedBy string // principal
	CreatedAt time.Time
	StartedAt time.Time // of the first attempt; zero: none yet
	UpdatedAt time.Time // progress or state
	EndedAt   time.Time
	Node      uuid.UUID // cluster.Node.ID of the node that runs it, or ended it; zero: none
	Revision  int64     // grows with each change of state
}

// Counts is how far a job has got. Total 0: not known.
type Counts struct {
	Done, Failed, Total int64
}

// Notice is one failed item of a job.
type Notice struct {
	Resource string     `json:"resource"` // "key:<id>", "key:<id>/<version>"
	Code     fault.Code `json:"code"`
	Message  string     `json:"message"` // of the fault: no values
}

// Bounds of what a record holds.
const (
	MaxParams  = 16 << 10
	MaxCursor  = 64 << 10
	MaxNotices = 100
	MaxOpen    = 1000 // unfinished jobs of a tenant
)

// Keep is how long a job that has ended can be seen.
const Keep = 30 * 24 * time.Hour

// Filter selects jobs of a list; zero fields select all.
type Filter struct {
	Kind  Kind
	State State
}

// Progress is what a node that runs a job writes without an entry in the audit log.
type Progress struct {
	ID       uuid.UUID
	Node     uuid.UUID // the job's: progress of another is refused
	State    State     // Running, or Queued to give the job back
	Cursor   []byte
	Counts   Counts
	Notices  []Notice
	Error    fault.Code
	Message  string
	Attempts int
	RetryAt  time.Time
	At       time.Time
}

// Store keeps the jobs. Implementations: store/sqlite, store/postgres; suite: store/storetest. Reads see everything that was
// committed before they began. The methods that give a Change prepare what the audit log carries out together with its entry, and are news
// (cluster.KindJob); the others that write are bookkeeping.
type Store interface {
	// Job finds a job, or fault.JobNotFound.
	Job(ctx context.Context, id uuid.UUID) (*Job, error)
	// Jobs lists jobs of the tenant, newest first, that were made before the job named (zero: from the newest). Cursor is not read.
	Jobs(ctx context.Context, tenant uuid.UUID, f Filter, before uuid.UUID, limit int) ([]*Job, error)
	// OpenJobs lists jobs that have not ended and are running or due at now: up to limit, and up to each of a tenant, the oldest of
	// each tenant before the second oldest of any. Cursor is not read.
	OpenJobs(ctx context.Context, now time.Time, each, limit int) ([]*Job, error)
	// ClaimJob makes node the one that runs the job, unless it has ended: then fault.JobEnded. It gives the job as it is then. The
	// caller holds the lease of the job.
	ClaimJob(ctx context.Context, id, node uuid.UUID, at time.Time) (*Job, error)
	// SaveProgress writes progress, and gives the state of the job after it: one that has ended keeps its state, error and message, and
	// takes the rest. fault.Conflict when another node runs it.
	SaveProgress(ctx context.Context, p *Progress) (State, error)
	// PruneJobs forgets up to limit jobs that ended before the time.
	PruneJobs(ctx context.Context, before time.Time, limit int) (pruned int, err error)

	// InsertJob adds a job. fault.Conflict when the id exists; fault.Overloaded when the job has not ended and its tenant
	// has MaxOpen that have not.
	InsertJob(j *Job) audit.Change
	// CancelJob ends a job as cancelled. fault.JobEnded when it has ended.
	CancelJob(id uuid.UUID, at time.Time) audit.Change
	// EndJob writes state, counts, notices, error, message and EndedAt if the stored revision is j.Revision, and adds one to it; else
	// fault.Conflict. The cursor is forgotten.
	EndJob(j *Job) audit.Change
}
