package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/auth/oidc"
	"github.com/keywright/keywright/secret"
)

// sessionsConfig bounds sessions. A tenant can settle shorter times for its own.
type sessionsConfig struct {
	Idle         time.Duration `koanf:"idle"`          // without a request, after which a session ends; at least 1m. Default 15m.
	Lifetime     time.Duration `koanf:"lifetime"`      // after which it ends in any case; at most 720h. Default 8h.
	PerPrincipal int           `koanf:"per_principal"` // that one principal can have at once. Default 16.
	PerTenant    int           `koanf:"per_tenant"`    // that one tenant can have at once. Default 1024.
	// AfterLogin is the path of the service's own origin where a browser goes that has signed in. Default /api/v1/session.
	AfterLogin string `koanf:"after_login"`
}

func (c *sessionsConfig) complete() error {
	switch {
	case c.Idle != 0 && (c.Idle < auth.MinSession || c.Idle > auth.MaxSessionLifetime):
		return at("sessions.idle", fmt.Errorf("it is %s to %s", auth.MinSession, auth.MaxSessionLifetime))
	case c.Lifetime != 0 && (c.Lifetime < auth.MinSession || c.Lifetime > auth.MaxSessionLifetime):
		return at("sessions.lifetime", fmt.Errorf("it is %s to %s", auth.MinSession, auth.MaxSessionLifetime))
	case c.PerPrincipal < 0 || c.PerPrincipal > 1000:
		return at("sessions.per_principal", errors.New("it is 1 to 1000"))
	case c.PerTenant < 0 || c.PerTenant > 100_000:
		return at("sessions.per_tenant", errors.New("it is 1 to 100000"))
	case c.AfterLogin != "":
		return at("sessions.after_login", ownPath(c.AfterLogin))
	}
	return nil
}

// ownPath wants a path of this origin, in no form that a browser takes for another's: //host, /\host.
func ownPath(path string) error {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") ||
		strings.ContainsFunc(path, func(c rune) bool {
			return c <= ' ' || c > '~' || c == '\\' || c == '"' || c == '<' || c == '>' || c == ';' || c == ',' || c == '\''
		}) {
		return errors.New("it is a path of the service's own origin, as in /console/")
	}
	return nil
}

func (c *sessionsConfig) rules() auth.SessionRules {
	return auth.SessionRules{Idle: c.Idle, Lifetime: c.Lifetime, PerPrincipal: c.PerPrincipal, PerTenant: c.PerTenant}
}

// login gives what the issuer needs for signing in; nil: it has nothing of it.
func (c *issuerConfig) login() *oidc.Login {
	if c.Name == "" && c.ClientID == "" && c.ClientSecretFile == "" && c.RedirectURL == "" && len(c.Scopes) == 0 {
		return nil
	}
	l := &oidc.Login{Name: c.Name, ClientID: c.ClientID, RedirectURL: c.RedirectURL, Scopes: c.Scopes}
	if path := c.ClientSecretFile; path != "" {
		l.Secret = func() (secret.Bytes, error) { return clientSecret(path) }
	}
	return l
}

// clientSecret reads the first line of a file that its owner alone can read.
func clientSecret(path string) (secret.Bytes, error) {
	if err := secretLine(path); err != nil {
		return nil, err
	}
	b, err := readSmall(path, 4096)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return secret.Bytes(bytes.Clone(bytes.TrimSuffix(line, []byte("\r")))), nil
}

// roots reads whose certificates the issuer's own is to chain to; nil: the system's.
func (c *issuerConfig) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil //nolint:nilnil // none of its own is no error
	}
	pem, err := readSmall(c.CAFile, 1<<20)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", c.CAFile)
	}
	return pool, nil
}

// inspectIssuers looks at the files of issuers.
func (c *config) inspectIssuers(f *findings) {
	for n := range c.Credentials.Issuers {
		i, in := &c.Credentials.Issuers[n], fmt.Sprintf("credentials.issuers[%d].", n)
		if i.CAFile != "" && regular(i.CAFile) == nil {
			_, err := i.roots()
			f.add(levelError, in+"ca_file", err)
		}
		if i.ClientSecretFile != "" && regular(i.ClientSecretFile) == nil {
			f.add(levelError, in+"client_secret_file", secretLine(i.ClientSecretFile))
		}
	}
}

// issuers checks the tokens of the configured issuers, and lets people sign in at those that say how; both nil when there are none.
func (n *node) issuers() (auth.TokenVerifier, auth.SignIn, error) {
	k := &n.config.Credentials
	if len(k.issuers) == 0 {
		return nil, nil, nil
	}
	for i := range k.issuers {
		roots, err := k.Issuers[i].roots()
		if err != nil {
			return nil, nil, at(fmt.Sprintf("credentials.issuers[%d].ca_file", i), err)
		}
		k.issuers[i].Roots = roots
	}
	v, err := oidc.New(k.issuers, oidc.Options{Log: n.log})
	if err != nil {
		return nil, nil, at("credentials.issuers", err)
	}
	if !v.SignsIn() {
		return v, nil, nil
	}
	return v, v, nil
}
