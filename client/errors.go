package client

import (
	"errors"
	"fmt"
	"time"
)

// Error is an answer of the service that says no. Find it with errors.As.
type Error struct {
	Status     int           // HTTP status
	Code       string        // ERR_…, as docs/errors.md lists them; "" when the answer was not one of the service's own
	Message    string        // in words for a person
	RequestID  string        // under which the service logged it; "" when the answer had none
	RetryAfter time.Duration // what the service asked to wait; 0: it did not say
}

func (e *Error) Error() string {
	s := e.Message
	if e.Code != "" {
		s = e.Code + ": " + s
	} else {
		s = fmt.Sprintf("HTTP %d: %s", e.Status, s)
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// HasCode reports whether err is an Error with the code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// ErrConnection is wrapped by errors that came from not reaching the service, or from losing it before it answered. What
// was asked may have been done unless it is a read.
var ErrConnection = errors.New("the service did not answer")

// ErrResponse is wrapped by errors about an answer that is not one of Keywright's REST API.
var ErrResponse = errors.New("the answer is not one of this service's API")
