package wire

import "time"

// InventoryKey is a key as GET /keys/inventory shows it: what a migration to post-quantum algorithms needs to know.
type InventoryKey struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	Algorithm      string    `json:"algorithm"`
	Purpose        string    `json:"purpose"`
	Backend        string    `json:"backend"`
	Custody        string    `json:"custody"`
	State          string    `json:"state"`
	PrimaryVersion uint32    `json:"primary_version"`
	CreatedAt      time.Time `json:"created_at"`
	Readiness      string    `json:"readiness"`            // vulnerable, symmetric, post-quantum or hybrid
	Category       int       `json:"category,omitempty"`   // NIST's security category, 1 to 5
	Successors     []string  `json:"successors,omitempty"` // of a vulnerable key; the recommended one first
}

// KeySettings is GET and PUT /settings/keys.
type KeySettings struct {
	NewKeys string `json:"new_keys"` // any, post-quantum or hybrid
}
