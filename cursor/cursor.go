// Package cursor makes and reads the cursors of lists by id: base64url, without padding, of the id behind which the list goes on.
//
// A cursor tells its holder nothing but an id that it was shown, and is trusted with nothing: whoever makes one up begins elsewhere in the same list.
package cursor

import (
	"encoding/base64"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Behind gives the cursor of the page behind an id.
func Behind(id uuid.UUID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Parse reads what Behind made; "" is the first page, uuid.Nil. Anything else is fault.BadCursor, another spelling of a cursor too.
func Parse(c string) (uuid.UUID, error) {
	if c == "" {
		return uuid.Nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(c)
	if err != nil || len(b) != len(uuid.Nil) || uuid.UUID(b) == uuid.Nil || Behind(uuid.UUID(b)) != c {
		return uuid.Nil, fault.New(fault.BadCursor, "the cursor was not made by this list")
	}
	return uuid.UUID(b), nil
}
