// Package secret holds bytes that must not be printed, logged or kept longer than needed.
//
// It trusts the process's own memory and nothing else: the binary switches core dumps off and locks its pages where the
// system allows it (see cmd/keywright); this package keeps secrets out of formatting and wipes what it is given.
package secret

import "log/slog"

const redacted = "[redacted]"

// Bytes is secret material. Every formatting verb, JSON and slog print it as [redacted].
type Bytes []byte

// Wipe overwrites b with zeros. The garbage collector may have made no copies of it (it does not move heap objects),
// but earlier append calls may have: size buffers exactly before filling them.
func (b Bytes) Wipe() { clear(b) }

func (Bytes) String() string               { return redacted }
func (Bytes) GoString() string             { return redacted }
func (Bytes) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
