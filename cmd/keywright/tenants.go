package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/keywright/keywright/api/wire"
)

type tenantsCmd struct {
	Create  tenantsCreateCmd  `cmd:"" help:"Create a tenant and its owner's API key, which is shown once."`
	List    tenantsListCmd    `cmd:"" help:"List tenants."`
	Show    tenantsShowCmd    `cmd:"" help:"Show a tenant."`
	Usage   tenantsUsageCmd   `cmd:"" help:"Show what a tenant has of its quotas, and has done today of what its plan allows."`
	Update  tenantsUpdateCmd  `cmd:"" help:"Rename a tenant, or change its quotas or its plan."`
	Suspend tenantsSuspendCmd `cmd:"" help:"Refuse every credential of a tenant; nothing of it is lost."`
	Resume  tenantsResumeCmd  `cmd:"" help:"End a suspension."`
	Recover tenantsRecoverCmd `cmd:"" help:"Give a tenant that has lost its owner's API key another one; the tenant sees it in its log."`
}

type tenantsCreateCmd struct {
	Name       string `arg:"" help:"Its name."`
	MaxKeys    int64  `placeholder:"N" help:"How many keys it can have; 0: as many as it likes."`
	MaxAPIKeys int64  `name:"max-api-keys" placeholder:"N" help:"How many API keys it can have; 0: as many as it likes."`
	Plan       string `help:"The plan of its rate limits, as the configuration names it."`
	sink
}

func (k tenantsCreateCmd) Run(ctx context.Context, a *app) error {
	r := wire.CreateTenant{Name: k.Name, Plan: k.Plan}
	if k.MaxKeys != 0 || k.MaxAPIKeys != 0 {
		r.Quotas = &wire.Quotas{Keys: k.MaxKeys, APIKeys: k.MaxAPIKeys}
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	var v *wire.CreatedTenant
	err = k.once(func() (secret string, err error) {
		if v, err = c.CreateTenant(ctx, r); err != nil {
			return "", err
		}
		return v.OwnerKey.Key, nil
	}, func() string {
		return "the tenant " + v.ID + " was made but its owner's API key was not saved; tenants recover gives another"
	})
	if err != nil {
		return err
	}
	if k.Out != "" {
		v.OwnerKey.Key = ""
	}
	return a.show(v, func() error {
		return a.fields("id", v.ID, "name", printable(v.Name), "status", v.Status, "owner key id", v.OwnerKey.ID, "owner key", v.OwnerKey.Key, "saved to", k.Out)
	})
}

type tenantsListCmd struct{}

func (tenantsListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Tenants(ctx), []string{"ID", "NAME", "STATUS", "MAX KEYS", "MAX API KEYS", "PLAN", "CREATED"}, func(t wire.Tenant) []string {
		return []string{t.ID, printable(t.Name), t.Status, quota(t.Quotas.Keys), quota(t.Quotas.APIKeys), printable(t.Plan), when(t.CreatedAt)}
	})
}

func quota(n int64) string {
	if n == 0 {
		return "none"
	}
	return strconv.FormatInt(n, 10)
}

// tenantArg names a tenant.
type tenantArg struct {
	ID string `arg:"" help:"Id of the tenant."`
}

func (a *app) showTenant(t *wire.Tenant, err error) error {
	if err != nil {
		return err
	}
	return a.show(t, func() error {
		return a.fields("id", t.ID, "name", printable(t.Name), "status", t.Status, "max keys", quota(t.Quotas.Keys), "max api keys", quota(t.Quotas.APIKeys), "plan", printable(t.Plan),
			"created", when(t.CreatedAt), "updated", when(t.UpdatedAt))
	})
}

type tenantsShowCmd struct{ tenantArg }

func (k tenantsShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showTenant(c.Tenant(ctx, k.ID))
}

type tenantsUsageCmd struct {
	ID string `arg:"" optional:"" help:"Id of the tenant. Default: the own one."`
}

func (k tenantsUsageCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if k.ID == "" {
		me, err := c.Me(ctx)
		if err != nil {
			return err
		}
		k.ID = me.Tenant
	}
	u, err := c.Usage(ctx, k.ID)
	if err != nil {
		return err
	}
	return a.show(u, func() error {
		today := "" // nobody counts them without a limit
		if u.OperationsToday.Limit > 0 {
			today = amount(u.OperationsToday) + ", until " + when(u.DayEndsAt)
		}
		return a.fields("tenant", u.Tenant, "plan", printable(u.Plan), "keys", amount(u.Keys), "api keys", amount(u.APIKeys), "operations today", today)
	})
}

func amount(v wire.Amount) string {
	if v.Limit == 0 {
		return strconv.FormatInt(v.Used, 10)
	}
	return fmt.Sprintf("%d of %d", v.Used, v.Limit)
}

type tenantsUpdateCmd struct {
	tenantArg
	Name       *string `placeholder:"NAME" help:"Its new name."`
	MaxKeys    *int64  `placeholder:"N" help:"How many keys it can have; 0: as many as it likes."`
	MaxAPIKeys *int64  `name:"max-api-keys" placeholder:"N" help:"How many API keys it can have; 0: as many as it likes."`
	Plan       *string `placeholder:"NAME" help:"The plan of its rate limits, as the configuration names it; empty: the default one."`
}

func (k tenantsUpdateCmd) Run(ctx context.Context, a *app) error {
	r := wire.UpdateTenant{Name: k.Name, Plan: k.Plan}
	if k.MaxKeys != nil || k.MaxAPIKeys != nil {
		r.Quotas = &wire.UpdateQuotas{Keys: k.MaxKeys, APIKeys: k.MaxAPIKeys}
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showTenant(c.UpdateTenant(ctx, k.ID, r))
}

type tenantsRecoverCmd struct {
	tenantArg
	Name string `help:"Name of the API key, for people."`
	sink
}

func (k tenantsRecoverCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.newAPIKey(k.sink, func() (*wire.APIKey, error) { return c.RecoverTenant(ctx, k.ID, k.Name) })
}

type tenantsSuspendCmd struct{ tenantArg }

func (k tenantsSuspendCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showTenant(c.SuspendTenant(ctx, k.ID))
}

type tenantsResumeCmd struct{ tenantArg }

func (k tenantsResumeCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showTenant(c.ResumeTenant(ctx, k.ID))
}
