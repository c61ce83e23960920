package token

import (
	"time"

	"github.com/keywright/keywright/backend"
)

// slowTime is what the making of an RSA key may take at least: the search for primes takes an HSM seconds, sometimes many.
const slowTime = 30 * time.Second

// wholeTime is what may go through all objects of a token, of which each costs some calls.
const wholeTime = 5 * time.Minute

// Limit is the longest that an operation may take when call is that of a use of a key: a use, a look-up or a test takes no longer than
// call, one of items inputs that and a hundredth more for each, the making or destroying of a key twice as long, of an RSA key 30 s at
// least. So a module that hangs is known to after a bounded time, however long its callers would wait.
func Limit(call time.Duration, t Timed, a backend.Algorithm, items int) time.Duration {
	switch t {
	case TimeMany:
		return call + call/100*time.Duration(items)
	case TimeMake:
		if k, ok := backend.Lookup(a); ok && k.Family == backend.FamilyRSA {
			return max(2*call, slowTime)
		}
		return 2 * call
	case TimeDestroy:
		return 2 * call
	}
	return call
}

// ListLimit is the longest that a list of the token's keys may take.
const ListLimit = wholeTime

// limits are those of a token in this process.
type limits struct{ call time.Duration }

func (l limits) of(f jobFlags) time.Duration {
	switch {
	case f&whole != 0:
		return wholeTime
	case f&slow != 0:
		return max(2*l.call, slowTime)
	}
	return Limit(l.call, f.timed(), "", 0)
}

// making marks the making of a key.
func making(k kind) jobFlags {
	if k.Family == backend.FamilyRSA {
		return slow
	}
	return 0
}
