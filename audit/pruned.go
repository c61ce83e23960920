package audit

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"github.com/google/uuid"
)

// The entry that tells of pruning: by principal "system", with this action, outcome "ok", and the range in its resource. It is durable, and
// under a checkpoint, before the first of its entries goes.
const (
	ActionPrune  = "audit.prune"
	prunedRange  = "entries:"
	pruningActor = "system"
)

// pruneEntry tells that entries first ≤ i < end are pruned.
func pruneEntry(first, end uint64) *Entry {
	return &Entry{Principal: pruningActor, Action: ActionPrune, Outcome: "ok", Resource: fmt.Sprintf("%s%d-%d", prunedRange, first, end-1),
		Items: int(min(end-first, math.MaxInt32))}
}

// prunes reports whether the entry tells of pruning, and up to which entry.
func (r *rawEntry) prunes() (end uint64, ok bool) {
	if string(r.action) != ActionPrune || string(r.principal) != pruningActor || string(r.outcome) != "ok" || r.Tenant != uuid.Nil {
		return 0, false
	}
	text, ok := bytes.CutPrefix(r.resource, []byte(prunedRange))
	from, to, both := bytes.Cut(text, []byte("-"))
	if !ok || !both {
		return 0, false
	}
	first, err := strconv.ParseUint(string(from), 10, 62)
	if err != nil {
		return 0, false
	}
	last, err := strconv.ParseUint(string(to), 10, 62)
	if err != nil || last < first {
		return 0, false
	}
	return last + 1, true
}
