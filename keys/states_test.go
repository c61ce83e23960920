package keys

import (
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
)

func states() []State {
	return []State{StateCreating, StatePreActive, StatePendingImport, StateActive, StateDeactivated, StateSuspended, StateCompromised,
		StatePendingDeletion, StateDestroyed}
}

// TestTransitions walks all pairs against the life of a version as SP 800-57 part 1 section 7 tells it, written down here a second time.
func TestTransitions(t *testing.T) {
	want := map[State]string{
		StatePreActive:   "active compromised",
		StateActive:      "deactivated suspended compromised",
		StateDeactivated: "suspended compromised",
		StateSuspended:   "active deactivated compromised",
	}
	for _, from := range states() {
		for _, to := range append(states(), "", "unheard-of") {
			allowed := false
			for _, s := range splitWords(want[from]) {
				allowed = allowed || State(s) == to
			}
			if got := transition(from, StateActive, to); got != allowed {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
	for _, prior := range states() {
		if got := transition(StateSuspended, prior, StateActive); got != (prior == StateActive) {
			t.Errorf("suspended from %s to active: %v", prior, got)
		}
	}
	if transition("unheard-of", "", StateActive) {
		t.Error("an unknown state leads somewhere")
	}
}

func splitWords(s string) (words []string) {
	word := ""
	for _, r := range s + " " {
		if r != ' ' {
			word += string(r)
		} else if word != "" {
			words, word = append(words, word), ""
		}
	}
	return words
}

// TestDatesMoveStates walks all states against the two dates: what a date makes of a version is in the same table, and only time moves it there.
func TestDatesMoveStates(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, p := range []struct {
		what   string
		policy Policy
		want   map[State]State // of those that move
	}{
		{"no dates", Policy{}, nil},
		{"to come", Policy{ActivatesAt: now.Add(1), ExpiresAt: now.Add(2)}, nil},
		{"activated", Policy{ActivatesAt: now, ExpiresAt: now.Add(1)}, map[State]State{StatePreActive: StateActive}},
		{"expired", Policy{ExpiresAt: now}, map[State]State{StateActive: StateDeactivated}},
		{"both", Policy{ActivatesAt: now.Add(-1), ExpiresAt: now}, map[State]State{StatePreActive: StateDeactivated, StateActive: StateDeactivated}},
	} {
		for _, s := range append(states(), "unheard-of") {
			want, moves := p.want[s]
			if !moves {
				want = s
			}
			if got := p.policy.byDate(s, now); got != want {
				t.Errorf("%s: %s becomes %s, want %s", p.what, s, got, want)
			}
			k := Key{State: StatePendingDeletion, Policy: p.policy}
			if got := k.stateAt(s, now); s != StateDestroyed && got != StatePendingDeletion {
				t.Errorf("%s: %s of a key on its way out is %s", p.what, s, got)
			}
		}
	}
	for _, r := range lifecycle() {
		if (r.date == nil) != (r.then == "") || r.then != "" && !slices.Contains(r.caller, r.then) {
			t.Errorf("a date takes %s where nobody else could: to %q", r.state, r.then)
		}
	}
}

func TestLifecycleIsWhole(t *testing.T) {
	rows := map[State]int{}
	for _, r := range lifecycle() {
		rows[r.state]++
		for _, to := range append(append([]State(nil), r.caller...), r.system...) {
			if ruleOf(to).unknown() {
				t.Errorf("%s leads to %s, which is no state", r.state, to)
			}
		}
		if r.state == StateDestroyed && len(r.caller)+len(r.system) > 0 {
			t.Error("something leads out of destroyed")
		}
	}
	for _, s := range states() {
		if rows[s] != 1 {
			t.Errorf("%s has %d rows", s, rows[s])
		}
	}
}

// TestActions holds the table of actions against the verbs and the operations of package backend.
func TestActions(t *testing.T) {
	names, ops := map[string]bool{}, map[backend.Operation]bool{}
	for v := verb(0); v < verbCount; v++ {
		a := actions[v]
		open := v >= verbApprovals // who may is decided about each approval
		if a.name == "" || (a.scope == "") != open || names[a.name] {
			t.Errorf("verb %d has no name, no scope or the name of another: %+v", v, a)
		}
		names[a.name] = true
		if a.op != "" {
			ops[a.op] = true
		}
	}
	for _, info := range backend.Algorithms() {
		for _, p := range info.Purposes {
			for _, op := range backend.OperationsOf(info, p) {
				if !ops[op] {
					t.Errorf("no action uses %s", op)
				}
				if bit(op) == 0 {
					t.Errorf("%s has no bit", op)
				}
			}
		}
	}
}
