package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/ratelimit"
)

// planConfig is how often the requests of a tenant, and those of each of its credentials, may come. 0 is as often as they like.
type planConfig struct {
	Name string `koanf:"name"` // "default" is that of tenants without a plan
	// PerMinute and Burst are for the tenant as a whole: requests a minute, and how many at once after a rest. Default of Burst: PerMinute.
	PerMinute int `koanf:"per_minute"`
	Burst     int `koanf:"burst"`
	// CredentialPerMinute and CredentialBurst are for each credential that has no rate of its own.
	CredentialPerMinute int `koanf:"credential_per_minute"`
	CredentialBurst     int `koanf:"credential_burst"`
	// OperationsPerDay is how many operations with keys the tenant may carry out from midnight to midnight, UTC. Default: any number.
	OperationsPerDay int64 `koanf:"operations_per_day"`
}

// maxOperationsPerDay is more than a deployment can do on a day.
const maxOperationsPerDay = 1_000_000_000_000

// completePlans refuses what cannot be right.
func (c *config) completePlans() error {
	all := ratelimit.Plans{}
	for i, p := range c.Plans {
		where := fmt.Sprintf("plans[%d]", i)
		name := p.Name
		switch {
		case name == "" || len(name) > 64:
			return at(where+".name", errors.New("a plan needs a name of at most 64 bytes"))
		case name == ratelimit.DefaultPlan:
			name = ""
		}
		if all.Has(name) {
			return at(where+".name", errors.New("there is another plan of this name"))
		}
		plan := ratelimit.Plan{Tenant: ratelimit.Rate{PerMinute: p.PerMinute, Burst: p.Burst},
			Credential: ratelimit.Rate{PerMinute: p.CredentialPerMinute, Burst: p.CredentialBurst}}
		for _, r := range []ratelimit.Rate{plan.Tenant, plan.Credential} {
			if r.PerMinute < 0 || r.PerMinute > ratelimit.MaxPerMinute || r.Burst < 0 || r.Burst > ratelimit.MaxBurst || r.Burst > 0 && r.PerMinute == 0 {
				return at(where, fmt.Errorf("requests a minute are 0 to %d, and a burst needs such a rate", ratelimit.MaxPerMinute))
			}
		}
		if p.OperationsPerDay < 0 || p.OperationsPerDay > maxOperationsPerDay {
			return at(where+".operations_per_day", fmt.Errorf("operations a day are 0, for any number, to %d", int64(maxOperationsPerDay)))
		}
		plan.OperationsPerDay = p.OperationsPerDay
		all[name] = plan
	}
	c.plans = all
	return nil
}

// hasPlan reports whether a tenant can be given the plan.
func (n *node) hasPlan(name string) bool {
	return name == ratelimit.DefaultPlan || n.config.plans.Has(name)
}

// missedPlans says in the log which plans tenants have that the configuration has no more.
func (n *node) missedPlans(ctx context.Context) error {
	tenants := map[string]int{}
	for after := uuid.Nil; ; {
		const page = 1000
		list, err := n.store.Tenants(ctx, after, page)
		if err != nil {
			return err
		}
		for _, t := range list {
			if after = t.ID; t.Plan != "" && !n.hasPlan(t.Plan) {
				tenants[t.Plan]++
			}
		}
		if len(list) < page {
			break
		}
	}
	for name, count := range tenants {
		n.log.Warn("tenants have a plan that the configuration does not name: the default one is theirs until it does", "plan", name, "tenants", count)
	}
	return nil
}

// openLimiter makes the limiter: of this node alone, or shared with the others on the store.
func (n *node) openLimiter(registry prometheus.Registerer) (*ratelimit.Limiter, error) {
	o := ratelimit.Options{Registerer: registry}
	if n.shared {
		o.Store = n.store
	}
	return ratelimit.New(o)
}
