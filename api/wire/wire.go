// Package wire holds the JSON request and response types of the REST API, shared by server, client and OpenAPI document.
// Binary fields are standard padded base64 (RFC 4648 section 4), times RFC 3339 UTC. A request with a field that is not
// named here is refused.
//
// Every operation takes either the fields of one item or items, never both; the response has the same form.
package wire

import "time"

// Response is the envelope of success.
type Response[T any] struct {
	Data      T         `json:"data"`
	RequestID string    `json:"request_id"`
	Timestamp time.Time `json:"timestamp"`
}

// ErrorResponse is the envelope of failure.
type ErrorResponse struct {
	Error     Error     `json:"error"`
	RequestID string    `json:"request_id"`
	Timestamp time.Time `json:"timestamp"`
}

// Error is a failure of a call, or of one item of a batch.
type Error struct {
	Code    string `json:"error_code"`
	Message string `json:"message"`
}

// List is a page. NextCursor is "" on the last.
type List[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// Batch is the answer to items: one result each, in order.
type Batch[T any] struct {
	Items []T `json:"items"`
}

// Empty is a body or answer without fields.
type Empty struct{}
