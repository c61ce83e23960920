package api

import (
	"context"
	"encoding/base64"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// randomResult writes wire.RandomResult without reflection: it may be a mebibyte.
type randomResult []byte

func (r randomResult) size() int { return 256 + base64.StdEncoding.EncodedLen(len(r)) }

func (r randomResult) appendJSON(b []byte) []byte {
	b = append(b, `{"random":`...)
	b = appendBytes(b, r)
	return append(b, '}')
}

func (s *Server) random(ctx context.Context, c *call, r *wire.RandomRequest) (appender, error) {
	if r.Bytes < 1 || r.Bytes > keys.MaxRandom {
		return nil, fault.New(fault.BadSize, "the field bytes must be from 1 to 1048576")
	}
	b, err := s.keys.Random(ctx, c.caller(), r.Backend, r.Bytes)
	c.answer.wipe = append(c.answer.wipe, b)
	if err != nil {
		return nil, err
	}
	return randomResult(b), nil
}
