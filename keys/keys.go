// Package keys is the one choke point of every key operation: lifecycle, versions, policy, and the operations themselves.
// No front end reaches a backend but through a Service, and a Service releases no result before its audit record is durable.
//
// It trusts its caller to have authenticated the principal, the store to be durable, and each backend to be truthful about
// custody. It trusts no input.
//
// A request is about one key, so that its one entry in the audit log says all: a batch whose items are of several keys does those of the
// first and refuses the others. Deletion is of keys: the state of a key on its way out counts for all its versions, whose own states come
// back with CancelDeletion. Read requests (Get, List, Versions, Version) are recorded when they are refused, everything else always.
package keys

import (
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
)

// State is the state of a key version, after SP 800-57 part 1 section 7.
type State string

const (
	StateCreating        State = "creating"         // written before the device is touched; not usable, shown as pre-active
	StatePreActive       State = "pre-active"       // made, not yet to be used
	StatePendingImport   State = "pending-import"   // waits for material
	StateActive          State = "active"           // everything that policy allows
	StateDeactivated     State = "deactivated"      // decrypt, unwrap and verify only
	StateSuspended       State = "suspended"        // nothing, reversible
	StateCompromised     State = "compromised"      // decrypt and verify only, and every reply says so
	StatePendingDeletion State = "pending-deletion" // nothing, reversible until its date
	StateDestroyed       State = "destroyed"        // material gone, the record stays
)

// Origin says where the material came from.
type Origin string

const (
	OriginGenerated Origin = "generated"
	OriginImported  Origin = "imported"
	// OriginImportedInside is what a version says of itself when its device opened the wrapped material: it was never in clear in
	// this service. Its key is OriginImported.
	OriginImportedInside Origin = "imported-inside"
	OriginPublicOnly     Origin = "public-only" // verify and encrypt only: there is no private part
)

// Policy is what an owner allows a key to do. The zero value allows every operation of the key's purpose, and no export.
type Policy struct {
	Operations         []backend.Operation `json:"operations,omitempty"`          // empty: all of the key's purpose
	Exportable         bool                `json:"exportable,omitempty"`          // fixed at creation: can be taken away, never added
	RotationPeriod     time.Duration       `json:"rotation_period,omitempty"`     // 0: by hand only; at least an hour
	DeletionProtection bool                `json:"deletion_protection,omitempty"` // DELETE is refused while set
	RequiredContext    []string            `json:"required_context,omitempty"`    // names that the caller's context must hold
	GrantsOnly         bool                `json:"grants_only,omitempty"`         // scopes alone do not suffice to use it
	Quorum             *auth.Quorum        `json:"quorum,omitempty"`              // nil: nothing takes approvals
	UsageLimit         int64               `json:"usage_limit,omitempty"`         // operations in all; 0: none
	// RotateAfterMessages and RotateAfterBytes make the key due for rotation when its primary version is counted to have protected so much; 0: not
	// before three quarters of what the algorithm bears. The operation that gets there is not refused.
	RotateAfterMessages int64 `json:"rotate_after_messages,omitempty"`
	RotateAfterBytes    int64 `json:"rotate_after_bytes,omitempty"`
	// ActivatesAt and ExpiresAt are the dates of SP 800-57 part 1 section 5.3 between which the key may be used to protect. Before the first it is
	// pre-active, from the second on deactivated: it goes on processing what it protected. Zero: at once, and never.
	ActivatesAt time.Time `json:"activates_at,omitzero"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	// RequireAttestation, fixed at creation: no version becomes active before evidence of it has verified and says that it was generated on
	// the device and is not exportable.
	RequireAttestation bool `json:"require_attestation,omitempty"`
}

// Key is the record of a key. Values read from a Store or Service are snapshots that nobody changes.
type Key struct {
	ID             uuid.UUID
	Tenant         uuid.UUID
	Name           string
	Algorithm      backend.Algorithm
	Purpose        backend.Purpose
	Origin         Origin
	BackendID      string          // backend.Info.ID of where new versions are made
	Custody        backend.Custody // of the primary version
	Labels         map[string]string
	Policy         Policy
	PrimaryVersion uint32 // 0 while there is none
	LatestVersion  uint32 // the highest number ever given
	MinDecrypt     uint32 // decrypt, unwrap, verify only from this version on; 0: all
	MinEncrypt     uint32 // encrypt, wrap, sign, mac only from this version on; 0: all
	Uses           int64  // counted only while Policy.UsageLimit is set
	State          State  // of the primary version, or pending-deletion/destroyed for the whole key
	CreatedAt      time.Time
	UpdatedAt      time.Time
	RotatedAt      time.Time
	DeletionAt     time.Time // zero: none scheduled
	Internal       bool      // of the service itself: not listed, not named by callers
	Revision       int64     // for compare-and-swap
}

// Version is one piece of key material. Its material never changes and its number is never reused.
type Version struct {
	KeyID      uuid.UUID
	Version    uint32
	State      State
	PriorState State // where a suspended or pending-deletion version returns to
	Origin     Origin
	BackendID  string
	Custody    backend.Custody
	Exportable bool // bound into the material (backend.Spec)
	Public     []byte
	Blob       []byte // nil once destroyed
	CreatedAt  time.Time
	StateAt    time.Time
	// Messages and Bytes are what the version is counted to have protected, at most: what a node has set aside and never used is in it. Nothing
	// is counted of keys that neither their algorithm nor their policy bounds.
	Messages int64
	Bytes    int64
	Revision int64
}

// Limits of names, labels and requests.
const (
	MaxName      = 128     // bytes; [A-Za-z0-9][A-Za-z0-9._/@+-]*, and not the form of a UUID
	MaxLabels    = 64      // a key
	MaxLabelKey  = 63      // bytes; [A-Za-z0-9][A-Za-z0-9._/-]*
	MaxLabel     = 255     // bytes of a value, printable UTF-8
	MaxItems     = 1000    // a batch
	MaxPlaintext = 1 << 20 // bytes of one plaintext or message
	MaxAAD       = 1 << 16 // bytes
	MaxRandom    = 1 << 20 // bytes
	MinWaiting   = 7 * 24 * time.Hour
	MaxWaiting   = 30 * 24 * time.Hour
)
