package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

// newKeysAny is how the zero setting is written.
const newKeysAny = "any"

func (s *Server) keySettings(ctx context.Context, c *call, _ *wire.Empty) (wire.KeySettings, error) {
	return wireSettings(s.keys.Settings(ctx, c.caller()))
}

func (s *Server) setKeySettings(ctx context.Context, c *call, r *wire.KeySettings) (wire.KeySettings, error) {
	if err := required("new_keys", r.NewKeys); err != nil {
		return wire.KeySettings{}, err
	}
	n := keys.NewKeys(r.NewKeys)
	if r.NewKeys == newKeysAny {
		n = keys.NewKeysAny
	}
	return wireSettings(s.keys.SetSettings(ctx, c.caller(), keys.Settings{NewKeys: n}))
}

func wireSettings(s keys.Settings, err error) (wire.KeySettings, error) {
	if s.NewKeys == keys.NewKeysAny {
		s.NewKeys = newKeysAny
	}
	return wire.KeySettings{NewKeys: string(s.NewKeys)}, err
}

// inventory is the list of keys as a migration looks at it.
func (s *Server) inventory(ctx context.Context, c *call, r *wire.Empty) (wire.List[wire.InventoryKey], error) {
	list, err := s.listKeys(ctx, c, r)
	if err != nil {
		return wire.List[wire.InventoryKey]{}, err
	}
	out := wire.List[wire.InventoryKey]{Items: make([]wire.InventoryKey, len(list.Items)), NextCursor: list.NextCursor}
	for i, k := range list.Items {
		info, _ := backend.Lookup(backend.Algorithm(k.Algorithm)) // the service has made no key of another
		e := wire.InventoryKey{ID: k.ID, Name: k.Name, Algorithm: k.Algorithm, Purpose: k.Purpose, Backend: k.Backend, Custody: k.Custody, State: k.State,
			PrimaryVersion: k.PrimaryVersion, CreatedAt: k.CreatedAt, Readiness: string(info.Readiness()), Category: info.Category}
		for _, a := range info.Successors(backend.Purpose(k.Purpose)) {
			e.Successors = append(e.Successors, string(a))
		}
		out.Items[i] = e
	}
	return out, nil
}
