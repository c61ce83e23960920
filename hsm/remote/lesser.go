package remote

import (
	"slices"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
)

// A child that opens the token while it is not itself finds less than the token can do, and would go on by that for as long as it
// lives: keys would be refused as unsupported on a token that is well again. So it is opened anew until it is as it was. A token that
// really does less now, because somebody has changed its policy, is taken as it is after Options.LesserFor.

// lacks says what a token does no more, "" if nothing.
func lacks(before, now *token.Description) string {
	for _, had := range before.Capabilities {
		at := slices.IndexFunc(now.Capabilities, func(c backend.Capability) bool { return c.Algorithm == had.Algorithm })
		if at < 0 {
			return string(had.Algorithm)
		}
		has := now.Capabilities[at]
		for _, op := range had.Operations {
			if !slices.Contains(has.Operations, op) {
				return string(had.Algorithm) + " " + string(op)
			}
		}
		if had.Import && !has.Import {
			return string(had.Algorithm) + " import"
		}
	}
	if before.Wrapping && !now.Wrapping {
		return "wrapping"
	}
	for _, a := range before.Wrappable {
		if !slices.Contains(now.Wrappable, a) {
			return string(a) + " wrapped"
		}
	}
	return ""
}
