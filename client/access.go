package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"

	"github.com/keywright/keywright/api/wire"
)

type approvalID struct{}

// WithApproval sends an approval along with the calls made with the context: its request must be exactly theirs.
func WithApproval(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, approvalID{}, id)
}

// Grants goes through the grants on a key, by id.
func (c *Client) Grants(ctx context.Context, key string) iter.Seq2[wire.Grant, error] {
	return all(func(cursor string) (*wire.List[wire.Grant], error) {
		if key == "" {
			return nil, errNoKey()
		}
		return page[wire.Grant](ctx, c, "/keys/"+url.PathEscape(key)+"/grants", nil, cursor, 0)
	})
}

func errNoKey() error { return errors.New("client: no key is named") }

// PutGrant gives a grant under an id of the caller's choice, a UUID; the same id again replaces it.
func (c *Client) PutGrant(ctx context.Context, key, id string, r wire.PutGrant) (*wire.Grant, error) {
	return c.grant(ctx, http.MethodPut, key, id, r)
}

// Grant shows a grant.
func (c *Client) Grant(ctx context.Context, key, id string) (*wire.Grant, error) {
	return c.grant(ctx, http.MethodGet, key, id, nil)
}

// DeleteGrant takes a grant back.
func (c *Client) DeleteGrant(ctx context.Context, key, id string) (*wire.Grant, error) {
	return c.grant(ctx, http.MethodDelete, key, id, nil)
}

func (c *Client) grant(ctx context.Context, method, key, id string, body any) (*wire.Grant, error) {
	if key == "" || id == "" {
		return nil, errNoKey()
	}
	return do[wire.Grant](ctx, c, call{method: method, path: "/keys/" + url.PathEscape(key) + "/grants/" + url.PathEscape(id), body: body, repeat: idempotent})
}

// RequestApproval asks for the approval of one request by others.
func (c *Client) RequestApproval(ctx context.Context, r wire.RequestApproval) (*wire.Approval, error) {
	return do[wire.Approval](ctx, c, call{method: http.MethodPost, path: "/approvals", body: r})
}

// Approvals goes through the approvals that the caller may look at, newest first.
func (c *Client) Approvals(ctx context.Context) iter.Seq2[wire.Approval, error] {
	return all(func(cursor string) (*wire.List[wire.Approval], error) {
		return page[wire.Approval](ctx, c, "/approvals", nil, cursor, 0)
	})
}

// Approval shows an approval by id.
func (c *Client) Approval(ctx context.Context, id string) (*wire.Approval, error) {
	return c.approval(ctx, http.MethodGet, id, "")
}

// Approve consents to another's request.
func (c *Client) Approve(ctx context.Context, id string) (*wire.Approval, error) {
	return c.approval(ctx, http.MethodPost, id, "/approve")
}

// Reject ends another's request, or takes an own one back.
func (c *Client) Reject(ctx context.Context, id string) (*wire.Approval, error) {
	return c.approval(ctx, http.MethodPost, id, "/reject")
}

func (c *Client) approval(ctx context.Context, method, id, act string) (*wire.Approval, error) {
	if id == "" {
		return nil, errors.New("client: no approval is named")
	}
	k := call{method: method, path: "/approvals/" + url.PathEscape(id) + act}
	if method == http.MethodGet {
		k.repeat = idempotent
	}
	return do[wire.Approval](ctx, c, k)
}

// Authorize says what would be decided, and by which rule.
func (c *Client) Authorize(ctx context.Context, r wire.Authorize) (*wire.Authorized, error) {
	return do[wire.Authorized](ctx, c, call{method: http.MethodPost, path: "/authorize", body: r, repeat: idempotent})
}
