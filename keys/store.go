package keys

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
)

// Filter selects keys of a list; zero fields select all.
type Filter struct {
	NamePrefix string
	Algorithm  backend.Algorithm
	State      State
	Label      string // "name" (has the label) or "name=value"
}

// Store keeps key records. Reads see everything that was committed before they began. The methods without a context
// prepare a Change, which the audit log carries out together with its entry; a Change fails with a fault.Error, and then
// nothing of its item is stored.
type Store interface {
	// KeyByID finds a key of the tenant, or fault.KeyNotFound.
	KeyByID(ctx context.Context, tenant, id uuid.UUID) (*Key, error)
	// KeyByName finds a key of the tenant that is not destroyed, or fault.KeyNotFound.
	KeyByName(ctx context.Context, tenant uuid.UUID, name string) (*Key, error)
	// Keys lists the tenant's keys that are not internal, by name, after the name in after; destroyed ones only when the
	// filter asks for that state. As the names of those may repeat, after may also be a name, a NUL and the 16 bytes of
	// the id of the last key seen.
	Keys(ctx context.Context, tenant uuid.UUID, f Filter, after string, limit int) ([]*Key, error)
	// Version finds a version, or fault.VersionNotFound.
	Version(ctx context.Context, key uuid.UUID, version uint32) (*Version, error)
	// Versions lists versions by number, upward, from number from on.
	Versions(ctx context.Context, key uuid.UUID, from uint32, limit int) ([]*Version, error)
	// Material lists versions of all tenants, and of the service itself, that have material, by key id and number, after the position.
	Material(ctx context.Context, after Position, limit int) ([]*Stored, error)
	// CountMaterial counts what Material lists.
	CountMaterial(ctx context.Context) (int64, error)
	// DefaultKey gives the tenant's default key for a purpose, or fault.NoDefaultKey.
	DefaultKey(ctx context.Context, tenant uuid.UUID, p backend.Purpose) (uuid.UUID, error)
	// KeysDue lists keys of all tenants whose DueAt is at or before now, that are active and whose primary version has reached the
	// record's RotateAfter, or that have a version in state creating since more than an hour: up to limit, oldest first. The pages begin with the zero
	// cursor; next is where the following page begins, zero when there is none. A key may be named twice.
	KeysDue(ctx context.Context, now time.Time, after DueCursor, limit int) (due []*Key, next DueCursor, err error)

	// TenantSettings gives what the tenant has settled, the zero value when it has settled nothing.
	TenantSettings(ctx context.Context, tenant uuid.UUID) (Settings, error)

	// Grants lists the grants on a key of the tenant by id, after the cursor (zero: from the start).
	Grants(ctx context.Context, tenant, key, after uuid.UUID, limit int) ([]*auth.Grant, error)
	// Grant finds a grant on the key, or fault.GrantNotFound.
	Grant(ctx context.Context, tenant, key, id uuid.UUID) (*auth.Grant, error)
	// Approval finds an approval of the tenant with its votes by principal, or fault.ApprovalNotFound.
	Approval(ctx context.Context, tenant, id uuid.UUID) (*auth.Approval, error)
	// Approvals lists the tenant's approvals by id, downwards from below the cursor (zero: from the newest), with their votes.
	Approvals(ctx context.Context, tenant, before uuid.UUID, limit int) ([]*auth.Approval, error)

	// InsertKey adds a key and its first version. Fails with fault.NameTaken, or fault.Conflict when the id exists, or
	// fault.QuotaExceeded when the tenant has as many as it may: those that are destroyed or internal are not counted.
	InsertKey(k *Key, v *Version) audit.Change
	// UpdateKey replaces the mutable fields of the record if the stored revision is k.Revision, and adds one to it; else
	// fault.Conflict. Also fault.NameTaken. k.Uses is not written.
	UpdateKey(k *Key) audit.Change
	// InsertVersion adds a version. fault.Conflict when the number exists.
	InsertVersion(v *Version) audit.Change
	// UpdateVersion replaces state, material and custody if the stored revision is v.Revision, and adds one to it; else
	// fault.Conflict. v.Messages and v.Bytes are not written.
	UpdateVersion(v *Version) audit.Change
	// AddUses adds n to the key's uses unless that would exceed limit: then fault.UsageLimit.
	AddUses(key uuid.UUID, n, limit int64) audit.Change
	// ReserveUses adds to what a version is counted to have protected unless that would exceed what it may protect: then
	// fault.UsageLimit, or fault.VersionNotFound when there is no such version. Revisions do not change.
	ReserveUses(r Reservation) audit.Change
	// ReserveOperations sets aside operations of a tenant on a day unless there would be more than it may carry out: then fault.DailyLimit. A later day
	// begins anew; for one that is over they count on the newest.
	ReserveOperations(r DailyReservation) audit.Change
	// SetDefaultKey makes the key the tenant's default for the purpose; uuid.Nil takes the default away.
	SetDefaultKey(tenant uuid.UUID, p backend.Purpose, key uuid.UUID) audit.Change
	// SetTenantSettings replaces what the tenant has settled.
	SetTenantSettings(tenant uuid.UUID, s Settings) audit.Change

	// PutGrant adds a grant, or replaces the one of its id if that is on the same key: else fault.Conflict. fault.APIKeyNotFound when its
	// principal is an API key that the tenant does not have, fault.QuotaExceeded when it would be one more than auth.MaxGrants of the
	// key or of the principal.
	PutGrant(g *auth.Grant) audit.Change
	// DeleteGrant removes a grant. fault.GrantNotFound.
	DeleteGrant(g *auth.Grant) audit.Change
	// InsertApproval adds an approval without votes, and takes away some of the tenant's that have been over for auth.ApprovalsKept. fault.Conflict when
	// the id exists, fault.QuotaExceeded when its requester has auth.MaxOpenApprovals that are neither used, rejected nor expired when it was made.
	InsertApproval(a *auth.Approval) audit.Change
	// APIKey finds the record of an API key of the tenant, or fault.APIKeyNotFound: of whom it comes.
	APIKey(ctx context.Context, tenant, id uuid.UUID) (*auth.APIKey, error)
	// VoteApproval adds a vote, and one that does not approve rejects the approval. fault.Conflict when the principal has voted, or the
	// approval is used or rejected.
	VoteApproval(id uuid.UUID, v auth.Vote) audit.Change
	// UseApproval marks an approval as used. fault.ApprovalRequired when it is used, rejected or expired at this time.
	UseApproval(id uuid.UUID, at time.Time) audit.Change
}

// Position is a place in the order of Store.Material; the zero value is before everything.
type Position struct {
	Key     uuid.UUID
	Version uint32
}

// Stored is a version with what its key says of it.
type Stored struct {
	Version
	Tenant    uuid.UUID
	Algorithm backend.Algorithm
	Purpose   backend.Purpose
}

// DueCursor is a place in the order of what is due: by time, then by id. The zero value is the beginning.
type DueCursor struct {
	At time.Time
	ID uuid.UUID
}

// Reservation sets aside uses of a key version for one node. What the node does not use of it is lost.
type Reservation struct {
	Key      uuid.UUID
	Version  uint32
	Messages int64 // not negative, as all below
	Bytes    int64
	// MaxMessages and MaxBytes are what the version may protect in all; 0: any number.
	MaxMessages int64
	MaxBytes    int64
	// RotateMessages and RotateBytes are the key's RotateAfter, for records of a release that did not write it. A record's own counts instead.
	RotateMessages int64
	RotateBytes    int64
	At             time.Time // since when the key is due, if this makes it so
}
