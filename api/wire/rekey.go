package wire

// Root is GET /root: the generation of the root, and what hangs on earlier ones.
type Root struct {
	Generation uint32   `json:"generation"`
	Earlier    []uint32 `json:"earlier"`
	Stale      int64    `json:"stale"`
}

// RotateRoot is POST /root/rotate. Every slot that is not on a device of this node has a replacement in slots, or is named in drop.
type RotateRoot struct {
	Slots    []ReplaceSlot `json:"slots,omitempty"`
	Drop     []string      `json:"drop,omitempty"`
	NoFollow bool          `json:"no_follow,omitempty"`
}

// ReplaceSlot is a new slot, in place of another or, without replaces, of none.
type ReplaceSlot struct {
	Replaces string `json:"replaces,omitempty"`
	AddSlot
}

// RotatedRoot is its answer.
type RotatedRoot struct {
	Generation uint32      `json:"generation"`
	Slots      []AddedSlot `json:"slots"`
	Dropped    []Slot      `json:"dropped,omitempty"`
	Job        *Job        `json:"job,omitempty"` // that seals everything anew
}

// RetireRoot is POST /root/retire. Lose is how many key versions are to be lost.
type RetireRoot struct {
	Lose int64 `json:"lose,omitempty"`
}

// Reseal is POST /keys/reseal.
type Reseal struct {
	Backend string `json:"backend,omitempty"`
}

// KEK is a key of a device over the keys of a backend.
type KEK struct {
	Name       string `json:"name"`
	Generation uint32 `json:"generation"`
	Newest     bool   `json:"newest"`
	Versions   int64  `json:"versions"`
}

// RotatedKEK is POST /backends/{name}/rotate-kek.
type RotatedKEK struct {
	Generation uint32 `json:"generation"`
	Job        *Job   `json:"job,omitempty"`
}

// RetireKEK is POST /backends/{name}/retire-kek.
type RetireKEK struct {
	Generation uint32 `json:"generation"`
}
