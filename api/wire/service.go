package wire

import "time"

// Backend is what a backend is and can do.
type Backend struct {
	Name          string          `json:"name"`
	Kind          string          `json:"kind"`
	ID            string          `json:"id"`
	Default       bool            `json:"default"`
	State         string          `json:"state"` // available, or the error code of the last probe
	Custody       []string        `json:"custody"`
	CustodyCaveat string          `json:"custody_caveat,omitempty"`
	KeepsObjects  bool            `json:"keeps_objects"`
	Capabilities  []Capability    `json:"capabilities"`
	Quirks        []string        `json:"quirks"`
	Members       []BackendMember `json:"members,omitempty"`
}

// BackendMember is one device of a backend.
type BackendMember struct {
	Name   string     `json:"name"`
	State  string     `json:"state"` // missing, joining, refused, healthy, unavailable
	Weight int        `json:"weight"`
	Since  *time.Time `json:"since,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// Capability is what a backend can do with one algorithm.
type Capability struct {
	Algorithm    string   `json:"algorithm"`
	Standard     string   `json:"standard"`
	Custody      string   `json:"custody"`
	Operations   []string `json:"operations"`
	Import       bool     `json:"import"`
	PostQuantum  bool     `json:"post_quantum"`
	SecurityBits int      `json:"security_bits"`
}

// AuditEntry is an entry of the log with its index. Leaf is the exact bytes that are hashed into the tree.
type AuditEntry struct {
	Index      uint64    `json:"index"`
	Time       time.Time `json:"time"`
	Principal  string    `json:"principal"`
	Action     string    `json:"action"`
	KeyID      string    `json:"key_id,omitempty"`
	KeyVersion uint32    `json:"key_version,omitempty"`
	Resource   string    `json:"resource,omitempty"`
	Outcome    string    `json:"outcome"`
	Items      int       `json:"items,omitempty"`
	Failed     []int     `json:"failed,omitempty"`
	LatencyUS  int64     `json:"latency_us"`
	RequestID  string    `json:"request_id,omitempty"`
	Detail     string    `json:"detail,omitempty"`
}

// Checkpoint is GET /audit/checkpoint: a C2SP tlog-checkpoint, and the verifier key in note form.
type Checkpoint struct {
	Checkpoint     string `json:"checkpoint"`
	VerifierKey    string `json:"verifier_key"`
	Size           uint64 `json:"size"`
	PostQuantumKey string `json:"verifier_key_pq,omitempty"`
}

// Consistency is GET /audit/consistency: an RFC 6962 proof that the tree of the first From entries is the beginning of that of the first To.
type Consistency struct {
	From       uint64   `json:"from"`
	To         uint64   `json:"to"`
	Hashes     [][]byte `json:"hashes"`
	Checkpoint string   `json:"checkpoint,omitempty"`
}

// Proof is GET /audit/entries/{n}/proof: an RFC 6962 inclusion proof in the tree of the checkpoint, or of the size that was asked for: then without one.
type Proof struct {
	Index      uint64   `json:"index"`
	Leaf       []byte   `json:"leaf,omitempty"`
	Pruned     bool     `json:"pruned,omitempty"`
	LeafHash   []byte   `json:"leaf_hash"`
	Hashes     [][]byte `json:"hashes"`
	Size       uint64   `json:"size"` // entries of the tree
	Checkpoint string   `json:"checkpoint,omitzero"`
}

// Health is GET /health, and GET /ready when the service is ready; otherwise that is an error (503).
type Health struct {
	Status  string `json:"status"` // ok or locked
	Version string `json:"version"`
}

// Slot is one way to open the root.
type Slot struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Label     string    `json:"label"`
	Device    string    `json:"device,omitempty"` // identity of the device that a slot of kind hsm is on
	CreatedAt time.Time `json:"created_at"`
}

// AddSlot is POST /root/slots. Exactly what the kind needs: passphrase, key_file (base64 of the key file's 32 bytes),
// shares and threshold, whose shares are shown once in the answer, or device, the configured name of one; the kind is then the
// device's, and need not be said.
type AddSlot struct {
	Kind       string `json:"kind,omitempty"`
	Label      string `json:"label,omitempty"`
	Passphrase string `json:"passphrase,omitempty"`
	KeyFile    []byte `json:"key_file,omitempty"`
	Shares     int    `json:"shares,omitempty"`
	Threshold  int    `json:"threshold,omitempty"`
	Device     string `json:"device,omitempty"`
}

// AddedSlot is its answer.
type AddedSlot struct {
	Slot
	Shares []string `json:"shares,omitempty"`
}

// Unlock is POST /unlock, the one call that needs no credential: what it carries is one. Shares may come one call at a time.
type Unlock struct {
	Passphrase string   `json:"passphrase,omitempty"`
	KeyFile    []byte   `json:"key_file,omitempty"`
	Shares     []string `json:"shares,omitempty"`
}

// Unlocked is its answer: how many shares are still missing while the service stays locked.
type Unlocked struct {
	Locked        bool `json:"locked"`
	SharesMissing int  `json:"shares_missing,omitempty"`
}
