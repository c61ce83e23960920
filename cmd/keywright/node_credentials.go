package main

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/transport"
)

// credentialsConfig maps callers who present no API key. The first rule of a list that matches is taken. Default: there are none.
type credentialsConfig struct {
	Certificates []certificateConfig `koanf:"certificates"` // needs tls.client_auth
	Peers        []peerConfig        `koanf:"peers"`        // of Unix sockets

	certificates []auth.CertificateRule
	peers        []auth.PeerRule
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
	k.certificates, k.peers = nil, nil
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
	return nil
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
