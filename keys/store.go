package keys

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
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
	// DefaultKey gives the tenant's default key for a purpose, or fault.NoDefaultKey.
	DefaultKey(ctx context.Context, tenant uuid.UUID, p backend.Purpose) (uuid.UUID, error)
	// KeysDue lists keys of all tenants whose deletion or rotation time is at or before now, or that have a version in
	// state creating since more than an hour: up to limit, oldest first. Only an active key has a rotation time.
	KeysDue(ctx context.Context, now time.Time, limit int) ([]*Key, error)

	// TenantSettings gives what the tenant has settled, the zero value when it has settled nothing.
	TenantSettings(ctx context.Context, tenant uuid.UUID) (Settings, error)

	// InsertKey adds a key and its first version. Fails with fault.NameTaken, or fault.Conflict when the id exists, or
	// fault.QuotaExceeded when the tenant has as many as it may: those that are destroyed or internal are not counted.
	InsertKey(k *Key, v *Version) audit.Change
	// UpdateKey replaces the mutable fields of the record if the stored revision is k.Revision, and adds one to it; else
	// fault.Conflict. Also fault.NameTaken. k.Uses is not written.
	UpdateKey(k *Key) audit.Change
	// InsertVersion adds a version. fault.Conflict when the number exists.
	InsertVersion(v *Version) audit.Change
	// UpdateVersion replaces state, material and custody if the stored revision is v.Revision, and adds one to it; else
	// fault.Conflict.
	UpdateVersion(v *Version) audit.Change
	// AddUses adds n to the key's uses unless that would exceed limit: then fault.UsageLimit.
	AddUses(key uuid.UUID, n, limit int64) audit.Change
	// SetDefaultKey makes the key the tenant's default for the purpose; uuid.Nil takes the default away.
	SetDefaultKey(tenant uuid.UUID, p backend.Purpose, key uuid.UUID) audit.Change
	// SetTenantSettings replaces what the tenant has settled.
	SetTenantSettings(tenant uuid.UUID, s Settings) audit.Change
}
