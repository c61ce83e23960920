package auth

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Approval is a request that takes the consent of others. It is bound to exactly one request by its digest, is made by the one who
// requested it, and serves once.
type Approval struct {
	ID          uuid.UUID
	Tenant      uuid.UUID
	Key         uuid.UUID
	Operation   string   // as the audit log names it
	Target      string   // what the path names beside the key: a version, a grant; "" when it names nothing else
	Digest      [32]byte // ApprovalDigest
	Reason      string   // for the approvers
	RequestedBy string
	CreatedAt   time.Time
	ExpiresAt   time.Time
	RejectedAt  time.Time // zero: not rejected
	UsedAt      time.Time // zero: not used
	Votes       []Vote    // by principal
}

// Vote is what one principal said. Role and Maker are as they were when it did.
type Vote struct {
	Principal string
	Role      Role
	Maker     string // who made the credential
	Approves  bool
	At        time.Time
}

// Bounds of approvals.
const (
	MaxReason       = 256 // bytes
	DefaultApproval = 24 * time.Hour
	MaxApproval     = 30 * 24 * time.Hour
	MaxApprovals    = 16 // that a quorum can ask for
)

// ApprovalDigest is SHA-256 of a label and, each behind its length in 8 bytes, big-endian: method, key id, operation, target and body, the body
// in the canonical form of RFC 8785 but for integers, which stand as they were sent.
func ApprovalDigest(method string, key uuid.UUID, operation, target string, body []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("keywright/v1/approval\x00")) // never fails (hash.Hash)
	var size [8]byte
	for _, part := range [][]byte{[]byte(method), key[:], []byte(operation), []byte(target), body} {
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// State says in a word what became of the approval; q is the key's quorum of today.
func (a *Approval) State(q *Quorum, now time.Time) string {
	switch {
	case !a.UsedAt.IsZero():
		return "used"
	case !a.RejectedAt.IsZero():
		return "rejected"
	case !now.Before(a.ExpiresAt):
		return "expired"
	case q == nil || q.met(a):
		return "approved"
	}
	return "pending"
}

// Eligible reports whether the quorum takes a principal's word on what another has requested. Nobody approves an own request, nor by
// a credential whose secret the requester made or has made the requester's.
func (q *Quorum) Eligible(requestedBy, principal string, role Role, maker string) bool {
	if principal == requestedBy || maker == requestedBy {
		return false
	}
	if slices.Contains(q.Approvers, principal) {
		return true
	}
	return len(q.Approvers) == 0 && q.Role != RoleNone && q.Role == role
}

// met reports whether enough of those whom the quorum takes today have approved.
func (q *Quorum) met(a *Approval) bool {
	n := 0
	for _, v := range a.Votes {
		if v.Approves && q.Eligible(a.RequestedBy, v.Principal, v.Role, v.Maker) {
			n++
		}
	}
	return n >= q.Approvals
}

// Serves reports whether the approval is one for exactly this request of this principal, and can be used now.
func (a *Approval) Serves(principal string, k *Key, operation string, digest [32]byte, now time.Time) bool {
	return k.Quorum != nil && a.Tenant == k.Tenant && a.Key == k.ID && a.Operation == operation && a.RequestedBy == principal && a.Digest == digest &&
		a.UsedAt.IsZero() && a.RejectedAt.IsZero() && now.Before(a.ExpiresAt) && k.Quorum.met(a)
}
