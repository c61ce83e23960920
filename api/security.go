package api

import (
	"context"
	"net/netip"
	"time"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
)

func wireSecurity(c *auth.Security, err error) (wire.SecuritySettings, error) {
	if err != nil {
		return wire.SecuritySettings{}, err
	}
	text := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return d.String()
	}
	return wire.SecuritySettings{APIKeyMaxLifetime: text(c.APIKeyMaxLifetime), AllowedCIDRs: ranges(c.CIDRs), SessionIdle: text(c.SessionIdle),
		SessionLifetime: text(c.SessionLifetime)}, nil
}

func (s *Server) showSecurity(ctx context.Context, c *call, _ *wire.Empty) (wire.SecuritySettings, error) {
	return wireSecurity(s.auth.Security(ctx, c.principal))
}

func (s *Server) setSecurity(ctx context.Context, c *call, r *wire.UpdateSecurity) (wire.SecuritySettings, error) {
	var u auth.SecurityUpdate
	for _, f := range []struct {
		name string
		text *string
		into **time.Duration
	}{
		{"api_key_max_lifetime", r.APIKeyMaxLifetime, &u.APIKeyMaxLifetime}, {"session_idle", r.SessionIdle, &u.SessionIdle},
		{"session_lifetime", r.SessionLifetime, &u.SessionLifetime},
	} {
		if f.text == nil {
			continue
		}
		d, err := time.ParseDuration(*f.text)
		if err != nil {
			return wire.SecuritySettings{}, badField("the field " + f.name + " must be a duration, as in 720h")
		}
		*f.into = &d
	}
	if r.AllowedCIDRs != nil {
		list := make([]netip.Prefix, 0, len(*r.AllowedCIDRs))
		for _, text := range *r.AllowedCIDRs {
			p, err := parseRange(text)
			if err != nil {
				return wire.SecuritySettings{}, badField("the field allowed_cidrs must hold ranges of addresses, as in 192.0.2.0/24 or 2001:db8::/32")
			}
			list = append(list, p)
		}
		u.CIDRs = &list
	}
	return wireSecurity(s.auth.SetSecurity(ctx, c.principal, u, c.address(), c.id))
}
