package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/ratelimit"
)

// limit holds the caller to the rates of its tenant and of its credential. It stands behind the check of the credential (401) and before
// that of its rights (403): the order that Qpher's clients know, and a flood of what is forbidden is a flood. Of a credential that is refused at the door, as where
// the caller is not, each request is recorded too: it is held to the same rate in a bucket of its own, so that whoever has stolen it cannot use up its owner's.
func (c *call) limit(ctx context.Context, refused bool) error {
	if c.s.limiter == nil {
		return nil
	}
	p := c.principal
	plan := c.s.plans.Of(p.Plan)
	own := plan.Credential
	if r := p.Restrictions; r != nil && r.RateLimit > 0 {
		own = ratelimit.Rate{PerMinute: r.RateLimit}
	}
	if own.PerMinute == 0 && plan.Tenant.PerMinute == 0 {
		return nil
	}
	// The credential's bucket comes first: cells that a bucket gives back are good for a moment only where nodes share it, and a flood of one credential beyond its rate must not
	// take those of the whole tenant.
	demands := [2]ratelimit.Demand{
		{Bucket: ratelimit.Bucket{Kind: ratelimit.KindCredential, ID: credential(p)}, Rate: own},
		{Bucket: ratelimit.Bucket{Kind: ratelimit.KindTenant, ID: p.Tenant}, Rate: plan.Tenant},
	}
	if refused {
		demands[0].Bucket.ID = uuid.NewSHA1(demands[0].Bucket.ID, []byte("refused at the door"))
		if own.PerMinute == 0 {
			demands[0].Rate = plan.Tenant
		}
		demands[1].Rate = ratelimit.Rate{}
	}
	d, err := c.s.limiter.Take(ctx, demands[:]...)
	if err != nil {
		return err
	}
	h := c.gin.Writer.Header()
	h["X-Ratelimit-Limit"] = []string{strconv.Itoa(d.Limit)}
	h["X-Ratelimit-Remaining"] = []string{strconv.Itoa(d.Remaining)}
	h["X-Ratelimit-Reset"] = []string{strconv.FormatInt(c.start.Add(d.Reset+time.Second-1).Unix(), 10)}
	if d.Allowed {
		return nil
	}
	c.s.limited.Add(string(d.Kind))
	of := "credential"
	if d.Kind == ratelimit.KindTenant {
		of = "tenant"
	}
	f := fault.New(fault.RateLimited, fmt.Sprintf("too many requests of this %s: try again in %d s", of, (d.RetryAfter+time.Second-1)/time.Second))
	f.After = d.RetryAfter
	return f
}

// credential is what a principal's requests are counted under: the id of an API key, else a name-based UUID (RFC 9562 section 5.5).
func credential(p *auth.Principal) uuid.UUID {
	if _, text, ok := strings.Cut(p.ID, ":"); ok && len(text) == 36 {
		if id, err := uuid.Parse(text); err == nil {
			return id
		}
	}
	return uuid.NewSHA1(p.Tenant, []byte(p.ID))
}
