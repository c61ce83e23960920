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

// Vote is what one principal said. Role, Maker, Kin and Since are as they were when it did.
type Vote struct {
	Principal string
	Role      Role
	Maker     string    // who made the credential
	Kin       []string  // all of whom it comes
	Since     time.Time // when its secret was last shown to another; zero: nobody knows
	Approves  bool
	At        time.Time
}

// Bounds of approvals.
const (
	MaxReason        = 256 // bytes
	DefaultApproval  = 24 * time.Hour
	MaxApproval      = 30 * 24 * time.Hour
	MaxApprovals     = 16                  // that a quorum can ask for
	MaxOpenApprovals = 100                 // that one principal has asked for and that are neither used, rejected nor expired
	ApprovalsKept    = 90 * 24 * time.Hour // behind their expiry, at least; the audit log has what they were
)

// TooManyOpenApprovals is what a store says when a principal has MaxOpenApprovals.
const TooManyOpenApprovals = "as many approvals are open as one principal can ask for: let some be settled, or take them back"

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

// Names reports whether the quorum takes the word of a principal, whatever the request.
func (q *Quorum) Names(principal string, role Role) bool {
	if slices.Contains(q.Approvers, principal) {
		return true
	}
	return len(q.Approvers) == 0 && q.Role != RoleNone && q.Role == role
}

// Objection says why the quorum does not take a vote on a request; "" when it does. Nobody approves an own request, nor by a credential that comes from the requester,
// nor the request of one that comes from the own (requesterKin), nor by one whose secret somebody else was shown since the request was made.
func (q *Quorum) Objection(a *Approval, v *Vote, requesterKin []string) string {
	switch {
	case !q.Names(v.Principal, v.Role):
		return "the quorum of the key does not take this caller's word"
	case v.Principal == a.RequestedBy:
		return "nobody approves an own request"
	case v.Maker == a.RequestedBy || comes(v.Kin, a.RequestedBy):
		return "nobody approves by a credential that comes from the requester"
	case comes(requesterKin, v.Principal):
		return "nobody approves the request of a credential that comes from the own"
	case v.Since.After(a.CreatedAt):
		return "nobody approves by a credential that was made or renewed by another after the request"
	}
	return ""
}

// Counted says of each vote whether it counts towards the quorum: it approves, nothing speaks against it, and its credential comes from that of no other who
// approves. Of several that come from one another the one counts from whom they come.
func (q *Quorum) Counted(a *Approval) []bool {
	taken := make([]bool, len(a.Votes))
	for i := range a.Votes {
		v := &a.Votes[i]
		taken[i] = v.Approves && q.Objection(a, v, nil) == "" // what the requester came from was looked at when it voted
	}
	out := slices.Clone(taken)
	for i := range a.Votes {
		for j := range a.Votes {
			if i != j && taken[j] && comes(a.Votes[i].Kin, a.Votes[j].Principal) {
				out[i] = false
			}
		}
	}
	return out
}

// met reports whether enough of those whom the quorum takes today have approved.
func (q *Quorum) met(a *Approval) bool {
	n := 0
	for _, counts := range q.Counted(a) {
		if counts {
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
