// Package fault holds the one error type that crosses package borders: a stable code, a message that is safe to show
// to the caller, and the cause, which is for the log only.
//
// A message never carries key bytes, plaintext, PINs, tokens or the value that was refused. Front ends map the code to
// their own status by one table; an error without a code is an internal fault and is shown as nothing but that.
package fault

import (
	"errors"
	"time"
)

// Error is a failure with a stable code. Values are immutable once made and safe for concurrent use.
type Error struct {
	Code    Code
	Message string        // for the caller: says what to do, never what was sent
	After   time.Duration // when positive, the caller may try again after this time
	cause   error
}

// New makes an error with a code and a message for the caller.
func New(code Code, message string) *Error { return &Error{Code: code, Message: message} }

// Wrap is New with a cause for the log. The cause is never shown to the caller.
func Wrap(code Code, message string, cause error) *Error {
	return &Error{Code: code, Message: message, cause: cause}
}

// RetryAfter returns a copy of e that tells the caller when to try again.
func (e *Error) RetryAfter(d time.Duration) *Error {
	c := *e
	c.After = d
	return &c
}

// Error gives code, message and cause: it is for logs, not for callers.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is a fault with the same code, so that errors.Is(err, fault.New(code, "")) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// CodeOf gives the code of the outermost fault in err's chain: Internal when there is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var f *Error
	if errors.As(err, &f) {
		return f.Code
	}
	return Internal
}

// Has reports whether err's outermost fault has the code.
func Has(err error, code Code) bool { return err != nil && CodeOf(err) == code }
