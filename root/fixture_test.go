package root

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// memory is a Store and the Recorder that carries out its changes, both as their contracts say, without durability: what
// is tested here is the Keeper. The real ones are tested in store/ and audit/.
type memory struct {
	mu      sync.Mutex
	slots   []*Slot
	newest  uint32 // generation; 0 is the first
	kept    []*Kept
	entries []audit.Entry
	broken  error // what Record answers while it is set
	down    error // what Slots answers while it is set
}

type change func(*memory) error

func (change) StoreChange() {}

func (m *memory) Slots(context.Context) ([]*Slot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.slots), m.down
}

func (m *memory) InsertSlot(s *Slot) audit.Change {
	return change(func(m *memory) error {
		if s.Generation != max(m.newest, 1) {
			return fault.New(fault.Conflict, "the root was replaced")
		}
		m.slots = append(m.slots, s)
		return nil
	})
}

func (m *memory) Keyring(context.Context) (uint32, []*Kept, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(m.newest, 1), slices.Clone(m.kept), m.down
}

func (m *memory) ReplaceRoot(from uint32, slots []*Slot, kept []*Kept) audit.Change {
	return change(func(m *memory) error {
		if max(m.newest, 1) != from {
			return fault.New(fault.Conflict, "the root was replaced")
		}
		m.newest, m.slots, m.kept = from+1, slots, kept
		return nil
	})
}

func (m *memory) ForgetKept(generation uint32, kinds ...KeptKind) audit.Change {
	return change(func(m *memory) error {
		if max(m.newest, 1) != generation {
			return fault.New(fault.Conflict, "the root was replaced")
		}
		m.kept = slices.DeleteFunc(slices.Clone(m.kept), func(e *Kept) bool { return slices.Contains(kinds, e.Kind) })
		return nil
	})
}

func (m *memory) InsertFirstSlot(s *Slot) audit.Change {
	return change(func(m *memory) error {
		if len(m.slots) > 0 {
			return fault.New(fault.Conflict, "there are slots")
		}
		m.slots = append(m.slots, s)
		return nil
	})
}

func (m *memory) DeleteSlot(id uuid.UUID) audit.Change {
	return change(func(m *memory) error {
		i := slices.IndexFunc(m.slots, func(s *Slot) bool { return s.ID == id })
		switch {
		case i < 0:
			return fault.New(fault.SlotNotFound, "no such slot")
		case len(m.slots) == 1:
			return fault.New(fault.LastSlot, "the last slot")
		}
		m.slots = slices.Delete(slices.Clone(m.slots), i, i+1)
		return nil
	})
}

func (m *memory) Record(_ context.Context, e *audit.Entry, changes ...audit.Change) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return 0, m.broken
	}
	for _, c := range changes {
		if err := c.(change)(m); err != nil {
			return 0, err
		}
	}
	m.entries = append(m.entries, *e)
	return uint64(len(m.entries) - 1), nil
}

func (m *memory) breakLog(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
}

// log gives "action outcome" of every entry since the last call.
func (m *memory) log() (lines []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		line := e.Action + " " + e.Outcome
		if e.Detail != "" {
			line += " " + e.Detail
		}
		lines = append(lines, line)
	}
	m.entries = nil
	return lines
}

var who = Caller{Principal: "system", RequestID: "r-1"}

// cheap is the least Argon2id that a slot may have.
var cheap = Cost{MemoryKiB: minMemoryKiB, Time: 1, Parallelism: 2}

func keeper(t testing.TB, m *memory) *Keeper {
	t.Helper()
	k := New(m, m, Options{Argon2: cheap, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(k.Close)
	return k
}

const phrase = "correct horse battery staple"

func passphraseSlot() NewSlot {
	return NewSlot{Kind: KindPassphrase, Label: "operator", Passphrase: secret.Bytes(phrase)}
}

// initialised gives an open keeper with one passphrase slot.
func initialised(t testing.TB) (*memory, *Keeper) {
	t.Helper()
	m := new(memory)
	k := keeper(t, m)
	if _, err := k.Init(t.Context(), who, passphraseSlot()); err != nil {
		t.Fatal(err)
	}
	return m, k
}

func want(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("error %v, want %q", err, code)
	}
}

func derive(t *testing.T, k *Keeper, label string) string {
	t.Helper()
	key, err := k.Derive(label)
	if err != nil {
		t.Fatal(err)
	}
	if len(key) != Size {
		t.Fatalf("a derived key has %d bytes", len(key))
	}
	return string(key)
}
