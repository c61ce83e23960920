package ratelimit

// Plan is what a tenant's requests are held to: all of them together, and those of one credential that has no rate of its own.
type Plan struct {
	Tenant     Rate
	Credential Rate
	// OperationsPerDay is how many operations with keys the tenant may carry out from midnight to midnight, UTC; 0: any number. The key service counts them.
	OperationsPerDay int64
}

// DefaultPlan is another name of the plan of tenants without one.
const DefaultPlan = "default"

// Plans are the plans of a deployment by name. The one named "" is for tenants without a plan, and for those whose plan is not there any
// more; where it is missing those have no limit.
type Plans map[string]Plan

// Has reports whether there is a plan of the name.
func (p Plans) Has(name string) bool {
	_, ok := p[name]
	return ok
}

// Of gives the plan of the name.
func (p Plans) Of(name string) Plan {
	if plan, ok := p[name]; ok {
		return plan
	}
	return p[""]
}
