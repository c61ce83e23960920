package keys

import (
	"slices"
	"time"

	"github.com/keywright/keywright/backend"
)

// opset is a set of operations, one bit each.
type opset uint16

// bits gives each operation its bit. The order is that of opset and of the metrics; it is stored nowhere.
func bit(op backend.Operation) opset {
	switch op {
	case backend.OpEncrypt:
		return 1 << 0
	case backend.OpDecrypt:
		return 1 << 1
	case backend.OpRewrap:
		return 1 << 2
	case backend.OpDataKey:
		return 1 << 3
	case backend.OpWrap:
		return 1 << 4
	case backend.OpUnwrap:
		return 1 << 5
	case backend.OpSign:
		return 1 << 6
	case backend.OpVerify:
		return 1 << 7
	case backend.OpMAC:
		return 1 << 8
	case backend.OpVerifyMAC:
		return 1 << 9
	case backend.OpDerive:
		return 1 << 10
	case backend.OpExport:
		return 1 << 11
	case backend.OpAttest:
		return 1 << 12
	case backend.OpEncapsulate:
		return 1 << 13
	case backend.OpDecapsulate:
		return 1 << 14
	}
	return 0
}

func setOf(ops ...backend.Operation) opset {
	var s opset
	for _, op := range ops {
		s |= bit(op)
	}
	return s
}

func (s opset) has(op backend.Operation) bool { return s&bit(op) != 0 }

// The two sides of cryptography, in the words of SP 800-57 part 1 section 5.2: to apply protection, and to process what is
// protected already. Rewrap processes with the version that the envelope names and applies with the new one: of the former it
// asks for this side alone, which the service checks as decrypt.
func everything() opset { return 1<<15 - 1 }

func processing() opset {
	return setOf(backend.OpDecrypt, backend.OpUnwrap, backend.OpVerify, backend.OpVerifyMAC, backend.OpDecapsulate, backend.OpAttest)
}

// rule is one row of the life of a key version.
type rule struct {
	state   State
	allows  opset
	flagged bool    // every reply says that the version is compromised
	caller  []State // where a caller may take it
	system  []State // where only the service itself takes it: creation, import, scheduled deletion
	// date is the one of the policy (zero: none) which, when it has passed, takes it to then. It counts from that moment on, by the clock of whoever
	// looks; the service writes it down soon.
	date func(*Policy) time.Time
	then State
}

// lifecycle is the whole state machine (SP 800-57 part 1 section 7). A version in pending-deletion or destroyed is so because its key
// is: deletion is of keys. There is no way back from compromised or deactivated to active.
//
// A suspended version returns to the state it was suspended from: see transition.
func lifecycle() []rule {
	return []rule{
		{state: StateCreating, system: []State{StatePreActive, StateActive, StateDestroyed}},
		{state: StatePreActive, caller: []State{StateActive, StateCompromised}, system: []State{StateDeactivated, StatePendingDeletion},
			date: (*Policy).activation, then: StateActive},
		{state: StatePendingImport, system: []State{StateCreating, StatePreActive, StateActive, StatePendingDeletion}},
		{state: StateActive, allows: everything(), caller: []State{StateDeactivated, StateSuspended, StateCompromised},
			system: []State{StatePendingDeletion}, date: (*Policy).expiry, then: StateDeactivated},
		{state: StateDeactivated, allows: processing(), caller: []State{StateSuspended, StateCompromised},
			system: []State{StatePendingDeletion}},
		{state: StateSuspended, caller: []State{StateActive, StateDeactivated, StateCompromised}, system: []State{StatePendingDeletion}},
		{state: StateCompromised, allows: processing(), flagged: true, system: []State{StatePendingDeletion}},
		{state: StatePendingDeletion, system: []State{StatePreActive, StatePendingImport, StateActive, StateDeactivated, StateSuspended,
			StateCompromised, StateDestroyed}},
		{state: StateDestroyed},
	}
}

func ruleOf(s State) rule {
	for _, r := range lifecycle() {
		if r.state == s {
			return r
		}
	}
	return rule{state: s}
}

// allowed gives what a version in the state may do, and whether replies carry the mark of compromise.
func allowed(s State) (ops opset, flagged bool) {
	r := ruleOf(s)
	return r.allows, r.flagged
}

// transition reports whether a caller may take a version in state from, suspended from prior, to state to. A suspended version
// does not become active that was not so before.
func transition(from, prior, to State) bool {
	if from == StateSuspended && to == StateActive && prior != StateActive {
		return false
	}
	return slices.Contains(ruleOf(from).caller, to)
}
