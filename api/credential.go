package api

import (
	"context"
	"net/http"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/transport"
)

// identify says who calls. What is presented in a header or a session's cookie decides, and alone: both at once are refused. Without one it is what the transport has proven of the connection: a client
// certificate, or the process at the other end of a Unix socket. missing is why a request had no usable credential, in a fixed word, when it had none.
func (c *call) identify(ctx context.Context) (p *auth.Principal, d auth.Decision, missing string, err error) {
	r := c.gin.Request
	if session, n := cookieOf(r.Header, sessionCookie); n > 0 {
		return c.bySession(ctx, session, n)
	}
	token, err := presented(r.Header)
	if err == nil {
		p, d, err = c.s.auth.Authenticate(ctx, token, c.address())
		if p == nil && fault.Has(err, fault.Unauthenticated) {
			missing = "refused"
		}
		return p, d, missing, err
	}
	if missing = reason(r.Header); missing != "missing" {
		return nil, d, missing, err
	}
	conn := auth.Connection{Chain: transport.ClientChain(r), Address: c.address()}
	if peer, ok := transport.PeerOf(r.Context()); ok {
		conn.Peer = &auth.Peer{UID: peer.UID, GID: peer.GID}
	}
	if len(conn.Chain) == 0 && conn.Peer == nil {
		return nil, d, missing, err
	}
	p, d, failed := c.s.auth.AuthenticateConnection(ctx, &conn)
	switch {
	case p == nil && fault.Has(failed, fault.Unauthenticated):
		if len(conn.Chain) > 0 {
			missing = "unmapped"
		}
		return nil, d, missing, err // what could have been sent
	case failed != nil:
		return p, d, "", failed
	}
	// A browser sends a client certificate along with what a page of another origin makes it send; who reads the answer does not matter then.
	if http.NewCrossOriginProtection().Check(r) != nil {
		return nil, d, "cross-origin", fault.New(fault.Forbidden, "a page of another origin may not use the credential of the connection")
	}
	return p, d, "", nil
}
