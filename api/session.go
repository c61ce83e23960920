package api

import (
	"context"
	"html"
	"net/http"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// Sessions are those of people with a browser, and of whoever else exchanges a credential that is no API key. *auth.Service is the implementation.
type Sessions interface {
	// AuthenticateSession is Authenticate of what a cookie presents.
	AuthenticateSession(ctx context.Context, u *auth.SessionUse) (*auth.Principal, auth.Decision, error)
	// OpenSession gives the record and, this once, what it is presented by; so does FinishLogin.
	OpenSession(ctx context.Context, caller *auth.Principal, requestID string) (*auth.Session, string, error)
	OwnSession(ctx context.Context, caller *auth.Principal) (*auth.Session, error)
	EndSession(ctx context.Context, caller *auth.Principal, id uuid.UUID, requestID string) (*auth.Session, error)
	Sessions(ctx context.Context, caller *auth.Principal, cursor string, limit int) (page []*auth.Session, next string, err error)
	// SessionEnds gives when a session ends by itself: unused, and in any case.
	SessionEnds(caller *auth.Principal, x *auth.Session) (idle, expires time.Time)
	BeginLogin(ctx context.Context, issuer string) (address string, kept []byte, err error)
	FinishLogin(ctx context.Context, r *auth.LoginReturn) (*auth.Session, string, error)

	Security(ctx context.Context, caller *auth.Principal) (*auth.Security, error)
	SetSecurity(ctx context.Context, caller *auth.Principal, u auth.SecurityUpdate, from netip.Addr, requestID string) (*auth.Security, error)
}

// sessionRows are the routes of sessions and security settings.
func (s *Server) sessionRows() []route {
	const (
		tag = "sessions"
		sw  = auth.ScopeSettingsWrite
	)
	exchange := write(http.MethodPost, "/session", "", tag, "Exchange a token, a client certificate or the user of a Unix socket for a session, which a cookie carries", handle(s.openSession))
	exchange.BodyLimit, exchange.Status, exchange.Opens = 0, http.StatusCreated, true
	show := read("/session", "", tag, "The session of the request", handle(s.showSession))
	show.Signed = true
	end := write(http.MethodDelete, "/session", "", tag, "End the session of the request", handle(s.endOwnSession))
	end.BodyLimit, end.Signed = 0, true
	other := write(http.MethodDelete, "/sessions/{id}", sw, tag, "End a session of the tenant", handle(s.endSession))
	other.BodyLimit = 0
	login := open(http.MethodGet, "/session/login", tag, "Send a browser to an issuer to sign in", media("text/plain", handle(s.beginLogin)))
	login.AtRoot, login.NeedsRoot, login.Status, login.Timeout = false, true, http.StatusSeeOther, timeDevice
	login.Query = []param{{"issuer", "string", "its name in the configuration; may be absent where there is one"}}
	callback := open(http.MethodGet, "/session/callback", tag, "Where a browser comes back from an issuer: the session begins", media("text/html; charset=utf-8", handle(s.finishLogin)))
	callback.AtRoot, callback.NeedsRoot, callback.Timeout, callback.Tolerant = false, true, timeDevice, true
	callback.Query = []param{{"state", "string", "as it was sent"}, {"code", "string", "the authorization code"}, {"iss", "string", "the issuer (RFC 9207)"},
		{"error", "string", "why the issuer has refused"},
		{"issuer", "string", "the issuer's name, where its redirect_url has it"}}
	security := write(http.MethodPatch, "/settings/security", "", "settings", "Settle the tenant's security: for an owner or admin in a session, and for no API key", handle(s.setSecurity))
	security.Session = true
	return []route{
		exchange,
		show,
		end,
		login,
		callback,
		read("/sessions", sw, tag, "List the living sessions of the tenant", handle(s.listSessions), page()...),
		other,
		read("/settings/security", auth.ScopeSettingsRead, "settings", "What the tenant has settled for its security", handle(s.showSecurity)),
		security,
	}
}

// bySession says whose session a request presents. A page of another origin changes nothing with it, whatever it knows.
func (c *call) bySession(ctx context.Context, presented string, n int) (p *auth.Principal, d auth.Decision, missing string, err error) {
	r := c.gin.Request
	if n > 1 || len(r.Header["Authorization"])+len(r.Header["X-Api-Key"]) > 0 {
		return nil, d, "conflicting", fault.New(fault.Unauthenticated, "send one credential: a session's cookie, or a header")
	}
	u := &auth.SessionUse{Token: presented, Watches: c.watching, Address: c.address()}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		u.Changes, u.CSRF = true, r.Header.Get("X-Csrf-Token")
		if http.NewCrossOriginProtection().Check(r) != nil {
			return nil, d, "cross-origin", fault.New(fault.Forbidden, "a page of another origin may not use the session")
		}
	}
	p, d, err = c.s.auth.AuthenticateSession(ctx, u)
	if p == nil && fault.Has(err, fault.Unauthenticated) {
		c.forgetSession() // else a browser could not sign in again before the cookie's own end
		missing = "refused"
	}
	return p, d, missing, err
}

func (c *call) wireSession(x *auth.Session) wire.Session {
	idle, expires := c.s.auth.SessionEnds(c.principal, x)
	return wire.Session{ID: x.ID.String(), Principal: x.Principal, Name: x.Name, Kind: string(x.Kind), Role: string(x.Role), Scopes: scopeNames(x.Scopes),
		Tenant: x.Tenant.String(), TenantName: c.principal.TenantName, CreatedAt: x.CreatedAt.UTC(), SeenAt: x.SeenAt.UTC(), IdleExpiresAt: idle.UTC(),
		ExpiresAt: expires.UTC(), EndedAt: optional(x.EndedAt)}
}

func (s *Server) openSession(ctx context.Context, c *call, _ *wire.Empty) (wire.Session, error) {
	x, presented, err := s.auth.OpenSession(ctx, c.principal, c.id)
	if err != nil {
		return wire.Session{}, err
	}
	w := c.wireSession(x)
	w.CSRFToken = auth.CSRFToken(presented)
	c.setCookie(sessionCookie, presented, time.Until(x.ExpiresAt), http.SameSiteStrictMode)
	return w, nil
}

func (s *Server) showSession(ctx context.Context, c *call, _ *wire.Empty) (wire.Session, error) {
	x, err := s.auth.OwnSession(ctx, c.principal)
	if err != nil {
		return wire.Session{}, err
	}
	w := c.wireSession(x)
	presented, _ := cookieOf(c.gin.Request.Header, sessionCookie)
	w.CSRFToken = auth.CSRFToken(presented)
	return w, nil
}

func (s *Server) endOwnSession(ctx context.Context, c *call, _ *wire.Empty) (wire.Session, error) {
	x, err := s.auth.EndSession(ctx, c.principal, c.principal.Session, c.id)
	if err != nil {
		return wire.Session{}, err
	}
	c.forgetSession()
	return c.wireSession(x), nil
}

func (s *Server) listSessions(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Session], error) {
	limit, cursor, err := c.page()
	if err != nil {
		return wire.List[wire.Session]{}, err
	}
	list, next, err := s.auth.Sessions(ctx, c.principal, cursor, limit)
	if err != nil {
		return wire.List[wire.Session]{}, err
	}
	out := wire.List[wire.Session]{Items: make([]wire.Session, len(list)), NextCursor: next}
	for i, x := range list {
		out.Items[i] = c.wireSession(x)
	}
	return out, nil
}

func (s *Server) endSession(ctx context.Context, c *call, _ *wire.Empty) (wire.Session, error) {
	id, err := c.pathID("id", fault.New(fault.SessionNotFound, "no such session in this tenant"))
	if err != nil {
		return wire.Session{}, err
	}
	x, err := s.auth.EndSession(ctx, c.principal, id, c.id)
	if err != nil {
		return wire.Session{}, err
	}
	if c.principal.Session == id {
		c.forgetSession()
	}
	return c.wireSession(x), nil
}

func (s *Server) beginLogin(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	address, kept, err := s.auth.BeginLogin(ctx, c.query.Get("issuer"))
	if err != nil {
		return wire.Empty{}, err
	}
	// Lax, as the browser comes back by a link of the issuer's.
	c.setCookie(loginCookie, cookieEncoding.EncodeToString(kept), auth.LoginTime, http.SameSiteLaxMode)
	c.gin.Writer.Header()["Location"] = []string{address}
	c.answer.raw, c.answer.contentType = []byte("Go on at the address in Location.\n"), "text/plain; charset=utf-8"
	return wire.Empty{}, nil
}

// finishLogin answers with a page that goes on by itself. A redirect would still count as coming from the issuer, and be made without a cookie that
// is SameSite=Strict; what a page of our own begins is ours.
func (s *Server) finishLogin(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	c.setCookie(loginCookie, "", 0, http.SameSiteLaxMode) // it serves once
	text, n := cookieOf(c.gin.Request.Header, loginCookie)
	kept, err := cookieEncoding.DecodeString(text)
	if n != 1 || err != nil {
		kept = nil
	}
	r := &auth.LoginReturn{Kept: kept, State: c.query.Get("state"), Code: c.query.Get("code"), Issuer: c.query.Get("iss"), To: c.query.Get("issuer"), Error: c.query.Has("error"),
		Address: c.address(), ID: c.id}
	r.Session, _ = cookieOf(c.gin.Request.Header, sessionCookie)
	x, presented, err := s.auth.FinishLogin(ctx, r)
	if err != nil {
		if fault.Has(err, fault.Unauthenticated) {
			s.denials.Add("refused")
		}
		return wire.Empty{}, err
	}
	c.setCookie(sessionCookie, presented, time.Until(x.ExpiresAt), http.SameSiteStrictMode)
	to := html.EscapeString(s.afterLogin)
	c.answer.raw = []byte(`<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=` + to +
		`"><title>Signed in</title><p><a href="` + to + `">Go on</a></p></html>` + "\n")
	c.answer.contentType = "text/html; charset=utf-8"
	return wire.Empty{}, nil
}
