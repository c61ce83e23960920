package remote

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// maxText bounds the message of a fault and the text of its cause, in bytes; the rest is cut off.
const maxText = 1 << 10

// Marks of a fault, and of the reason why a child has answered with it.
const (
	markPIN   = 1 << iota // the token has refused the PIN
	markStuck             // the module still has a call that was given up
)

// remoteError is the cause of a fault as text, as it was in the child. It is for the log only.
type remoteError struct {
	text string
	pin  bool
}

func (e *remoteError) Error() string { return "in the module's process: " + e.text }

func (e *remoteError) Is(target error) bool { return e.pin && target == token.ErrPINRefused }

// appendFault writes an error as kindFault has it. What is no fault.Error is an internal one.
func appendFault(b []byte, err error, stuck bool) []byte {
	var f *fault.Error
	if !errors.As(err, &f) {
		f = fault.Wrap(fault.Internal, "internal error", err)
	}
	var marks byte
	if errors.Is(err, token.ErrPINRefused) {
		marks |= markPIN
	}
	if stuck {
		marks |= markStuck
	}
	b = appendBytes(append(b, marks), string(f.Code))
	b = appendBytes(b, cut(f.Message))
	b = binary.BigEndian.AppendUint64(b, uint64(max(f.After, 0)))
	text := ""
	if cause := errors.Unwrap(f); cause != nil {
		text = cut(cause.Error())
	}
	return appendBytes(b, text)
}

func cut(s string) string { return s[:min(len(s), maxText)] }

// decodeFault gives the error that a child has sent.
func decodeFault(body []byte) (f *fault.Error, stuck bool, err error) {
	d := decoder{b: body}
	marks := d.u8()
	d.bad = d.bad || marks&^(markPIN|markStuck) != 0
	code, ok := knownCode(d.bytes())
	message := d.str()
	after := time.Duration(d.u64())
	text := d.str()
	d.bad = d.bad || !ok || after < 0 || len(message) > maxText || len(text) > maxText
	if err := d.end(); err != nil {
		return nil, false, err
	}
	if text != "" || marks&markPIN != 0 {
		f = fault.Wrap(code, message, &remoteError{text: text, pin: marks&markPIN != 0})
	} else {
		f = fault.New(code, message)
	}
	f.After = after
	return f, marks&markStuck != 0, nil
}

func knownCode(p []byte) (fault.Code, bool) {
	for _, c := range fault.Codes() {
		if string(c.Code) == string(p) {
			return c.Code, true
		}
	}
	return "", false
}
