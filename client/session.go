package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
)

// sessionCookie carries a session.
const sessionCookie = "__Host-keywright-session"

// Session is what a session is presented by. Both are secrets: whoever has them is the session's owner.
type Session struct {
	Token string `json:"token"` // of the cookie
	CSRF  string `json:"csrf"`  // goes with every call that may change something
}

// present puts the session into a request.
func (s *Session) present(req *http.Request) {
	req.Header.Set("Cookie", sessionCookie+"="+s.Token)
	if req.Method != http.MethodGet {
		req.Header.Set("X-CSRF-Token", s.CSRF)
	}
}

// OpenSession exchanges the client's credential, a token of another issuer, a client certificate or the user of a Unix socket, for a session: Options.Session
// of another client. It is not repeated: a session whose answer was lost ends by itself.
func (c *Client) OpenSession(ctx context.Context) (*wire.Session, *Session, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	resp, err := c.open(ctx, call{method: http.MethodPost, path: "/session"}, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrConnection, err)
	}
	if resp.StatusCode != http.StatusCreated {
		return nil, nil, failure(resp, answer)
	}
	var r wire.Response[*wire.Session]
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrResponse, err)
	}
	for _, k := range resp.Cookies() {
		if k.Name == sessionCookie && k.Value != "" && headerSafe(k.Value) && r.Data != nil && headerSafe(r.Data.CSRFToken) {
			return r.Data, &Session{Token: k.Value, CSRF: r.Data.CSRFToken}, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: it brings no session", ErrResponse)
}

// OwnSession shows the client's own session.
func (c *Client) OwnSession(ctx context.Context) (*wire.Session, error) {
	return do[wire.Session](ctx, c, call{method: http.MethodGet, path: "/session", repeat: idempotent})
}

// CloseSession ends the client's own session.
func (c *Client) CloseSession(ctx context.Context) (*wire.Session, error) {
	return do[wire.Session](ctx, c, call{method: http.MethodDelete, path: "/session"})
}

// Sessions goes through the living sessions of the tenant, the oldest first.
func (c *Client) Sessions(ctx context.Context) iter.Seq2[wire.Session, error] {
	return all(func(cursor string) (*wire.List[wire.Session], error) {
		return page[wire.Session](ctx, c, "/sessions", nil, cursor, 0)
	})
}

// EndSession ends a session of the tenant, by id.
func (c *Client) EndSession(ctx context.Context, id string) (*wire.Session, error) {
	if id == "" {
		return nil, errors.New("client: no session is named")
	}
	return do[wire.Session](ctx, c, call{method: http.MethodDelete, path: "/sessions/" + url.PathEscape(id), repeat: idempotent})
}

// SecuritySettings gives what the tenant has settled for its security.
func (c *Client) SecuritySettings(ctx context.Context) (*wire.SecuritySettings, error) {
	return do[wire.SecuritySettings](ctx, c, call{method: http.MethodGet, path: "/settings/security", repeat: idempotent})
}

// UpdateSecurity settles it, in a session of an owner or admin. What is nil stays.
func (c *Client) UpdateSecurity(ctx context.Context, r wire.UpdateSecurity) (*wire.SecuritySettings, error) {
	return do[wire.SecuritySettings](ctx, c, call{method: http.MethodPatch, path: "/settings/security", body: r, repeat: idempotent})
}
