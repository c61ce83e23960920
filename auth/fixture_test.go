package auth

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/secret"
)

// memory is the stores and the Recorder that carries out their changes, as their contracts say, without durability: what
// is tested here is the Service. The real ones are tested in store/ and audit/.
type memory struct {
	mu       sync.Mutex
	keys     map[uuid.UUID]*APIKey
	records  map[string]*idempotency.Record
	tenants  map[uuid.UUID]*Tenant
	grants   []*Grant
	sessions map[uuid.UUID]*Session
	entries  []audit.Entry
	broken   error // what Record answers while it is set
	down     error // what reads answer while it is set

	lookups               atomic.Int64
	sessionReads, touches atomic.Int64
	hold                  chan struct{} // when set, a look-up has read and waits for it to close before it answers
	reading               chan struct{} // when set, gets a value from each look-up that waits
}

func newMemory() *memory {
	return &memory{keys: make(map[uuid.UUID]*APIKey), records: make(map[string]*idempotency.Record), tenants: make(map[uuid.UUID]*Tenant), sessions: make(map[uuid.UUID]*Session)}
}

type change func(*memory) error

func (change) StoreChange() {}

func (m *memory) APIKeyByPrefix(ctx context.Context, brand, prefix string) (*APIKey, error) {
	m.lookups.Add(1)
	m.mu.Lock()
	var found *APIKey
	for _, k := range m.keys {
		if k.Brand == brand && (k.Prefix == prefix || k.Previous.Prefix == prefix) {
			found = k
		}
	}
	down, hold, reading := m.down, m.hold, m.reading
	m.mu.Unlock()
	if hold != nil {
		reading <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if down != nil {
		return nil, down
	}
	if found == nil {
		return nil, fault.New(fault.APIKeyNotFound, "no such API key")
	}
	c := *found
	return &c, nil
}

func (m *memory) APIKey(_ context.Context, tenant, id uuid.UUID) (*APIKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	k := m.keys[id]
	if k == nil || k.Tenant != tenant {
		return nil, fault.New(fault.APIKeyNotFound, "no such API key")
	}
	c := *k
	return &c, nil
}

func (m *memory) APIKeys(_ context.Context, tenant, after uuid.UUID, limit int) (found []*APIKey, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	for _, k := range m.keys {
		if k.Tenant == tenant && bytes.Compare(k.ID[:], after[:]) > 0 {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b *APIKey) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return found[:min(limit, len(found))], nil
}

func (m *memory) InsertAPIKey(k *APIKey) audit.Change {
	c := *k
	return change(func(m *memory) error {
		for _, other := range m.keys {
			if other.Prefix == c.Prefix && other.Brand == c.Brand {
				return fault.New(fault.Conflict, "the prefix is taken")
			}
		}
		m.keys[c.ID] = &c
		return nil
	})
}

func (m *memory) RotateAPIKey(k *APIKey, old [32]byte) audit.Change {
	c := *k
	return change(func(m *memory) error {
		was := m.keys[c.ID]
		switch {
		case was == nil || was.Tenant != c.Tenant:
			return fault.New(fault.APIKeyNotFound, "no such API key")
		case was.MAC != old || !was.RevokedAt.IsZero():
			return fault.New(fault.Conflict, "somebody was faster")
		}
		m.keys[c.ID] = &c
		return nil
	})
}

func (m *memory) GrantsOf(_ context.Context, tenant uuid.UUID, principal string) (found []*Grant, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.grants {
		if g.Tenant == tenant && g.Principal == principal {
			found = append(found, g)
		}
	}
	return found, nil
}

func (m *memory) Tenant(_ context.Context, id uuid.UUID) (*Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	t := m.tenants[id]
	if t == nil {
		return nil, fault.New(fault.TenantNotFound, "no such tenant")
	}
	c := *t
	return &c, nil
}

func (m *memory) Tenants(_ context.Context, after uuid.UUID, limit int) (found []*Tenant, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tenants {
		if bytes.Compare(t.ID[:], after[:]) > 0 {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, func(a, b *Tenant) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return found[:min(limit, len(found))], nil
}

func (m *memory) Usage(context.Context, uuid.UUID, time.Time) (Usage, error) {
	return Usage{Keys: 1, APIKeys: 2, Operations: 3}, nil
}

func (m *memory) InsertTenant(t *Tenant) audit.Change {
	c := *t
	return change(func(m *memory) error {
		for _, other := range m.tenants {
			if other.Name == c.Name && other.ID != c.ID {
				return fault.New(fault.NameTaken, "the name is taken")
			}
		}
		if m.tenants[c.ID] != nil {
			return fault.New(fault.Conflict, "the tenant exists")
		}
		m.tenants[c.ID] = &c
		return nil
	})
}

func (m *memory) UpdateTenant(t *Tenant) audit.Change {
	c := *t
	return change(func(m *memory) error {
		if was := m.tenants[c.ID]; was == nil || was.Revision != c.Revision {
			return fault.New(fault.Conflict, "somebody was faster")
		}
		for _, other := range m.tenants {
			if other.Name == c.Name && other.ID != c.ID {
				return fault.New(fault.NameTaken, "the name is taken")
			}
		}
		c.Revision++
		m.tenants[c.ID] = &c
		return nil
	})
}

func (m *memory) RevokeAPIKey(tenant, id uuid.UUID, at time.Time) audit.Change {
	return change(func(m *memory) error {
		k := m.keys[id]
		if k == nil || k.Tenant != tenant {
			return fault.New(fault.APIKeyNotFound, "no such API key")
		}
		if k.RevokedAt.IsZero() {
			c := *k
			c.RevokedAt = at
			m.keys[id] = &c
		}
		return nil
	})
}

func (m *memory) Idempotency(_ context.Context, tenant uuid.UUID, key string, now time.Time) (*idempotency.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[tenant.String()+key]
	if r == nil || now.Sub(r.CreatedAt) > idempotency.TTL {
		return nil, nil
	}
	return r, nil
}

func (m *memory) InsertIdempotency(r *idempotency.Record) audit.Change {
	return change(func(m *memory) error {
		at := r.Tenant.String() + r.Key
		if m.records[at] != nil {
			return fault.New(fault.Conflict, "the token is taken")
		}
		m.records[at] = r
		return nil
	})
}

func (m *memory) PruneIdempotency(time.Time) audit.Change {
	return change(func(*memory) error { return nil })
}

// Record carries out all changes or none.
func (m *memory) Record(_ context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return 0, m.broken
	}
	keys, records, tenants, sessions := cloneMap(m.keys), cloneMap(m.records), cloneMap(m.tenants), cloneMap(m.sessions)
	for _, c := range changes {
		if err := c.(change)(m); err != nil {
			m.keys, m.records, m.tenants, m.sessions = keys, records, tenants, sessions
			return 0, err
		}
	}
	m.entries = append(m.entries, *e)
	return uint64(len(m.entries) - 1), nil
}

func cloneMap[K comparable, V any](in map[K]V) map[K]V {
	out := make(map[K]V, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

// log gives "action outcome detail" of every entry since the last call.
func (m *memory) log() (lines []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		line := e.Action + " " + e.Outcome
		if e.Detail != "" {
			line += " " + e.Detail
		}
		lines = append(lines, line)
	}
	m.entries = nil
	return lines
}

func (m *memory) set(f func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

// clock is a clock that the test moves.
type clock struct{ now atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.now.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) Now() time.Time        { return time.Unix(0, c.now.Load()) }
func (c *clock) move(by time.Duration) { c.now.Add(int64(by)) }

var tenant = uuid.MustParse("00000000-0000-4000-8000-000000000001")

// fixedRoot derives as an open root would: another key for another label.
func fixedRoot(label string) (secret.Bytes, error) {
	b := make(secret.Bytes, 32)
	copy(b, label[len(label)-min(32, len(label)):])
	return b, nil
}

type rig struct {
	*Service
	memory *memory
	clock  *clock
	owner  *Principal
	key    string // the owner's
	record *APIKey
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{memory: newMemory(), clock: newClock()}
	r.Service = New(r.memory, r.memory, Options{Derive: fixedRoot, Idempotency: r.memory, Now: r.clock.Now})
	var err error
	if r.record, r.key, err = r.Bootstrap(t.Context(), tenant, nil); err != nil {
		t.Fatal(err)
	}
	if r.owner, err = r.identify(t.Context(), r.key); err != nil {
		t.Fatal(err)
	}
	r.memory.log()
	r.memory.lookups.Store(0)
	return r
}

// another gives a second node on the same store.
func (r *rig) another() *Service {
	return New(r.memory, r.memory, Options{Derive: fixedRoot, Idempotency: r.memory, Now: r.clock.Now})
}

func (r *rig) create(t testing.TB, q CreateRequest) (*APIKey, string) {
	t.Helper()
	k, presented, err := r.CreateAPIKey(t.Context(), r.owner, q, "r", idempotency.Token{})
	if err != nil {
		t.Fatal(err)
	}
	return k, presented
}

func want(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("error %v, want %q", err, code)
	}
}
