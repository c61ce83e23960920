package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/mattn/go-sqlite3"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// Approval finds an approval; see keys.Store.
func (s *Store) Approval(ctx context.Context, tenant, id uuid.UUID) (*auth.Approval, error) {
	found, err := s.approvals(ctx, sqlApproval, tenant[:], id[:])
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fault.New(fault.ApprovalNotFound, "no such approval")
	}
	return found[0], nil
}

// Approvals lists approvals, newest first; see keys.Store.
func (s *Store) Approvals(ctx context.Context, tenant, before uuid.UUID, limit int) ([]*auth.Approval, error) {
	if before == uuid.Nil {
		before = uuid.Max
	}
	return s.approvals(ctx, sqlApprovals, tenant[:], before[:], limit)
}

// approvals reads approvals, one row for each vote and one for none.
func (s *Store) approvals(ctx context.Context, query string, args ...any) (found []*auth.Approval, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, translate("reading approvals", err)
	}
	defer func() { err = translate("reading approvals", errors.Join(err, rows.Close())) }()
	for rows.Next() {
		var a auth.Approval
		var digest []byte
		var principal, role, maker, kin *string
		var approves *int64
		var v auth.Vote
		err := rows.Scan((*idColumn)(&a.ID), (*idColumn)(&a.Tenant), (*idColumn)(&a.Key), &a.Operation, &a.Target, &digest, &a.Reason, &a.RequestedBy,
			(*timeColumn)(&a.CreatedAt), (*timeColumn)(&a.ExpiresAt), (*timeColumn)(&a.RejectedAt), (*timeColumn)(&a.UsedAt),
			&principal, &role, &maker, &approves, (*timeColumn)(&v.At), &kin, (*timeColumn)(&v.Since))
		if err != nil {
			return nil, err
		}
		if copy(a.Digest[:], digest) != len(a.Digest) {
			return nil, corrupted("the record of an approval is damaged", nil)
		}
		if n := len(found); n == 0 || !bytes.Equal(found[n-1].ID[:], a.ID[:]) {
			found = append(found, &a)
		}
		if principal != nil && role != nil && maker != nil && approves != nil && kin != nil {
			v.Principal, v.Role, v.Maker, v.Approves = *principal, auth.Role(*role), *maker, *approves != 0
			if *kin != "" {
				v.Kin = strings.Fields(*kin)
			}
			last := found[len(found)-1]
			last.Votes = append(last.Votes, v)
		}
	}
	return found, rows.Err()
}

// insertApproval is a Change.
type insertApproval struct {
	prepared
	a auth.Approval
}

// InsertApproval adds an approval; see keys.Store. Two of those that are long over go with it, so that there are never many.
func (s *Store) InsertApproval(a *auth.Approval) audit.Change { return &insertApproval{a: *a} }

func (c *insertApproval) apply(w *writer) error {
	a := &c.a
	full, err := w.row(sqlApprovalsFull, make([]driver.Value, 1), a.Tenant[:], a.RequestedBy, a.CreatedAt.UnixMicro(), int64(auth.MaxOpenApprovals))
	if err != nil {
		return err
	}
	if full {
		return fault.New(fault.QuotaExceeded, auth.TooManyOpenApprovals)
	}
	over := a.CreatedAt.Add(-auth.ApprovalsKept).UnixMicro()
	for _, forget := range []string{sqlForgetVotes, sqlForgetApprovals} {
		if _, err := w.exec(forget, a.Tenant[:], over); err != nil {
			return err
		}
	}
	_, err = w.exec(sqlInsertApproval, a.ID[:], a.Tenant[:], a.Key[:], a.Operation, a.Target, a.Digest[:], a.Reason, a.RequestedBy,
		a.CreatedAt.UnixMicro(), a.ExpiresAt.UnixMicro())
	return conflictIfTaken(err, "an approval with this id exists already")
}

// voteApproval is a Change.
type voteApproval struct {
	prepared
	id   uuid.UUID
	vote auth.Vote
}

// VoteApproval adds a vote; see keys.Store.
func (s *Store) VoteApproval(id uuid.UUID, v auth.Vote) audit.Change {
	return &voteApproval{id: id, vote: v}
}

func (c *voteApproval) apply(w *writer) error {
	v := &c.vote
	var rejected any
	if !v.Approves {
		rejected = v.At.UnixMicro()
	}
	n, err := w.exec(sqlRejectApproval, rejected, c.id[:])
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.New(fault.Conflict, "the approval is used or rejected")
	}
	_, err = w.exec(sqlInsertVote, c.id[:], v.Principal, string(v.Role), v.Maker, flag(v.Approves), v.At.UnixMicro(), strings.Join(v.Kin, " "), micros(v.Since))
	if violated(err) == sqlite3.ErrConstraintPrimaryKey {
		return fault.Wrap(fault.Conflict, "the principal has said so already", err)
	}
	return err
}

// useApproval is a Change.
type useApproval struct {
	prepared
	id uuid.UUID
	at time.Time
}

// UseApproval marks an approval as used; see keys.Store.
func (s *Store) UseApproval(id uuid.UUID, at time.Time) audit.Change {
	return &useApproval{id: id, at: at}
}

func (c *useApproval) apply(w *writer) error {
	n, err := w.exec(sqlUseApproval, c.at.UnixMicro(), c.id[:], c.at.UnixMicro())
	if err == nil && n == 0 {
		return fault.New(fault.ApprovalRequired, "the approval is used, rejected or expired")
	}
	return err
}

const (
	approvalColumns = "a.id, a.tenant, a.key_id, a.operation, a.target, a.digest, a.reason, a.requested_by, a.created_at, a.expires_at, a.rejected_at, a.used_at"
	voteColumns     = "v.principal, v.role, v.maker, v.approves, v.at, v.kin, v.since"
	sqlApproval     = "SELECT " + approvalColumns + ", " + voteColumns + ` FROM approvals a LEFT JOIN approval_votes v ON v.approval_id = a.id
		WHERE a.tenant = ? AND a.id = ? ORDER BY v.principal`
	sqlApprovals = "SELECT " + approvalColumns + ", " + voteColumns + ` FROM (SELECT * FROM approvals WHERE tenant = ? AND id < ? ORDER BY id DESC LIMIT ?) a
		LEFT JOIN approval_votes v ON v.approval_id = a.id ORDER BY a.id DESC, v.principal`
	sqlApprovalsFull = `SELECT 1 WHERE (SELECT COUNT(*) FROM approvals WHERE tenant = ?1 AND requested_by = ?2 AND expires_at > ?3
		AND used_at IS NULL AND rejected_at IS NULL) >= ?4`
	sqlLongOver        = "(SELECT id FROM (SELECT id, expires_at FROM approvals WHERE tenant = ?1 ORDER BY id LIMIT 2) WHERE expires_at < ?2)"
	sqlForgetVotes     = "DELETE FROM approval_votes WHERE approval_id IN " + sqlLongOver
	sqlForgetApprovals = "DELETE FROM approvals WHERE id IN " + sqlLongOver
	sqlInsertApproval  = `INSERT INTO approvals (id, tenant, key_id, operation, target, digest, reason, requested_by, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlRejectApproval = "UPDATE approvals SET rejected_at = ? WHERE id = ? AND used_at IS NULL AND rejected_at IS NULL"
	sqlInsertVote     = "INSERT INTO approval_votes (approval_id, principal, role, maker, approves, at, kin, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
	sqlUseApproval    = "UPDATE approvals SET used_at = ? WHERE id = ? AND used_at IS NULL AND rejected_at IS NULL AND expires_at > ?"
)
