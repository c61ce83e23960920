package api

import (
	"context"
	"math"
	"strconv"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func (s *Server) wireVersion(v *keys.Version) wire.KeyVersion {
	return wire.KeyVersion{Version: v.Version, State: shownState(v.State), Origin: string(v.Origin),
		Backend: s.keys.BackendName(v.BackendID), Custody: string(v.Custody), CustodyCaveat: s.keys.CustodyCaveat(v.BackendID), CreatedAt: v.CreatedAt.UTC(),
		StateChangedAt: v.StateAt.UTC(), Messages: v.Messages, Bytes: v.Bytes, MessageLimit: v.MaxMessages, ByteLimit: v.MaxBytes}
}

func (s *Server) rotate(ctx context.Context, c *call, _ *wire.Empty) (wire.Key, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.Key{}, err
	}
	who, err := c.creator()
	if err != nil {
		return wire.Key{}, err
	}
	return s.shown(s.keys.Rotate(ctx, who, key))
}

func (s *Server) listVersions(ctx context.Context, c *call, _ *wire.Empty) (wire.List[wire.KeyVersion], error) {
	var none wire.List[wire.KeyVersion]
	key, err := c.param("key")
	if err != nil {
		return none, err
	}
	limit, cursor, err := c.page()
	if err != nil {
		return none, err
	}
	from, err := numberCursor(cursor, 32)
	if err != nil {
		return none, err
	}
	list, err := s.keys.Versions(ctx, c.caller(), key, uint32(from), limit)
	if err != nil {
		return none, err
	}
	out := wire.List[wire.KeyVersion]{Items: make([]wire.KeyVersion, len(list))}
	for i, v := range list {
		out.Items[i] = s.wireVersion(v)
	}
	// A full page may be the last one: then the next is empty.
	if n := len(list); n == limit && list[n-1].Version < math.MaxUint32 {
		out.NextCursor = strconv.FormatUint(uint64(list[n-1].Version)+1, 10)
	}
	return out, nil
}

func (s *Server) setState(ctx context.Context, c *call, r *wire.SetState) (wire.KeyVersion, error) {
	key, err := c.param("key")
	if err != nil {
		return wire.KeyVersion{}, err
	}
	n, err := c.pathNumber("n", 32, fault.VersionNotFound, "the key has no such version")
	if err != nil {
		return wire.KeyVersion{}, err
	}
	if n == 0 {
		return wire.KeyVersion{}, fault.New(fault.VersionNotFound, "the key has no such version")
	}
	if err := required("state", r.State); err != nil {
		return wire.KeyVersion{}, err
	}
	v, err := s.keys.SetVersionState(ctx, c.caller(), key, uint32(n), keys.State(r.State))
	if err != nil {
		return wire.KeyVersion{}, err
	}
	return s.wireVersion(v), nil
}
