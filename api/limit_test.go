package api

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/ratelimit"
)

// limitedRig is a server whose callers are held to the plan.
func limitedRig(t *testing.T, plan ratelimit.Plan) (*rig, *counted) {
	t.Helper()
	r := newRig(t, Limits{})
	l, err := ratelimit.New(ratelimit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	over := &counted{}
	r.limiter, r.plans, r.limited = l, ratelimit.Plans{"": plan}, over
	return r, over
}

// TestRateLimited: the requests of the plan pass and say how many are left; the next one is 429, also where the caller's rights would not have
// sufficed, but a request without a credential stays 401.
func TestRateLimited(t *testing.T) {
	r, over := limitedRig(t, ratelimit.Plan{Tenant: ratelimit.Rate{PerMinute: 60, Burst: 3}})
	for left := 2; left >= 0; left-- {
		w := r.do("GET", "/api/v1/me", "")
		h := w.Header()
		if w.Code != 200 || h.Get("X-RateLimit-Limit") != "60" || h.Get("X-RateLimit-Remaining") != strconv.Itoa(left) {
			t.Errorf("%d %v", w.Code, h)
		}
		reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
		if until := time.Until(time.Unix(reset, 0)); err != nil || until < 0 || until > 5*time.Second {
			t.Errorf("reset %v from now, %v", until, err)
		}
	}
	w := r.do("GET", "/api/v1/me", "")
	refused(t, w, http.StatusTooManyRequests, fault.RateLimited)
	if after := w.Header().Get("Retry-After"); after != "1" || w.Header().Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("Retry-After %q, %v", after, w.Header())
	}
	r.auth.scopes = []auth.Scope{auth.ScopeAuditRead}
	refused(t, r.do("POST", "/api/v1/keys", `{"name":"a","algorithm":"AES-256-GCM"}`), http.StatusTooManyRequests, fault.RateLimited)
	if w := r.do("GET", "/api/v1/me", "", "X-API-Key", ""); w.Code != 401 || w.Header().Get("X-RateLimit-Limit") != "" {
		t.Errorf("without a credential: %d %v", w.Code, w.Header())
	}
	if w := r.do("GET", "/health", ""); w.Code != 200 {
		t.Errorf("what needs no credential is limited: %d", w.Code)
	}
	// The same on Qpher's routes: the scopes here are not theirs either, and the body is none.
	w = r.do("POST", "/api/v1/kem/encrypt", `{"nonsense`)
	refusedQpher(t, w, http.StatusTooManyRequests, "ERR_RATE_LIMIT_001")
	if w.Header().Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %v", w.Header())
	}
	refusedQpher(t, r.do("POST", "/api/v1/kem/encrypt", `{"nonsense`, "X-API-Key", ""), http.StatusUnauthorized, "ERR_AUTH_001")
	if over.n["tenant"] != 3 {
		t.Errorf("counted %v", over.n)
	}
}

// TestOwnRate: the rate of a credential goes before that of the plan, and the stricter of credential and tenant decides.
func TestOwnRate(t *testing.T) {
	r, over := limitedRig(t, ratelimit.Plan{Tenant: ratelimit.Rate{PerMinute: 1000}, Credential: ratelimit.Rate{PerMinute: 500}})
	if w := r.do("GET", "/api/v1/me", ""); w.Header().Get("X-RateLimit-Limit") != "500" {
		t.Errorf("the plan's: %v", w.Header())
	}
	r.auth.restrictions = &auth.Restrictions{RateLimit: 2}
	for _, want := range []int{200, 429} { // of the burst of two the request at the plan's rate has taken a bit
		if w := r.do("GET", "/api/v1/me", ""); w.Code != want || w.Header().Get("X-RateLimit-Limit") != "2" {
			t.Errorf("%d %v, want %d", w.Code, w.Header(), want)
		}
	}
	if over.n["credential"] != 1 {
		t.Errorf("counted %v", over.n)
	}
}

// TestRefusedAtTheDoor: a credential that is not good where the caller is, as a stolen one, can neither fill the log faster than it could ask, nor use up what the
// tenant's own callers need.
func TestRefusedAtTheDoor(t *testing.T) {
	r, over := limitedRig(t, ratelimit.Plan{Tenant: ratelimit.Rate{PerMinute: 60, Burst: 3}})
	r.auth.restrictions = &auth.Restrictions{CIDRs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	for left := 2; left >= 0; left-- {
		w := r.do("GET", "/api/v1/me", "")
		refused(t, w, http.StatusForbidden, fault.Forbidden)
		if got := w.Header().Get("X-RateLimit-Remaining"); got != strconv.Itoa(left) {
			t.Errorf("%q left, want %d", got, left)
		}
	}
	for range 10 {
		w := r.do("GET", "/api/v1/me", "")
		refused(t, w, http.StatusTooManyRequests, fault.RateLimited)
		if w.Header().Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
		}
	}
	if n := len(r.audit.entries); n != 3 || over.n["credential"] != 10 {
		t.Errorf("%d entries, counted %v", n, over.n)
	}
	r.auth.restrictions = nil
	if w := r.do("GET", "/api/v1/me", ""); w.Code != 200 || w.Header().Get("X-RateLimit-Remaining") != "2" {
		t.Errorf("from where it may: %d %v", w.Code, w.Header())
	}
}

// TestLoudCredential: the requests of a credential that is over its own rate don't reach the tenant's bucket, whose cells the nodes share.
func TestLoudCredential(t *testing.T) {
	r, _ := limitedRig(t, ratelimit.Plan{Tenant: ratelimit.Rate{PerMinute: 1000}, Credential: ratelimit.Rate{PerMinute: 1}})
	cells := &cells{got: map[ratelimit.Kind]int{}}
	l, err := ratelimit.New(ratelimit.Options{Store: cells})
	if err != nil {
		t.Fatal(err)
	}
	r.limiter = l
	for i, want := range []int{200, 429, 429, 429} {
		if w := r.do("GET", "/api/v1/me", ""); w.Code != want {
			t.Errorf("request %d: %d, want %d", i, w.Code, want)
		}
		if n := cells.got[ratelimit.KindTenant]; n != 1 {
			t.Errorf("request %d: %d cells of the tenant", i, n)
		}
	}
}

// cells is a store that gives what it has.
type cells struct{ got map[ratelimit.Kind]int }

func (c *cells) TakeCells(_ context.Context, b ratelimit.Bucket, interval, tolerance time.Duration, want int) (int, time.Duration, error) {
	ahead := time.Duration(c.got[b.Kind]) * interval
	n := min(want, int((tolerance-ahead)/interval))
	c.got[b.Kind] += n
	return n, ahead + time.Duration(n)*interval, nil
}

func (c *cells) PruneCells(context.Context) error { return nil }

// TestCredentialBucket: each credential has a bucket of its own, whatever kind it is of.
func TestCredentialBucket(t *testing.T) {
	id, tenant := uuid.New(), uuid.New()
	if got := credential(&auth.Principal{ID: "api-key:" + id.String(), Tenant: tenant}); got != id {
		t.Errorf("an API key's bucket is %v", got)
	}
	seen := map[uuid.UUID]string{}
	for _, p := range []*auth.Principal{{ID: "cert:spiffe://a/b", Tenant: tenant}, {ID: "cert:spiffe://a/c", Tenant: tenant}, {ID: "cert:spiffe://a/b", Tenant: id}, {ID: "system"}} {
		got := credential(p)
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s share a bucket", p.ID, other)
		}
		seen[got] = p.ID
	}
}
