package postgres

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

var _ jobs.Store = (*Store)(nil)

// Job finds a job; see jobs.Store.
func (s *Store) Job(ctx context.Context, id uuid.UUID) (j *jobs.Job, err error) {
	err = s.reading(ctx, "reading a job", func(c conn) (err error) {
		j, err = scanJob(c.QueryRow(ctx, sqlJob, id[:]))
		if none(err) {
			return fault.New(fault.JobNotFound, "no such job")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// Jobs lists jobs of a tenant; see jobs.Store.
func (s *Store) Jobs(ctx context.Context, tenant uuid.UUID, f jobs.Filter, before uuid.UUID, limit int) ([]*jobs.Job, error) {
	if limit <= 0 || !storable(string(f.Kind)) || !storable(string(f.State)) {
		return nil, s.usable(ctx)
	}
	if before == uuid.Nil {
		before = uuid.Max
	}
	return list(ctx, s, "listing jobs", scanJobs, sqlJobs, tenant[:], before[:], string(f.Kind), string(f.State), limit)
}

// OpenJobs lists what is to be run; see jobs.Store.
func (s *Store) OpenJobs(ctx context.Context, now time.Time, each, limit int) ([]*jobs.Job, error) {
	if limit <= 0 {
		return nil, s.usable(ctx)
	}
	return list(ctx, s, "listing jobs", scanJobs, sqlOpenJobs, now.UnixMicro(), each, limit)
}

func scanJobs(row pgx.CollectableRow) (*jobs.Job, error) { return scanJob(row) }

func scanJob(row pgx.Row) (*jobs.Job, error) {
	var j jobs.Job
	var params, notices, node []byte
	err := row.Scan((*idColumn)(&j.ID), (*idColumn)(&j.Tenant), &j.Kind, &j.State, &params, &j.Cursor, &j.Counts.Done, &j.Counts.Failed,
		&j.Counts.Total, &notices, &j.Error, &j.Message, &j.Attempts, (*timeColumn)(&j.RetryAt), &j.CreatedBy, (*timeColumn)(&j.CreatedAt),
		(*timeColumn)(&j.StartedAt), (*timeColumn)(&j.UpdatedAt), (*timeColumn)(&j.EndedAt), &node, &j.Revision)
	if err != nil {
		return nil, err
	}
	if len(node) == len(j.Node) {
		copy(j.Node[:], node)
	} else if node != nil {
		return nil, corrupted("an id in the store is damaged", nil)
	}
	if len(params) > 0 {
		j.Params = params
	}
	if len(notices) > 0 {
		if err := json.Unmarshal(notices, &j.Notices); err != nil {
			return nil, corrupted("the record of a job is damaged", err)
		}
	}
	return &j, nil
}

// encodeNotices gives what the column holds: nothing when there are none.
func encodeNotices(n []jobs.Notice) (string, error) {
	if len(n) == 0 {
		return "", nil
	}
	return encode(n)
}

// ClaimJob makes node the one that runs the job; see jobs.Store. Of two attempts, because the first one's answer was lost, the second
// claims once more.
func (s *Store) ClaimJob(ctx context.Context, id, node uuid.UUID, at time.Time) (j *jobs.Job, err error) {
	err = s.ask(ctx, "claiming a job", func(c *pgx.Conn) (err error) {
		j, err = scanJob(c.QueryRow(ctx, sqlClaimJob, node[:], at.UnixMicro(), id[:]))
		if none(err) {
			return missingJob(id)(ctx, c)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// missingJob says why a job that has not ended was not found.
func missingJob(id uuid.UUID) func(context.Context, *pgx.Conn) error {
	return unless(sqlJobExists, id[:], fault.New(fault.JobNotFound, "no such job"), fault.New(fault.JobEnded, "the job has ended already"))
}

// SaveProgress writes how far a job is; see jobs.Store.
func (s *Store) SaveProgress(ctx context.Context, p *jobs.Progress) (state jobs.State, err error) {
	notices, err := encodeNotices(p.Notices)
	if err != nil {
		return "", err
	}
	err = s.ask(ctx, "writing the progress of a job", func(c *pgx.Conn) error {
		err := c.QueryRow(ctx, sqlSaveProgress, string(p.State), p.Cursor, p.Counts.Done, p.Counts.Failed, p.Counts.Total, text(notices),
			string(p.Error), text(p.Message), p.Attempts, p.RetryAt.UnixMicro(), p.At.UnixMicro(), p.ID[:], p.Node[:]).Scan(&state)
		if none(err) {
			return fault.New(fault.Conflict, "another node has the job")
		}
		return err
	})
	return state, err
}

// PruneJobs forgets jobs that ended long ago; see jobs.Store.
func (s *Store) PruneJobs(ctx context.Context, before time.Time, limit int) (pruned int, err error) {
	err = s.ask(ctx, "pruning jobs", func(c *pgx.Conn) error {
		tag, err := c.Exec(ctx, sqlPruneJobs, before.UnixMicro(), limit)
		pruned = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	return pruned, nil
}

// ask carries out one statement that writes and answers, and that may as well be carried out twice.
func (s *Store) ask(ctx context.Context, action string, f func(*pgx.Conn) error) error {
	return s.hold(ctx, func() error {
		for attempt := 1; ; attempt++ {
			w, err := s.writer(ctx)
			if err != nil {
				return translate(ctx, action, err)
			}
			err = f(w.conn)
			if err == nil || attempt == 3 || ctx.Err() != nil || !passing(err) {
				return translate(ctx, action, err)
			}
			s.drop()
		}
	})
}

// insertJob is a Change.
type insertJob struct {
	prepared
	j jobs.Job
}

// InsertJob adds a job; see jobs.Store.
func (s *Store) InsertJob(j *jobs.Job) audit.Change {
	c := &insertJob{prepared: tells(cluster.KindJob, j.ID), j: *j}
	c.j.Notices = slices.Clone(j.Notices)
	return c
}

func (c *insertJob) statements() ([]statement, error) {
	j := &c.j
	notices, err := encodeNotices(j.Notices)
	if err != nil {
		return nil, err
	}
	return []statement{{
		query: sqlInsertJob,
		args: []any{j.ID[:], j.Tenant[:], string(j.Kind), string(j.State), text(string(j.Params)), j.Cursor, j.Counts.Done, j.Counts.Failed,
			j.Counts.Total, text(notices), string(j.Error), text(j.Message), j.Attempts, j.RetryAt.UnixMicro(), text(j.CreatedBy),
			j.CreatedAt.UnixMicro(), micros(j.StartedAt), j.UpdatedAt.UnixMicro(), micros(j.EndedAt), idOrNull(&j.Node), j.Revision,
			j.State.Ended(), jobs.MaxOpen},
		refused: conflictIfTaken("a job with this id exists already"),
		nothing: func(context.Context, *pgx.Conn) error {
			return fault.New(fault.Overloaded, "the tenant has too many jobs that have not ended").RetryAfter(time.Minute)
		},
	}}, nil
}

// cancelJob is a Change.
type cancelJob struct {
	prepared
	id uuid.UUID
	at time.Time
}

// CancelJob ends a job as cancelled; see jobs.Store. fault.JobNotFound when there is no such job.
func (s *Store) CancelJob(id uuid.UUID, at time.Time) audit.Change {
	return &cancelJob{prepared: tells(cluster.KindJob, id), id: id, at: at}
}

func (c *cancelJob) statements() ([]statement, error) {
	return []statement{{query: sqlCancelJob, args: []any{c.at.UnixMicro(), c.id[:]}, nothing: missingJob(c.id)}}, nil
}

// endJob is a Change.
type endJob struct {
	prepared
	j jobs.Job
}

// EndJob writes how a job ended; see jobs.Store.
func (s *Store) EndJob(j *jobs.Job) audit.Change {
	c := &endJob{prepared: tells(cluster.KindJob, j.ID), j: *j}
	c.j.Notices = slices.Clone(j.Notices)
	return c
}

func (c *endJob) statements() ([]statement, error) {
	j := &c.j
	notices, err := encodeNotices(j.Notices)
	if err != nil {
		return nil, err
	}
	return []statement{{
		query: sqlEndJob,
		args: []any{string(j.State), j.Counts.Done, j.Counts.Failed, j.Counts.Total, text(notices), string(j.Error), text(j.Message),
			j.EndedAt.UnixMicro(), j.ID[:], j.Revision},
		nothing: fails(fault.Conflict, "the job was changed by somebody else"),
	}}, nil
}

const (
	jobColumns = `id, tenant, kind, state, params, resume, done, failed, total, notices, error, message, attempts, retry_at, created_by,
		created_at, started_at, updated_at, ended_at, node, revision`
	// Lists do without the cursor.
	jobListed = `id, tenant, kind, state, params, NULL::bytea, done, failed, total, notices, error, message, attempts, retry_at, created_by,
		created_at, started_at, updated_at, ended_at, node, revision`
	sqlJob       = "SELECT " + jobColumns + " FROM jobs WHERE id = $1"
	sqlJobExists = "SELECT COUNT(*) FROM jobs WHERE id = $1"
	sqlJobs      = "SELECT " + jobListed + ` FROM jobs WHERE tenant = $1 AND id < $2 AND ($3::text = '' OR kind = $3)
		AND ($4::text = '' OR state = $4) ORDER BY id DESC LIMIT $5`
	// Of a bounded number of rows: those that have not ended.
	sqlOpenJobs = "SELECT " + jobListed + ` FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant ORDER BY id) AS turn FROM jobs
		WHERE ended_at IS NULL AND retry_at <= $1) AS open WHERE turn <= $2 ORDER BY turn, id LIMIT $3`
	sqlClaimJob = `UPDATE jobs SET state = 'running', node = $1, started_at = COALESCE(started_at, $2), updated_at = $2, revision = revision + 1
		WHERE id = $3 AND ended_at IS NULL RETURNING ` + jobColumns
	sqlSaveProgress = `UPDATE jobs SET state = CASE WHEN ended_at IS NULL THEN $1 ELSE state END,
		resume = CASE WHEN ended_at IS NULL THEN $2::bytea END, done = $3, failed = $4, total = $5, notices = $6,
		error = CASE WHEN ended_at IS NULL THEN $7 ELSE error END, message = CASE WHEN ended_at IS NULL THEN $8 ELSE message END,
		attempts = $9, retry_at = $10, updated_at = $11 WHERE id = $12 AND node = $13 RETURNING state`
	sqlPruneJobs = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)"
	sqlInsertJob = "INSERT INTO jobs (" + jobColumns + `) SELECT $1::bytea, $2::bytea, $3::text, $4::text, $5::text, $6::bytea, $7::bigint,
		$8::bigint, $9::bigint, $10::text, $11::text, $12::text, $13::bigint, $14::bigint, $15::text, $16::bigint, $17::bigint, $18::bigint,
		$19::bigint, $20::bytea, $21::bigint
		WHERE $22::boolean OR (SELECT COUNT(*) FROM jobs WHERE tenant = $2 AND ended_at IS NULL) < $23::bigint`
	sqlCancelJob = `UPDATE jobs SET state = 'cancelled', ended_at = $1, updated_at = $1, resume = NULL, revision = revision + 1
		WHERE id = $2 AND ended_at IS NULL`
	sqlEndJob = `UPDATE jobs SET state = $1, done = $2, failed = $3, total = $4, notices = $5, error = $6, message = $7, ended_at = $8,
		updated_at = $8, resume = NULL, revision = revision + 1 WHERE id = $9 AND revision = $10 AND ended_at IS NULL`
)
