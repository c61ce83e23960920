package api

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// matrixTenant is the tenant default of everything.
var matrixTenant = uuid.MustParse("0195f3a2-0000-7000-8000-00000000000a")

// newSession makes a session of a role, and gives what it is presented by.
func (e *everything) newSession(role auth.Role) (*auth.Session, string) {
	e.t.Helper()
	p := &auth.Principal{ID: "oidc:" + uuid.NewString(), Kind: auth.KindToken, Tenant: matrixTenant, Name: "somebody", Role: role, Scopes: role.Scopes()}
	x, presented, err := e.known.OpenSession(e.t.Context(), p, "matrix")
	if err != nil {
		e.t.Fatal(err)
	}
	return x, presented
}

// inSession is the way of a page of our own in a session.
func inSession(presented string) way {
	return way{prepare: func(r *http.Request) {
		r.Header.Set("Cookie", sessionCookie+"="+presented)
		r.Header.Set("X-CSRF-Token", auth.CSRFToken(presented))
	}}
}

// sessionColumns are sessions of each role, and those that are refused at the door.
func (e *everything) sessionColumns() (list []column) {
	for _, r := range auth.Roles() {
		_, presented := e.newSession(r.Role)
		name := "session " + string(r.Role)
		e.ways[name] = inSession(presented)
		list = append(list, column{name: name, token: name, scopes: r.Scopes, kind: auth.KindSession, role: r.Role})
	}
	x, presented := e.newSession(auth.RoleOwner)
	caller := &auth.Principal{ID: x.Principal, Kind: auth.KindSession, Session: x.ID, Tenant: matrixTenant, Role: x.Role, Scopes: x.Scopes}
	if _, err := e.known.EndSession(e.t.Context(), caller, x.ID, "matrix"); err != nil {
		e.t.Fatal(err)
	}
	e.ways["session ended"] = inSession(presented)
	_, presented = e.newSession(auth.RoleOwner)
	good := inSession(presented)
	e.ways["session beside an API key"] = way{prepare: func(r *http.Request) { good.prepare(r); r.Header.Set("X-API-Key", e.owner) }}
	e.ways["session twice"] = way{prepare: func(r *http.Request) { good.prepare(r); r.Header.Add("Cookie", r.Header.Get("Cookie")) }}
	e.ways["session unknown"] = inSession("kws1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	e.ways["session as a bearer"] = way{prepare: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+presented) }}
	e.ways["API key as a session"] = inSession(e.owner)
	for _, name := range []string{"session ended", "session beside an API key", "session twice", "session unknown", "session as a bearer", "API key as a session"} {
		list = append(list, column{name: name, token: name, door: fault.Unauthenticated})
	}
	return list
}
