package wire

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Job is work that outlives the request that asked for it.
type Job struct {
	ID         string         `json:"id"`
	Kind       string         `json:"kind"`
	State      string         `json:"state"` // queued, running, done, failed, cancelled
	Deployment bool           `json:"deployment,omitempty"`
	Params     jsontext.Value `json:"params,omitempty"`
	Done       int64          `json:"done"`
	Failed     int64          `json:"failed"`
	Total      int64          `json:"total,omitempty"` // 0: not known
	Failures   []JobFailure   `json:"failures,omitempty"`
	Error      *Error         `json:"error,omitempty"` // why it failed or, while it is queued, why the last attempt did
	Attempts   int            `json:"attempts,omitempty"`
	RetryAt    *time.Time     `json:"retry_at,omitempty"`
	Node       string         `json:"node,omitempty"`
	CreatedBy  string         `json:"created_by"`
	CreatedAt  time.Time      `json:"created_at"`
	StartedAt  *time.Time     `json:"started_at,omitempty"`
	UpdatedAt  time.Time      `json:"updated_at"`
	EndedAt    *time.Time     `json:"ended_at,omitempty"`
}

// JobFailure is one item of a job that failed: at most 100 are kept.
type JobFailure struct {
	Resource string `json:"resource"`
	Error    Error  `json:"error"`
}

// MoveKey is POST /keys/{key}/move.
type MoveKey struct {
	Backend     string `json:"backend"`
	Custody     string `json:"custody,omitempty"`
	Mode        string `json:"mode,omitempty"` // material (default), or new-version
	AllowWeaker bool   `json:"allow_weaker,omitempty"`
}

// MoveKeys is POST /keys/move: all keys that the filter selects. At least one of its fields is set.
type MoveKeys struct {
	MoveKey
	NamePrefix string `json:"name_prefix,omitempty"`
	Algorithm  string `json:"algorithm,omitempty"`
	State      string `json:"state,omitempty"`
	Label      string `json:"label,omitempty"`
}
