package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

type sessionCmd struct {
	Login  sessionLoginCmd  `cmd:"" help:"Exchange a token, a client certificate or the user of a Unix socket for a session, which the file of --session-file keeps."`
	Show   sessionShowCmd   `cmd:"" help:"Show the session of the file."`
	Logout sessionLogoutCmd `cmd:"" help:"End the session of the file, and remove the file."`
	List   sessionListCmd   `cmd:"" help:"List the living sessions of the tenant."`
	End    sessionEndCmd    `cmd:"" help:"End a session of the tenant."`
}

// envSession names the file with the session.
const envSession = "KEYWRIGHT_SESSION_FILE"

// savedSession is the file with a session. It is readable by its owner alone.
type savedSession struct {
	Address string         `json:"address"` // of the service, and no other
	ID      string         `json:"id"`
	Expires time.Time      `json:"expires_at"`
	Session client.Session `json:"session"`
}

// errNoSessionFile is of a command that needs --session-file.
func errNoSessionFile() error { return usage("give --session-file FILE, or $%s", envSession) }

// savedSession reads the file of the session; nil: none is named.
func (a *app) savedSession() (*savedSession, error) {
	if a.SessionFile == "" {
		return nil, nil //nolint:nilnil // no session is no error
	}
	if err := ownerOnly(a.SessionFile); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no session in %s: `keywright session login` makes one", a.SessionFile)
		}
		return nil, err
	}
	b, err := readSmall(a.SessionFile, 16<<10)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	s := new(savedSession)
	if err := json.Unmarshal(b, s, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%s holds no session", a.SessionFile)
	}
	if s.Address != a.Address {
		return nil, fmt.Errorf("the session in %s is one of %s: --address names another service", a.SessionFile, printable(s.Address))
	}
	return s, nil
}

type sessionLoginCmd struct{}

func (sessionLoginCmd) Run(ctx context.Context, a *app) error {
	if a.SessionFile == "" {
		return errNoSessionFile()
	}
	key, err := a.apiKey()
	if err != nil {
		return err
	}
	c, err := a.newClient(key, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	v, session, err := c.OpenSession(ctx)
	if err != nil {
		return err
	}
	b, err := json.Marshal(savedSession{Address: a.Address, ID: v.ID, Expires: v.ExpiresAt, Session: *session})
	if err != nil {
		return err
	}
	defer clear(b)
	if err := replaceFile(a.SessionFile, append(b, '\n')); err != nil {
		return fmt.Errorf("the session %s was made but not saved; it ends by itself: %w", v.ID, err)
	}
	v.CSRFToken = ""
	return a.showSession(v, a.SessionFile)
}

func (a *app) showSession(v *wire.Session, savedTo string) error {
	return a.show(v, func() error {
		return a.fields("id", v.ID, "principal", printable(v.Principal), "name", printable(v.Name), "by", v.Kind, "role", v.Role, "scopes", strings.Join(v.Scopes, ", "),
			"tenant", v.Tenant, "tenant name", printable(v.TenantName), "created", when(v.CreatedAt), "last used", when(v.SeenAt), "ends unless used", when(v.IdleExpiresAt),
			"ends", when(v.ExpiresAt), "ended", whenSet(v.EndedAt), "saved to", savedTo)
	})
}

type sessionShowCmd struct{}

func (sessionShowCmd) Run(ctx context.Context, a *app) error {
	if a.SessionFile == "" {
		return errNoSessionFile()
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.OwnSession(ctx)
	if err != nil {
		return err
	}
	v.CSRFToken = ""
	return a.showSession(v, "")
}

type sessionLogoutCmd struct{}

// Run ends the session, and removes the file also when the session has ended already.
func (sessionLogoutCmd) Run(ctx context.Context, a *app) error {
	if a.SessionFile == "" {
		return errNoSessionFile()
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.CloseSession(ctx)
	var answer *client.Error
	if err != nil && (!errors.As(err, &answer) || answer.Status != http.StatusUnauthorized) {
		return err
	}
	if gone := os.Remove(a.SessionFile); gone != nil {
		return errors.Join(err, gone)
	}
	if err != nil {
		return err
	}
	return a.show(v, func() error { return a.printf("ended %s\n", v.ID) })
}

type sessionListCmd struct{}

func (sessionListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.Sessions(ctx), []string{"ID", "NAME", "BY", "ROLE", "CREATED", "LAST USED", "ENDS"}, func(v wire.Session) []string {
		return []string{v.ID, printable(v.Name), v.Kind, v.Role, when(v.CreatedAt), when(v.SeenAt), when(v.ExpiresAt)}
	})
}

type sessionEndCmd struct {
	ID string `arg:"" help:"Id of the session."`
}

func (k sessionEndCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.EndSession(ctx, k.ID)
	if err != nil {
		return err
	}
	return a.show(v, func() error { return a.printf("ended %s\n", v.ID) })
}

type settingsSecurityCmd struct {
	Show securityShowCmd `cmd:"" help:"Show what is settled."`
	Set  securitySetCmd  `cmd:"" help:"Settle it: in a session of an owner or admin (--session-file). What is not named stays."`
}

type securityShowCmd struct{}

func (securityShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showSecurity(c.SecuritySettings(ctx))
}

func (a *app) showSecurity(v *wire.SecuritySettings, err error) error {
	if err != nil {
		return err
	}
	return a.show(v, func() error {
		settled := func(s string) string {
			if s == "" {
				return "not settled"
			}
			return s
		}
		return a.fields("api key max lifetime", settled(v.APIKeyMaxLifetime), "allowed from", settled(strings.Join(v.AllowedCIDRs, ", ")),
			"session idle", settled(v.SessionIdle), "session lifetime", settled(v.SessionLifetime))
	})
}

type securitySetCmd struct {
	APIKeyMaxLifetime *time.Duration `name:"api-key-max-lifetime" placeholder:"DURATION" help:"Within which new API keys are to expire, as in 720h; 0s: not settled."`
	Allow             []string       `placeholder:"CIDR" help:"Where credentials of the tenant may be used. Repeatable; it takes the place of what is settled."`
	AllowAny          bool           `help:"They may be used from everywhere, as far as they themselves allow."`
	SessionIdle       *time.Duration `placeholder:"DURATION" help:"After how long without a request a session ends; 0s: as configured."`
	SessionLifetime   *time.Duration `placeholder:"DURATION" help:"After how long a session ends in any case; 0s: as configured."`
}

func (k securitySetCmd) Run(ctx context.Context, a *app) error {
	text := func(d *time.Duration) *string {
		if d == nil {
			return nil
		}
		s := d.String()
		return &s
	}
	r := wire.UpdateSecurity{APIKeyMaxLifetime: text(k.APIKeyMaxLifetime), SessionIdle: text(k.SessionIdle), SessionLifetime: text(k.SessionLifetime)}
	switch {
	case k.AllowAny && len(k.Allow) > 0:
		return usage("give --allow or --allow-any, not both")
	case k.AllowAny:
		r.AllowedCIDRs = &[]string{}
	case len(k.Allow) > 0:
		r.AllowedCIDRs = &k.Allow
	}
	if r == (wire.UpdateSecurity{}) {
		return usage("say what to settle")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	return a.showSecurity(c.UpdateSecurity(ctx, r))
}
