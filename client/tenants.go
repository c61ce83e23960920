package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"

	"github.com/keywright/keywright/api/wire"
)

// CreateTenant makes a tenant; the answer is the only time that the key of its OwnerKey is shown. Repeated under one Idempotency-Key.
func (c *Client) CreateTenant(ctx context.Context, r wire.CreateTenant) (*wire.CreatedTenant, error) {
	return do[wire.CreatedTenant](ctx, c, call{method: http.MethodPost, path: "/tenants", body: r, repeat: keyed})
}

// Tenants goes through all tenants, by id.
func (c *Client) Tenants(ctx context.Context) iter.Seq2[wire.Tenant, error] {
	return all(func(cursor string) (*wire.List[wire.Tenant], error) {
		return page[wire.Tenant](ctx, c, "/tenants", nil, cursor, 0)
	})
}

// Tenant shows a tenant by id.
func (c *Client) Tenant(ctx context.Context, id string) (*wire.Tenant, error) {
	return c.tenant(ctx, http.MethodGet, id, "", nil)
}

// Usage shows what a tenant has of its quotas, and has done today.
func (c *Client) Usage(ctx context.Context, id string) (*wire.Usage, error) {
	if id == "" {
		return nil, errors.New("client: no tenant is named")
	}
	return do[wire.Usage](ctx, c, call{method: http.MethodGet, path: "/tenants/" + url.PathEscape(id) + "/usage", repeat: idempotent})
}

// UpdateTenant changes what is set.
func (c *Client) UpdateTenant(ctx context.Context, id string, r wire.UpdateTenant) (*wire.Tenant, error) {
	return c.tenant(ctx, http.MethodPatch, id, "", r)
}

// RecoverTenant gives a tenant another owner's API key; the answer is the only time that it is shown. name is for people, "" for a name of the service's choice. Repeated
// under one Idempotency-Key.
func (c *Client) RecoverTenant(ctx context.Context, id, name string) (*wire.APIKey, error) {
	if id == "" {
		return nil, errors.New("client: no tenant is named")
	}
	return do[wire.APIKey](ctx, c, call{method: http.MethodPost, path: "/tenants/" + url.PathEscape(id) + "/recover", body: wire.RecoverTenant{Name: name}, repeat: keyed})
}

// SuspendTenant refuses every credential of a tenant until it is resumed.
func (c *Client) SuspendTenant(ctx context.Context, id string) (*wire.Tenant, error) {
	return c.tenant(ctx, http.MethodPost, id, "/suspend", nil)
}

// ResumeTenant ends a suspension.
func (c *Client) ResumeTenant(ctx context.Context, id string) (*wire.Tenant, error) {
	return c.tenant(ctx, http.MethodPost, id, "/resume", nil)
}

func (c *Client) tenant(ctx context.Context, method, id, act string, body any) (*wire.Tenant, error) {
	if id == "" {
		return nil, errors.New("client: no tenant is named")
	}
	return do[wire.Tenant](ctx, c, call{method: method, path: "/tenants/" + url.PathEscape(id) + act, body: body, repeat: idempotent})
}
