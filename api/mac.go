package api

import (
	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/keys"
)

// macItems reads what mac and verify-mac share. withMAC says whether the tag must be there, or must not.
func (c *call) macItems(r *wire.MAC, withMAC bool) (t keys.Target, list []keys.MACItem, single bool, err error) {
	if t, err = c.target(r.Target); err != nil {
		return t, nil, false, err
	}
	w := &r.MACItem
	list, single, err = gather(nil, r.Items, w, w.Message != nil || w.MAC != nil || w.Context != nil,
		func(w *wire.MACItem) (keys.MACItem, string) {
			switch {
			case w.Message == nil:
				return keys.MACItem{}, "message"
			case withMAC && w.MAC == nil:
				return keys.MACItem{}, "mac"
			}
			return keys.MACItem{Message: w.Message, MAC: w.MAC, Context: w.Context}, ""
		})
	if err != nil || withMAC {
		return t, list, single, err
	}
	for i := range list {
		if list[i].MAC != nil {
			return t, nil, false, badField("the field mac is for verify-mac only")
		}
	}
	return t, list, single, nil
}

func (s *Server) mac(ctx context.Context, c *call, r *wire.MAC) (appender, error) {
	t, list, single, err := c.macItems(r, false)
	if err != nil {
		return nil, err
	}
	out, err := s.keys.MAC(ctx, c.caller(), t, list, single)
	return c.results("mac", false, single, len(list), out, err)
}

func (s *Server) verifyMAC(ctx context.Context, c *call, r *wire.MAC) (appender, error) {
	t, list, single, err := c.macItems(r, true)
	if err != nil {
		return nil, err
	}
	out, err := s.keys.VerifyMAC(ctx, c.caller(), t, list, single)
	return c.verdicts(single, len(list), out, err)
}
