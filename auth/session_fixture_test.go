package auth

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
)

func errNoSession() error { return fault.New(fault.SessionNotFound, "no such session") }

func (m *memory) sessionWhere(match func(*Session) bool) (*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessionReads.Add(1)
	if m.down != nil {
		return nil, m.down
	}
	for _, x := range m.sessions {
		if match(x) {
			c := *x
			return &c, nil
		}
	}
	return nil, errNoSession()
}

func (m *memory) SessionByMAC(_ context.Context, mac [32]byte) (*Session, error) {
	return m.sessionWhere(func(x *Session) bool { return x.MAC == mac })
}

func (m *memory) Session(_ context.Context, tenant, id uuid.UUID) (*Session, error) {
	return m.sessionWhere(func(x *Session) bool { return x.Tenant == tenant && x.ID == id })
}

func (x *Session) lives(a Alive) bool {
	return x.EndedAt.IsZero() && x.ExpiresAt.After(a.At) && x.CreatedAt.After(a.Since) && x.SeenAt.After(a.Used)
}

func (m *memory) Sessions(_ context.Context, tenant, after uuid.UUID, alive Alive, limit int) (found []*Session, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.sessions {
		if x.Tenant == tenant && bytes.Compare(x.ID[:], after[:]) > 0 && x.lives(alive) {
			c := *x
			found = append(found, &c)
		}
	}
	slices.SortFunc(found, func(a, b *Session) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return found[:min(limit, len(found))], nil
}

func (m *memory) InsertSession(x *Session, b SessionBounds) audit.Change {
	c := *x
	return change(func(m *memory) error {
		if t := m.tenants[c.Tenant]; t != nil && t.Status != TenantActive {
			return fault.New(fault.TenantSuspended, "suspended")
		}
		own, all := 0, 0
		for _, other := range m.sessions {
			if other.Login != [32]byte{} && other.Login == c.Login || other.MAC == c.MAC {
				return fault.New(fault.Conflict, "taken")
			}
			if other.Tenant != c.Tenant || !other.lives(b.Alive) {
				continue
			}
			all++
			if other.Principal == c.Principal {
				own++
			}
		}
		if b.PerPrincipal > 0 && own >= b.PerPrincipal || b.PerTenant > 0 && all >= b.PerTenant {
			return fault.New(fault.QuotaExceeded, "too many")
		}
		m.sessions[c.ID] = &c
		return nil
	})
}

func (m *memory) EndSession(tenant, id uuid.UUID, at time.Time) audit.Change {
	return change(func(m *memory) error {
		x := m.sessions[id]
		if x == nil || x.Tenant != tenant {
			return errNoSession()
		}
		if x.EndedAt.IsZero() {
			c := *x
			c.EndedAt = at
			m.sessions[id] = &c
		}
		return nil
	})
}

func (m *memory) EndSessions(tenant uuid.UUID, at time.Time) audit.Change {
	return change(func(m *memory) error {
		for id, x := range m.sessions {
			if x.Tenant == tenant && x.EndedAt.IsZero() {
				c := *x
				c.EndedAt = at
				m.sessions[id] = &c
			}
		}
		return nil
	})
}

func (m *memory) TouchSession(_ context.Context, id uuid.UUID, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touches.Add(1)
	if m.down != nil {
		return m.down
	}
	if x := m.sessions[id]; x != nil && x.EndedAt.IsZero() && x.SeenAt.Before(at) {
		c := *x
		c.SeenAt = at
		m.sessions[id] = &c
	}
	return nil
}

func (m *memory) PruneSessions(_ context.Context, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, x := range m.sessions {
		if x.ExpiresAt.Before(before) {
			delete(m.sessions, id)
		}
	}
	return nil
}
