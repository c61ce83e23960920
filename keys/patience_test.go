package keys_test

import (
	"context"
	"testing"
	"time"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

// queue is a backend on which as many operations wait as it is told.
type queue struct {
	backend.Backend
	waiting int
}

func (q *queue) Queued() int { return q.waiting }

// noting keeps the last entry.
type noting struct {
	silent
	last audit.Entry
}

func (n *noting) Record(_ context.Context, e *audit.Entry, _ ...audit.Change) (uint64, error) {
	n.last = *e
	return 0, nil
}

// A record waits for others only while they queue for the same device, and no longer than a quarter of what its operation took.
func TestPatience(t *testing.T) {
	e := newEnv(t, nil)
	k := e.create("k", backend.AES256GCM)
	q, log := &queue{Backend: e.soft}, &noting{}
	clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s, err := keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: log, Backends: []backend.Backend{q},
		Now: func() time.Time { clock = clock.Add(time.Millisecond); return clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, waiting := range []int{0, 3, 0} {
		q.waiting = waiting
		if _, err := s.Encrypt(t.Context(), e.c, keys.Target{Key: k.ID.String()}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x")}}, true); err != nil {
			t.Fatal(err)
		}
		switch p := log.last.Patience; {
		case waiting == 0 && p != 0:
			t.Errorf("nobody waits, and the record has a patience of %v", p)
		case waiting > 0 && (p <= 0 || p > log.last.Latency/4):
			t.Errorf("%d wait, and the record of what took %v has a patience of %v", waiting, log.last.Latency, p)
		}
	}
}
