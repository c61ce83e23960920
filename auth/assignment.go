package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Kinds of principals whom the configuration knows, and no store.
const (
	KindCertificate Kind = "certificate" // of a client, by TLS
	KindPeer        Kind = "peer"        // a process at the other end of a Unix socket
)

// Assignment is what the configuration gives whoever a rule of it matches: a tenant, and a role or scopes in it, or both. It is the operator's, so that
// it may hold any scope. Values are shared and immutable.
type Assignment struct {
	Name   string  // for people; "": what was matched
	Tenant string  // by id or name; "": DefaultTenantName
	Role   Role    // RoleNone: none
	Scopes []Scope // beside those of the role
}

// maxAssignment bounds the texts of a rule, in bytes.
const maxAssignment = 256

// Check refuses what gives nothing, and what there is not.
func (a *Assignment) Check() error {
	switch {
	case len(a.Name) > maxAssignment || len(a.Tenant) > maxAssignment:
		return fmt.Errorf("a name has at most %d bytes", maxAssignment)
	case !a.Role.valid():
		return errors.New("there is no such role")
	case a.Role == RoleNone && len(a.Scopes) == 0:
		return errors.New("it gives nothing: name a role, or scopes")
	}
	for i, s := range a.Scopes {
		if _, ok := s.bit(); !ok || slices.Contains(a.Scopes[:i], s) {
			return fmt.Errorf("scope %d is none, or is there twice", i+1)
		}
	}
	return nil
}

// Connection is what the transport has proven of a caller who presents nothing else.
type Connection struct {
	Chain   []*x509.Certificate // verified by TLS, the client's own first; empty: there is none
	Peer    *Peer               // nil: not on a Unix socket
	Address netip.Addr          // not valid: nobody knows
}

// AuthenticateConnection says who is at the other end of a connection, by the first rule of the configuration that matches. It promises what
// Authenticate does. Where no rule matches, or the tenant that it names is not there, the answer is fault.Unauthenticated.
//
// What was matched within the last Recheck costs one SHA-256 of the certificate and one look into memory.
func (s *Service) AuthenticateConnection(ctx context.Context, c *Connection) (*Principal, Decision, error) {
	var p *Principal
	err := error(errUnauthenticated)
	switch {
	case len(c.Chain) > 0 && len(s.certificates) > 0:
		p, err = s.byCertificate(ctx, c.Chain)
	case c.Peer != nil && len(s.peers) > 0:
		p, err = s.byPeer(ctx, *c.Peer)
	}
	if err != nil {
		return nil, Decision{}, err
	}
	d := Decide(&Request{Principal: p, Now: s.now(), Door: true, Address: c.Address})
	return p, d, d.Err()
}

// believed gives the principal of what has a digest, if it can be believed without a look into the store; else nil. The cache is that of API keys: what
// is told of tenants holds for both, and a digest of one is no MAC of the other.
func (s *Service) believed(m *mac) *Principal {
	generation := s.cache.generation.Load()
	e := s.cache.get(m)
	if e == nil || e.expired(s.now()) {
		return nil
	}
	if s.fresh != nil {
		if s.fresh() && s.cache.generation.Load() == generation {
			return e.principal
		}
		return nil
	}
	if age := s.now().Sub(e.confirmed); age >= 0 && age < Recheck {
		return e.principal
	}
	return nil
}

// settle gives the principal what its assignment says and its tenant is, and remembers it, until a time (zero: while it is confirmed).
func (s *Service) settle(ctx context.Context, m *mac, a *Assignment, until time.Time, p Principal) (*Principal, error) {
	for {
		generation, confirmed := s.cache.generation.Load(), s.now()
		if err := s.assign(ctx, a, &p); err != nil {
			return nil, err
		}
		p.Grants = nil
		if err := s.granted(ctx, &p); err != nil {
			return nil, err
		}
		holder, _ := GrantHolder(p.Tenant, p.ID)
		if s.cache.keep(m, &entry{principal: &p, id: holder, confirmed: confirmed, expires: until}, generation) {
			return &p, nil
		}
		if ctx.Err() != nil {
			return nil, fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", ctx.Err())
		}
	}
}

// assign gives a principal what its assignment says and its tenant is.
func (s *Service) assign(ctx context.Context, a *Assignment, p *Principal) error {
	p.assigned(a)
	t, err := s.named(ctx, a.Tenant)
	switch {
	case fault.Has(err, fault.TenantNotFound):
		return errUnauthenticated
	case err != nil && ctx.Err() != nil:
		return fault.Wrap(fault.Timeout, "the deadline passed before the credential was checked", err)
	case err != nil:
		return fmt.Errorf("reading a tenant: %w", err)
	}
	p.Tenant, p.TenantName, p.Plan, p.Suspended, p.Security = t.ID, t.Name, t.Plan, t.Status != TenantActive, t.Security.shared()
	return nil
}

// keep remembers an entry, unless something was revoked since the generation: then what was read may be old.
func (c *cache) keep(m *mac, e *entry, generation uint64) bool {
	s := c.of(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.generation.Load() != generation {
		return false
	}
	s.put(m, e)
	return true
}

// named finds a tenant by id or name. What a name meant before is tried first.
func (s *Service) named(ctx context.Context, name string) (*Tenant, error) {
	if id, err := uuid.Parse(name); err == nil && len(name) == 36 {
		return s.store.Tenant(ctx, id)
	}
	if name == "" {
		name = DefaultTenantName
	}
	if id, ok := s.tenantIDs.Load(name); ok {
		t, err := s.store.Tenant(ctx, id.(uuid.UUID)) // nothing else is stored there
		if err == nil && t.Name == name {
			return t, nil
		}
		if err != nil && !fault.Has(err, fault.TenantNotFound) {
			return nil, err
		}
	}
	const page = 200
	for after := uuid.Nil; ; {
		list, err := s.store.Tenants(ctx, after, page)
		if err != nil {
			return nil, err
		}
		for _, t := range list {
			if t.Name == name {
				s.tenantIDs.Store(name, t.ID) // as many names as the configuration has
				return t, nil
			}
			after = t.ID
		}
		if len(list) < page {
			return nil, fault.New(fault.TenantNotFound, "no such tenant")
		}
	}
}

// earliest gives the end of the first of the certificates to expire.
func earliest(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}
