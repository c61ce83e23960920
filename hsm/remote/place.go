package remote

import (
	"context"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
)

var _ token.Placer = (*Supervisor)(nil)

func (s *Supervisor) Place(ctx context.Context, id token.ID, a backend.Algorithm, p backend.Purpose, wrapped, public []byte) (token.Object, error) {
	room := roomFor(len(wrapped) + len(public))
	frame := append(beginRequest(*room, opPlace), id[:]...)
	frame = appendBytes(appendBytes(frame, a), p)
	return s.object(s.do(ctx, opPlace, s.limit(token.TimeMake, a), room, appendBytes(appendBytes(frame, wrapped), public)))
}
