package api

import (
	"context"
	"strings"
	"time"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// shownState hides that a version is being made: until its device has answered it is not to be used, which is what
// pre-active says.
func shownState(s keys.State) string {
	if s == keys.StateCreating {
		return string(keys.StatePreActive)
	}
	return string(s)
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// rotatedAt is when the key was last rotated; zero while it has the material that it was made with.
func rotatedAt(k *keys.Key) time.Time {
	if k.PrimaryVersion <= 1 {
		return time.Time{}
	}
	return k.RotatedAt
}

func (s *Server) wireKey(k *keys.Key) wire.Key {
	labels := k.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return wire.Key{
		ID: k.ID.String(), Name: k.Name, Algorithm: string(k.Algorithm), Purpose: string(k.Purpose),
		Backend: s.keys.BackendName(k.BackendID), Custody: string(k.Custody), CustodyCaveat: s.keys.CustodyCaveat(k.BackendID), Origin: string(k.Origin),
		State: shownState(k.State), PrimaryVersion: k.PrimaryVersion, LatestVersion: k.LatestVersion,
		MinDecryptVersion: k.MinDecrypt, MinEncryptVersion: k.MinEncrypt, Labels: labels, Policy: wirePolicy(k.Policy),
		CreatedAt: k.CreatedAt.UTC(), UpdatedAt: k.UpdatedAt.UTC(), RotatedAt: optional(rotatedAt(k)),
		NextRotationAt: optional(k.NextRotationAt()), ActivatesAt: optional(k.Policy.ActivatesAt),
		ExpiresAt: optional(k.Policy.ExpiresAt), DeletionAt: optional(k.DeletionAt),
	}
}

func wirePolicy(p keys.Policy) wire.Policy {
	w := wire.Policy{GrantsOnly: p.GrantsOnly, Exportable: p.Exportable, DeletionProtection: p.DeletionProtection,
		RequiredContext: p.RequiredContext, UsageLimit: p.UsageLimit, RequireAttestation: p.RequireAttestation,
		RotateAfterMessages: p.RotateAfterMessages, RotateAfterBytes: p.RotateAfterBytes,
		ActivatesAt: optional(p.ActivatesAt), ExpiresAt: optional(p.ExpiresAt)}
	for _, o := range p.Operations {
		w.Operations = append(w.Operations, string(o))
	}
	if q := p.Quorum; q != nil {
		w.Quorum = &wire.Quorum{Operations: q.Operations, Approvals: q.Approvals, Approvers: q.Approvers, Role: string(q.Role)}
	}
	if p.RotationPeriod > 0 {
		w.RotationPeriod = p.RotationPeriod.String()
	}
	return w
}

func policy(w *wire.Policy) (keys.Policy, error) {
	if w == nil {
		return keys.Policy{}, nil
	}
	p := keys.Policy{GrantsOnly: w.GrantsOnly, Exportable: w.Exportable, DeletionProtection: w.DeletionProtection,
		RequiredContext: w.RequiredContext, UsageLimit: w.UsageLimit, RequireAttestation: w.RequireAttestation,
		RotateAfterMessages: w.RotateAfterMessages, RotateAfterBytes: w.RotateAfterBytes}
	for _, date := range []struct {
		name string
		from *time.Time
		to   *time.Time
	}{{"activates_at", w.ActivatesAt, &p.ActivatesAt}, {"expires_at", w.ExpiresAt, &p.ExpiresAt}} {
		if date.from == nil {
			continue
		}
		if date.from.IsZero() { // which is how a policy says that there is none
			return p, badField("the field policy/" + date.name + " must be a time after 1970")
		}
		*date.to = *date.from
	}
	for _, o := range w.Operations {
		p.Operations = append(p.Operations, backend.Operation(o))
	}
	if q := w.Quorum; q != nil {
		p.Quorum = &auth.Quorum{Operations: q.Operations, Approvals: q.Approvals, Approvers: q.Approvers, Role: auth.Role(q.Role)}
	}
	if w.RotationPeriod != "" {
		d, err := time.ParseDuration(w.RotationPeriod)
		if err != nil || d < 0 {
			return p, badField("the field policy/rotation_period must be a duration such as 720h")
		}
		p.RotationPeriod = d
	}
	return p, nil
}

// shown is the answer of what gives back a key.
func (s *Server) shown(k *keys.Key, err error) (wire.Key, error) {
	if err != nil {
		return wire.Key{}, err
	}
	return s.wireKey(k), nil
}

func (s *Server) createKey(ctx context.Context, c *call, r *wire.CreateKey) (wire.Key, error) {
	who, err := c.creator()
	if err != nil {
		return wire.Key{}, err
	}
	if err := fresh(r.Name, r.Algorithm); err != nil {
		return wire.Key{}, err
	}
	p, err := policy(r.Policy)
	if err != nil {
		return wire.Key{}, err
	}
	return s.shown(s.keys.Create(ctx, who, keys.CreateRequest{
		Name: r.Name, Algorithm: backend.Algorithm(r.Algorithm), Purpose: backend.Purpose(r.Purpose), Backend: r.Backend,
		Custody: backend.Custody(r.Custody), Origin: keys.Origin(r.Origin), Labels: r.Labels, Policy: p, Default: r.Default,
	}))
}

// required refuses a request that lacks a field.
func required(name, value string) error {
	if value == "" {
		return fault.New(fault.MissingField, "the field "+name+" is missing")
	}
	return nil
}

// fresh refuses a new key without name or algorithm.
func fresh(name, algorithm string) error {
	if err := required("name", name); err != nil {
		return err
	}
	return required("algorithm", algorithm)
}

func (s *Server) listKeys(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.Key], error) {
	limit, cursor, err := c.page()
	if err != nil {
		return wire.List[wire.Key]{}, err
	}
	list, next, err := s.keys.List(ctx, c.caller(), keys.ListRequest{Cursor: cursor, Limit: limit, Filter: keys.Filter{
		NamePrefix: c.query.Get("name_prefix"), Algorithm: backend.Algorithm(c.query.Get("algorithm")),
		State: keys.State(c.query.Get("state")), Label: c.query.Get("label"),
	}})
	if err != nil {
		return wire.List[wire.Key]{}, err
	}
	out := wire.List[wire.Key]{Items: make([]wire.Key, len(list)), NextCursor: next}
	for i, k := range list {
		out.Items[i] = s.wireKey(k)
	}
	return out, nil
}

func (s *Server) showKey(ctx context.Context, c *call, _ *wire.Empty) (wire.Key, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.Key{}, err
	}
	return s.shown(s.keys.Get(ctx, c.caller(), key))
}

func (s *Server) updateKey(ctx context.Context, c *call, r *wire.UpdateKey) (wire.Key, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.Key{}, err
	}
	u := keys.UpdateRequest{Name: r.Name, Labels: r.Labels, MinDecrypt: r.MinDecryptVersion,
		MinEncrypt: r.MinEncryptVersion, Default: r.Default}
	if r.Policy != nil {
		p, err := policy(r.Policy)
		if err != nil {
			return wire.Key{}, err
		}
		u.Policy = &p
	}
	if u.Name == nil && u.Labels == nil && u.Policy == nil && u.MinDecrypt == nil && u.MinEncrypt == nil && u.Default == nil {
		return wire.Key{}, fault.New(fault.MissingField, "there is nothing to change in the body")
	}
	return s.shown(s.keys.Update(ctx, c.caller(), key, u))
}

func (s *Server) deleteKey(ctx context.Context, c *call, r *wire.DeleteKey) (wire.Key, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.Key{}, err
	}
	days, err := c.number("waiting_period_days", 7, 30, 0)
	if err != nil {
		return wire.Key{}, err
	}
	if r.WaitingPeriodDays != 0 {
		if days != 0 {
			return wire.Key{}, fault.New(fault.MissingField, "send waiting_period_days in the query or in the body, not both")
		}
		if r.WaitingPeriodDays < 7 || r.WaitingPeriodDays > 30 {
			return wire.Key{}, badField("the field waiting_period_days must be from 7 to 30")
		}
		days = uint64(r.WaitingPeriodDays)
	}
	return s.shown(s.keys.Delete(ctx, c.caller(), key, time.Duration(days)*24*time.Hour))
}

func (s *Server) cancelDeletion(ctx context.Context, c *call, _ *wire.Empty) (wire.Key, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.Key{}, err
	}
	return s.shown(s.keys.CancelDeletion(ctx, c.caller(), key))
}

// includes reads a query parameter that holds a list, by commas or by repetition.
func (c *call) includes() []string {
	var out []string
	for _, v := range c.query["include"] {
		for t := range strings.SplitSeq(v, ",") {
			if t != "" {
				out = append(out, t)
			}
		}
	}
	return out
}
