package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"time"
)

// Peer is the process at the other end of a Unix socket: its effective user and group when it connected, as the kernel says (unix(7), SO_PEERCRED). The
// further groups of the user are not among it.
type Peer struct{ UID, GID uint32 }

// PeerRule assigns what a local process may do. One of UID and GID is there.
type PeerRule struct {
	UID, GID *uint32
	Assignment
}

// overflowID is whom the kernel names when it cannot say who it is, as from another user namespace (user_namespaces(7)); it is also the user nobody.
const overflowID = 65534

// Check refuses rules that match nobody or anybody.
func (r *PeerRule) Check() error {
	if (r.UID == nil) == (r.GID == nil) {
		return errors.New("a rule for peers names one user or one group")
	}
	id := r.UID
	if id == nil {
		id = r.GID
	}
	if *id == overflowID || *id == 1<<32-1 {
		return errors.New("nobody can be told from others by this number: it stands for everybody whom the kernel cannot name")
	}
	return r.Assignment.Check()
}

func (r *PeerRule) matches(p Peer) bool {
	if r.UID != nil {
		return *r.UID == p.UID
	}
	return *r.GID == p.GID
}

// byPeer finds the principal "peer:<uid>" of a process.
func (s *Service) byPeer(ctx context.Context, peer Peer) (*Principal, error) {
	in := append(make([]byte, 0, 32), "keywright/v1/peer\x00"...)
	in = binary.BigEndian.AppendUint32(in, peer.UID)
	in = binary.BigEndian.AppendUint32(in, peer.GID)
	digest := sha256.Sum256(in)
	if p := s.believed(&digest); p != nil {
		return p, nil
	}
	for i := range s.peers {
		if r := &s.peers[i]; r.matches(peer) {
			name := "peer:" + strconv.FormatUint(uint64(peer.UID), 10)
			return s.settle(ctx, &digest, &r.Assignment, time.Time{}, Principal{ID: name, Kind: KindPeer, Name: name})
		}
	}
	return nil, errUnauthenticated
}
