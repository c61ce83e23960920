package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/api/wire"
)

type apiKeysCmd struct {
	Create apiKeysCreateCmd `cmd:"" help:"Create an API key. It is shown once."`
	List   apiKeysListCmd   `cmd:"" help:"List API keys."`
	Show   apiKeysShowCmd   `cmd:"" help:"Show an API key, without its secret."`
	Rotate apiKeysRotateCmd `cmd:"" help:"Give an API key a new secret. It is shown once."`
	Revoke apiKeysRevokeCmd `cmd:"" help:"Revoke an API key at once."`
}

type apiKeysCreateCmd struct {
	Name      string            `arg:"" help:"What it is for."`
	Role      string            `placeholder:"ROLE" help:"A named set of scopes: owner, admin, developer, viewer, operator, auditor or backup."`
	Scope     []string          `short:"s" help:"What it may do, as in keys:read, keys:write, encryption:write, or the coarse read and write. Repeatable."`
	Key       []string          `name:"for-key" placeholder:"KEY" help:"Only this key, by id or name. Repeatable."`
	Label     map[string]string `name:"for-label" placeholder:"NAME=VALUE" help:"Only keys with this label. Repeatable: with all of them."`
	Operation []string          `placeholder:"NAME" help:"Only this operation, as the audit log names it. Repeatable."`
	CIDR      []string          `name:"allow" placeholder:"CIDR" help:"Only from these addresses. Repeatable."`
	RateLimit int               `placeholder:"N" help:"At most so many requests a minute."`
	ExpiresIn time.Duration     `placeholder:"DURATION" help:"When it ends, from now, as in 720h."`
	ExpiresAt time.Time         `placeholder:"TIME" help:"When it ends (RFC 3339)."`
	Brand     string            `placeholder:"NAME" help:"How it begins, for clients that insist: kw, qph, qapi or qh."`
	sink
}

func (k apiKeysCreateCmd) Run(ctx context.Context, a *app) error {
	r := wire.CreateAPIKey{Name: k.Name, Role: k.Role, Scopes: k.Scope, Brand: k.Brand, Keys: k.Key, Labels: k.Label, Operations: k.Operation,
		AllowedCIDRs: k.CIDR, RateLimit: k.RateLimit}
	switch {
	case k.Role == "" && len(k.Scope) == 0:
		return usage("give --role or --scope")
	case k.ExpiresIn != 0 && !k.ExpiresAt.IsZero():
		return usage("give --expires-in or --expires-at, not both")
	case k.ExpiresIn < 0:
		return usage("--expires-in must be positive")
	case k.ExpiresIn != 0:
		t := time.Now().Add(k.ExpiresIn).UTC().Truncate(time.Second)
		r.ExpiresAt = &t
	case !k.ExpiresAt.IsZero():
		t := k.ExpiresAt.UTC()
		r.ExpiresAt = &t
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.newAPIKey(k.sink, func() (*wire.APIKey, error) { return c.CreateAPIKey(ctx, r) })
}

// newAPIKey makes a secret of an API key, and shows the key the one time that it is at hand, or saves it.
func (a *app) newAPIKey(out sink, run func() (*wire.APIKey, error)) error {
	var v *wire.APIKey
	err := out.once(func() (secret string, err error) {
		if v, err = run(); err != nil {
			return "", err
		}
		return v.Key, nil
	}, func() string {
		return "the API key " + v.ID + " has a new secret that was not saved; rotate or revoke it"
	})
	if err != nil {
		return err
	}
	if out.Out != "" {
		v.Key = ""
	}
	return a.showAPIKey(v, out.Out)
}

func (a *app) showAPIKey(v *wire.APIKey, savedTo string) error {
	return a.show(v, func() error {
		limit := ""
		if v.RateLimit > 0 {
			limit = strconv.Itoa(v.RateLimit) + " a minute"
		}
		return a.fields("id", v.ID, "name", printable(v.Name), "prefix", v.Prefix, "role", v.Role, "scopes", strings.Join(v.Scopes, ", "),
			"only keys", strings.Join(v.Keys, ", "), "only labels", printable(labels(v.Labels)), "only operations", strings.Join(v.Operations, ", "),
			"only from", strings.Join(v.AllowedCIDRs, ", "), "rate limit", limit, "created", when(v.CreatedAt), "created by", v.CreatedBy,
			"expires", whenSet(v.ExpiresAt), "rotated", whenSet(v.RotatedAt), "old secret until", whenSet(v.PreviousUntil),
			"revoked", whenSet(v.RevokedAt), "key", v.Key, "saved to", savedTo)
	})
}

type apiKeysShowCmd struct {
	ID string `arg:"" help:"Id of the API key."`
}

func (k apiKeysShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.APIKey(ctx, k.ID)
	if err != nil {
		return err
	}
	return a.showAPIKey(v, "")
}

type apiKeysRotateCmd struct {
	ID      string        `arg:"" help:"Id of the API key."`
	Overlap time.Duration `placeholder:"DURATION" help:"For how long the old secret stays good, as in 24h. Else it ends at once."`
	sink
}

func (k apiKeysRotateCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.newAPIKey(k.sink, func() (*wire.APIKey, error) { return c.RotateAPIKey(ctx, k.ID, k.Overlap) })
}

type apiKeysListCmd struct{}

func (apiKeysListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.APIKeys(ctx), []string{"ID", "NAME", "PREFIX", "RIGHTS", "LIMITS", "CREATED", "EXPIRES", "REVOKED"}, func(k wire.APIKey) []string {
		rights := strings.Join(k.Scopes, ",")
		if k.Role != "" {
			rights = "role " + k.Role
		}
		return []string{k.ID, printable(k.Name), k.Prefix, rights, limitsOf(&k), when(k.CreatedAt), whenSet(k.ExpiresAt), whenSet(k.RevokedAt)}
	})
}

// limitsOf says in a few words what narrows an API key; "api-keys show" says it whole.
func limitsOf(k *wire.APIKey) string {
	var by []string
	for _, limit := range []struct {
		n    int
		what string
	}{{len(k.Keys), "keys"}, {len(k.Labels), "labels"}, {len(k.Operations), "operations"}, {len(k.AllowedCIDRs), "addresses"}} {
		if limit.n > 0 {
			by = append(by, limit.what)
		}
	}
	if k.RateLimit > 0 {
		by = append(by, strconv.Itoa(k.RateLimit)+"/min")
	}
	return strings.Join(by, ",")
}

type apiKeysRevokeCmd struct {
	ID string `arg:"" help:"Id of the API key."`
}

func (k apiKeysRevokeCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.RevokeAPIKey(ctx, k.ID)
	if err != nil {
		return err
	}
	return a.show(v, func() error { return a.printf("revoked %s\n", k.ID) })
}

type whoamiCmd struct{}

func (whoamiCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	m, err := c.Me(ctx)
	if err != nil {
		return err
	}
	return a.show(m, func() error {
		return a.fields("id", m.ID, "name", printable(m.Name), "tenant", m.Tenant, "tenant name", printable(m.TenantName), "role", m.Role, "scopes", strings.Join(m.Scopes, ", "),
			"only keys", strings.Join(m.Keys, ", "), "only labels", printable(labels(m.Labels)), "only operations", strings.Join(m.Operations, ", "),
			"only from", strings.Join(m.AllowedCIDRs, ", "), "expires", whenSet(m.ExpiresAt))
	})
}

type backendsCmd struct {
	List backendsListCmd `cmd:"" help:"List the backends of the node."`
	Show backendsShowCmd `cmd:"" help:"Show what a backend can do."`

	KEKs      backendsKEKsCmd      `cmd:"" name:"keks" help:"List the keys of a device over the keys of a backend."`
	RotateKEK backendsRotateKEKCmd `cmd:"" name:"rotate-kek" help:"Make the next key over keys on a device, and have everything of the backend sealed anew."`
	RetireKEK backendsRetireKEKCmd `cmd:"" name:"retire-kek" help:"Destroy an earlier key over keys on a device, under which nothing is any more."`
}

type backendsListCmd struct{}

func (backendsListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Backends(ctx), []string{"NAME", "KIND", "STATE", "CUSTODY", "DEFAULT"}, func(b wire.Backend) []string {
		isDefault := ""
		if b.Default {
			isDefault = "default"
		}
		return []string{b.Name, b.Kind, b.State, strings.Join(b.Custody, ","), isDefault}
	})
}

type backendsShowCmd struct {
	Name string `arg:"" help:"Name of the backend."`
}

func (k backendsShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := c.Backend(ctx, k.Name)
	if err != nil {
		return err
	}
	return a.show(b, func() error {
		if err := a.fields("name", b.Name, "kind", b.Kind, "id", b.ID, "state", a.state(b.State), "custody", strings.Join(b.Custody, ", "), "custody caveat", printable(b.CustodyCaveat)); err != nil {
			return err
		}
		for _, m := range b.Members {
			line := m.State
			if m.Weight == 0 {
				line += ", stands by"
			}
			if m.Reason != "" {
				line += ": " + m.Reason
			}
			if err := a.printf("member: %s: %s\n", printable(m.Name), printable(line)); err != nil {
				return err
			}
		}
		for _, q := range b.Quirks { // sentences, one each
			if err := a.printf("quirk: %s\n", printable(q)); err != nil {
				return err
			}
		}
		if err := a.printf("\n"); err != nil {
			return err
		}
		rows := func(yield func(wire.Capability, error) bool) {
			for _, c := range b.Capabilities {
				if !yield(c, nil) {
					return
				}
			}
		}
		return list(a, rows, []string{"ALGORITHM", "CUSTODY", "OPERATIONS", "IMPORT", "STANDARD"}, func(c wire.Capability) []string {
			imports := "no"
			if c.Import {
				imports = "yes"
			}
			return []string{c.Algorithm, c.Custody, strings.Join(c.Operations, ","), imports, c.Standard}
		})
	})
}
