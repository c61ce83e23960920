package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/keywright/keywright/api/wire"
)

// JobFilter selects jobs of a list; zero fields select all.
type JobFilter struct {
	Kind  string
	State string
}

// JobsPage gives one page of the jobs that the caller may see, newest first. Limit 0: the service's default.
func (c *Client) JobsPage(ctx context.Context, f JobFilter, cursor string, limit int) (*wire.List[wire.Job], error) {
	q := make(url.Values)
	set(q, "kind", f.Kind)
	set(q, "state", f.State)
	return page[wire.Job](ctx, c, "/jobs", q, cursor, limit)
}

// Jobs goes through all jobs of the filter, newest first. After an error it ends.
func (c *Client) Jobs(ctx context.Context, f JobFilter) iter.Seq2[wire.Job, error] {
	return all(func(cursor string) (*wire.List[wire.Job], error) { return c.JobsPage(ctx, f, cursor, 0) })
}

func jobPath(id, rest string) (string, error) {
	if id == "" {
		return "", errors.New("client: no job is named")
	}
	return "/jobs/" + url.PathEscape(id) + rest, nil
}

// Job shows a job.
func (c *Client) Job(ctx context.Context, id string) (*wire.Job, error) {
	path, err := jobPath(id, "")
	if err != nil {
		return nil, err
	}
	return do[wire.Job](ctx, c, call{method: http.MethodGet, path: path, repeat: idempotent})
}

// CancelJob ends a job that has not ended. What it did stays done.
func (c *Client) CancelJob(ctx context.Context, id string) (*wire.Job, error) {
	path, err := jobPath(id, "/cancel")
	if err != nil {
		return nil, err
	}
	return do[wire.Job](ctx, c, call{method: http.MethodPost, path: path, repeat: never})
}

// WaitJob asks for a job twice a second until it has ended, and calls seen (which may be nil) with each answer.
func (c *Client) WaitJob(ctx context.Context, id string, seen func(*wire.Job)) (*wire.Job, error) {
	for {
		j, err := c.Job(ctx, id)
		if err != nil {
			return nil, err
		}
		if seen != nil {
			seen(j)
		}
		if j.EndedAt != nil {
			return j, nil
		}
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// MoveKey makes a job that moves a key to another backend. Repeated under one Idempotency-Key.
func (c *Client) MoveKey(ctx context.Context, key string, r wire.MoveKey) (*wire.Job, error) {
	return onKey[wire.Job](ctx, c, http.MethodPost, key, "/move", nil, r, keyed)
}

// MoveKeys makes a job that moves all keys of a filter to another backend. Repeated under one Idempotency-Key.
func (c *Client) MoveKeys(ctx context.Context, r wire.MoveKeys) (*wire.Job, error) {
	return do[wire.Job](ctx, c, call{method: http.MethodPost, path: "/keys/move", body: r, repeat: keyed})
}
