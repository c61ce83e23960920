package main

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/auth/oidc"
	"github.com/keywright/keywright/transport"
)

// credentialsConfig maps callers who present no API key. The first rule of a list that matches is taken. Default: there are none.
type credentialsConfig struct {
	Certificates []certificateConfig `koanf:"certificates"` // needs tls.client_auth
	Peers        []peerConfig        `koanf:"peers"`        // of Unix sockets
	Issuers      []issuerConfig      `koanf:"issuers"`      // of tokens (OpenID Connect, JWT)

	certificates []auth.CertificateRule
	peers        []auth.PeerRule
	issuers      []oidc.Issuer
}

// certificateConfig has one of the patterns, and what its holder is given: a role, or scopes, or both.
type certificateConfig struct {
	SPIFFEID string   `koanf:"spiffe_id"` // exact, or ending in /* for all below
	Subject  string   `koanf:"subject"`   // as openssl x509 -nameopt RFC2253 shows it
	DNS      string   `koanf:"dns"`       // one of the subject's alternative names, as the two that follow; exact
	Email    string   `koanf:"email"`
	URI      string   `koanf:"uri"`
	Name     string   `koanf:"name"`   // for people. Default: what was matched.
	Tenant   string   `koanf:"tenant"` // by id or name. Default: default.
	Role     string   `koanf:"role"`
	Scopes   []string `koanf:"scopes"`
}

// peerConfig names a user or a group, by number or name, and what a process of it is given. The group is the one that the process runs under.
type peerConfig struct {
	UID    *uint32  `koanf:"uid"`
	GID    *uint32  `koanf:"gid"`
	User   string   `koanf:"user"`
	Group  string   `koanf:"group"`
	Name   string   `koanf:"name"`
	Tenant string   `koanf:"tenant"`
	Role   string   `koanf:"role"`
	Scopes []string `koanf:"scopes"`
}

// issuerConfig is whose tokens are taken: JSON Web Tokens in Authorization: Bearer.
type issuerConfig struct {
	Issuer     string          `koanf:"issuer"`     // the claim iss, exactly; an https URL
	Audience   []string        `koanf:"audience"`   // one of which the claim aud is to have
	JWKSURL    string          `koanf:"jwks_url"`   // Default: by discovery.
	Algorithms []string        `koanf:"algorithms"` // Default: RS256, ES256, EdDSA.
	Mappings   []mappingConfig `koanf:"mappings"`   // the first of which all claims are there
	CAFile     string          `koanf:"ca_file"`    // PEM certificates that the issuer's own is to chain to. Default: the system's.

	// What follows lets people sign in with a browser, by the authorization code flow.
	Name             string   `koanf:"name"`               // by which browsers ask for the issuer
	ClientID         string   `koanf:"client_id"`          // as the issuer has registered the service
	ClientSecretFile string   `koanf:"client_secret_file"` // its first line; readable by its owner alone. Default: a public client.
	RedirectURL      string   `koanf:"redirect_url"`       // https://SERVICE/api/v1/session/callback, or the same with ?issuer=NAME, as the issuer has registered it
	Scopes           []string `koanf:"scopes"`             // beside openid
}

// mappingConfig is what a token is good for that has all these claims.
type mappingConfig struct {
	Claims map[string]string `koanf:"claims"` // by name, or by JSON pointer as in /realm_access/roles
	Name   string            `koanf:"name"`   // for people. Default: the claim sub.
	Tenant string            `koanf:"tenant"`
	Role   string            `koanf:"role"`
	Scopes []string          `koanf:"scopes"`
}

func assignment(name, tenant, role string, scopes []string) auth.Assignment {
	a := auth.Assignment{Name: name, Tenant: tenant, Role: auth.Role(role)}
	for _, s := range scopes {
		a.Scopes = append(a.Scopes, auth.Scope(s))
	}
	return a
}

// completeCredentials makes the rules, and refuses those that can never match.
func (c *config) completeCredentials() error {
	k := &c.Credentials
	k.certificates, k.peers, k.issuers = nil, nil, nil
	for i, r := range k.Certificates {
		where := fmt.Sprintf("credentials.certificates[%d]", i)
		if auth := transport.ClientAuth(c.TLS.ClientAuth); auth != transport.ClientOptional && auth != transport.ClientRequired {
			return at(where, errors.New("client certificates are not asked for: tls.client_auth is to be optional or required"))
		}
		rule := auth.CertificateRule{SPIFFEID: r.SPIFFEID, Subject: r.Subject, DNS: r.DNS, Email: r.Email, URI: r.URI,
			Assignment: assignment(r.Name, r.Tenant, r.Role, r.Scopes)}
		if err := rule.Check(); err != nil {
			return at(where, err)
		}
		k.certificates = append(k.certificates, rule)
	}
	for i, r := range k.Peers {
		where := fmt.Sprintf("credentials.peers[%d]", i)
		rule := auth.PeerRule{UID: r.UID, GID: r.GID, Assignment: assignment(r.Name, r.Tenant, r.Role, r.Scopes)}
		if err := errors.Join(lookUp(&rule.UID, r.User, userID), lookUp(&rule.GID, r.Group, groupID)); err != nil {
			return at(where, err)
		}
		if err := rule.Check(); err != nil {
			return at(where, err)
		}
		k.peers = append(k.peers, rule)
	}
	for _, i := range k.Issuers {
		one := oidc.Issuer{Issuer: i.Issuer, Audience: i.Audience, JWKSURL: i.JWKSURL, Algorithms: i.Algorithms, Login: i.login()}
		for _, m := range i.Mappings {
			one.Mappings = append(one.Mappings, oidc.Mapping{Claims: m.Claims, Assignment: assignment(m.Name, m.Tenant, m.Role, m.Scopes)})
		}
		k.issuers = append(k.issuers, one)
	}
	_, err := oidc.New(k.issuers, oidc.Options{})
	return at("credentials.issuers", err)
}

// lookUp puts the number of a name where no number stands.
func lookUp(into **uint32, name string, number func(string) (string, error)) error {
	if name == "" {
		return nil
	}
	if *into != nil {
		return errors.New("a user or group is given by number or by name")
	}
	text, err := number(name)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return fmt.Errorf("the number of a user or group: %w", err)
	}
	id := uint32(n)
	*into = &id
	return nil
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}
