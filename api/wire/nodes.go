package wire

import "time"

// Node is a running service among those on one store.
type Node struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Address   string        `json:"address"`
	Version   string        `json:"version"`
	StartedAt time.Time     `json:"started_at"`
	SeenAt    time.Time     `json:"seen_at"`
	Self      bool          `json:"self"` // the one that answers
	Backends  []NodeBackend `json:"backends"`
	Leases    []string      `json:"leases"` // what it does that one node at a time does
}

// NodeBackend is a backend that a node has open.
type NodeBackend struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	ID   string `json:"id"`
}
