package backend

import "time"

// Grouper is a backend made of devices that come and go.
type Grouper interface {
	// Members tells how the devices are, as was seen a moment ago. It asks none of them.
	Members() []MemberStatus
}

// MemberStatus is how one device of a backend is.
type MemberStatus struct {
	Name   string
	State  string // missing, joining, refused, healthy, unavailable
	Weight int    // share of the operations; 0: it stands by
	Since  time.Time
	Reason string // why it is not healthy, for an operator; never a secret
}
