package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/mattn/go-sqlite3"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
)

var _ jobs.Store = (*Store)(nil)

// Job finds a job; see jobs.Store.
func (s *Store) Job(ctx context.Context, id uuid.UUID) (*jobs.Job, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	j, err := scanJob(s.read.QueryRowContext(ctx, sqlJob, id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.JobNotFound, "no such job")
	}
	return j, translate("reading a job", err)
}

// Jobs lists jobs of a tenant; see jobs.Store.
func (s *Store) Jobs(ctx context.Context, tenant uuid.UUID, f jobs.Filter, before uuid.UUID, limit int) ([]*jobs.Job, error) {
	if before == uuid.Nil {
		before = uuid.Max
	}
	return s.jobs(ctx, limit, sqlJobs, sql.Named("tenant", tenant[:]), sql.Named("before", before[:]), sql.Named("kind", string(f.Kind)),
		sql.Named("state", string(f.State)), sql.Named("limit", limit))
}

// OpenJobs lists what is to be run; see jobs.Store.
func (s *Store) OpenJobs(ctx context.Context, now time.Time, each, limit int) ([]*jobs.Job, error) {
	return s.jobs(ctx, limit, sqlOpenJobs, now.UnixMicro(), each, limit)
}

func (s *Store) jobs(ctx context.Context, limit int, query string, args ...any) (found []*jobs.Job, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if limit <= 0 {
		return nil, nil
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, translate("listing jobs", err)
	}
	defer func() { err = translate("listing jobs", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, j)
	}
	return found, rows.Err()
}

func scanJob(row scanner) (*jobs.Job, error) {
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

// ClaimJob makes node the one that runs the job; see jobs.Store.
func (s *Store) ClaimJob(ctx context.Context, id, node uuid.UUID, at time.Time) (*jobs.Job, error) {
	err := s.write(ctx, func(w *writer) error {
		return w.transaction(ctx, func() error {
			n, err := w.exec(sqlClaimJob, node[:], at.UnixMicro(), id[:])
			if err != nil || n > 0 {
				return err
			}
			return w.missingJob(id)
		})
	})
	if err != nil {
		return nil, err
	}
	return s.Job(ctx, id)
}

// missingJob says why a job that has not ended was not found.
func (w *writer) missingJob(id uuid.UUID) error {
	there, err := w.row(sqlJobExists, make([]driver.Value, 1), id[:])
	switch {
	case err != nil:
		return err
	case there:
		return fault.New(fault.JobEnded, "the job has ended already")
	}
	return fault.New(fault.JobNotFound, "no such job")
}

// SaveProgress writes how far a job is; see jobs.Store.
func (s *Store) SaveProgress(ctx context.Context, p *jobs.Progress) (state jobs.State, err error) {
	notices, err := encodeNotices(p.Notices)
	if err != nil {
		return "", err
	}
	err = s.write(ctx, func(w *writer) error {
		return w.transaction(ctx, func() error {
			n, err := w.exec(sqlSaveProgress, string(p.State), bytesOrNull(p.Cursor), p.Counts.Done, p.Counts.Failed, p.Counts.Total, notices,
				string(p.Error), p.Message, int64(p.Attempts), p.RetryAt.UnixMicro(), p.At.UnixMicro(), p.ID[:], p.Node[:])
			if err != nil {
				return err
			}
			if n == 0 {
				return fault.New(fault.Conflict, "another node has the job")
			}
			v := make([]driver.Value, 1)
			found, err := w.row(sqlJobExists, v, p.ID[:])
			if err != nil {
				return err
			}
			text, ok := v[0].(string)
			if !found || !ok {
				return corrupted("the record of a job is damaged", nil)
			}
			state = jobs.State(text)
			return nil
		})
	})
	return state, err
}

// PruneJobs forgets jobs that ended long ago; see jobs.Store.
func (s *Store) PruneJobs(ctx context.Context, before time.Time, limit int) (pruned int, err error) {
	err = s.write(ctx, func(w *writer) error {
		return w.transaction(ctx, func() error {
			n, err := w.exec(sqlPruneJobs, before.UnixMicro(), int64(limit))
			pruned = int(n)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	return pruned, nil
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

func (c *insertJob) apply(w *writer) error {
	j := &c.j
	notices, err := encodeNotices(j.Notices)
	if err != nil {
		return err
	}
	n, err := w.exec(sqlInsertJob, j.ID[:], j.Tenant[:], string(j.Kind), string(j.State), string(j.Params), bytesOrNull(j.Cursor),
		j.Counts.Done, j.Counts.Failed, j.Counts.Total, notices, string(j.Error), j.Message, int64(j.Attempts), j.RetryAt.UnixMicro(),
		j.CreatedBy, j.CreatedAt.UnixMicro(), micros(j.StartedAt), j.UpdatedAt.UnixMicro(), micros(j.EndedAt), nodeOrNull(j.Node), j.Revision,
		flag(j.State.Ended()), j.Tenant[:], int64(jobs.MaxOpen))
	if violated(err) == sqlite3.ErrConstraintPrimaryKey {
		return fault.Wrap(fault.Conflict, "a job with this id exists already", err)
	}
	if err == nil && n == 0 {
		return fault.New(fault.Overloaded, "the tenant has too many jobs that have not ended").RetryAfter(time.Minute)
	}
	return err
}

func nodeOrNull(id uuid.UUID) any {
	if id == uuid.Nil {
		return nil
	}
	return id[:]
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

func (c *cancelJob) apply(w *writer) error {
	n, err := w.exec(sqlCancelJob, c.at.UnixMicro(), c.at.UnixMicro(), c.id[:])
	if err != nil || n > 0 {
		return err
	}
	return w.missingJob(c.id)
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

func (c *endJob) apply(w *writer) error {
	j := &c.j
	notices, err := encodeNotices(j.Notices)
	if err != nil {
		return err
	}
	n, err := w.exec(sqlEndJob, string(j.State), j.Counts.Done, j.Counts.Failed, j.Counts.Total, notices, string(j.Error), j.Message,
		j.EndedAt.UnixMicro(), j.EndedAt.UnixMicro(), j.ID[:], j.Revision)
	if err == nil && n == 0 {
		return fault.New(fault.Conflict, "the job was changed by somebody else")
	}
	return err
}

const (
	jobColumns = `id, tenant, kind, state, params, resume, done, failed, total, notices, error, message, attempts, retry_at, created_by,
		created_at, started_at, updated_at, ended_at, node, revision`
	// Lists do without the cursor.
	jobListed = `id, tenant, kind, state, params, NULL, done, failed, total, notices, error, message, attempts, retry_at, created_by,
		created_at, started_at, updated_at, ended_at, node, revision`
	sqlJob       = "SELECT " + jobColumns + " FROM jobs WHERE id = ?"
	sqlJobExists = "SELECT state FROM jobs WHERE id = ?"
	sqlJobs      = "SELECT " + jobListed + ` FROM jobs WHERE tenant = :tenant AND id < :before AND (:kind = '' OR kind = :kind)
		AND (:state = '' OR state = :state) ORDER BY id DESC LIMIT :limit`
	// Of a bounded number of rows: those that have not ended.
	sqlOpenJobs = "SELECT " + jobListed + ` FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant ORDER BY id) AS turn FROM jobs
		WHERE ended_at IS NULL AND retry_at <= ?) AS open WHERE turn <= ? ORDER BY turn, id LIMIT ?`
	sqlClaimJob = `UPDATE jobs SET state = 'running', node = ?1, started_at = COALESCE(started_at, ?2), updated_at = ?2, revision = revision + 1
		WHERE id = ?3 AND ended_at IS NULL`
	sqlSaveProgress = `UPDATE jobs SET state = CASE WHEN ended_at IS NULL THEN ?1 ELSE state END,
		resume = CASE WHEN ended_at IS NULL THEN ?2 END, done = ?3, failed = ?4, total = ?5, notices = ?6,
		error = CASE WHEN ended_at IS NULL THEN ?7 ELSE error END, message = CASE WHEN ended_at IS NULL THEN ?8 ELSE message END,
		attempts = ?9, retry_at = ?10, updated_at = ?11 WHERE id = ?12 AND node = ?13`
	sqlPruneJobs = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE ended_at < ? ORDER BY ended_at LIMIT ?)"
	sqlInsertJob = "INSERT INTO jobs (" + jobColumns + `) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
		WHERE ? = 1 OR (SELECT COUNT(*) FROM jobs WHERE tenant = ? AND ended_at IS NULL) < ?`
	sqlCancelJob = `UPDATE jobs SET state = 'cancelled', ended_at = ?, updated_at = ?, resume = NULL, revision = revision + 1
		WHERE id = ? AND ended_at IS NULL`
	sqlEndJob = `UPDATE jobs SET state = ?, done = ?, failed = ?, total = ?, notices = ?, error = ?, message = ?, ended_at = ?, updated_at = ?,
		resume = NULL, revision = revision + 1 WHERE id = ? AND revision = ? AND ended_at IS NULL`
)
