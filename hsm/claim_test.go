package hsm_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/hsm"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// kept is a token that a backend does not close.
type kept struct{ token.Token }

func (kept) Close() error { return nil }

// TestFirstOpening has two processes find the same empty token at the same moment, many times: they end with the same keys.
func TestFirstOpening(t *testing.T) {
	p := rig.SoftHSM(t)
	tokens := []token.Token{at(t, p), at(t, p)}
	rounds := 20
	if backendtest.RaceDetector {
		rounds = 5 // under it they come less close together
	}
	for round := range rounds {
		var both [2]*hsm.Backend
		var errs [2]error
		var all sync.WaitGroup
		start := make(chan struct{})
		for i := range both {
			all.Go(func() {
				<-start
				both[i], errs[i] = hsm.Open(t.Context(), hsm.Options{Name: "first", Members: []hsm.Member{{Token: kept{tokens[i]}}}, Logger: logger()})
			})
		}
		close(start)
		all.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if a, b := both[0].Info().ID, both[1].Info().ID; a != b {
			t.Fatalf("round %d: one token has the identities %s and %s", round, a, b)
		}
		sealed, err := both[0].Seal(t.Context(), []byte("text"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := both[1].Open(t.Context(), sealed, nil); err != nil {
			t.Errorf("round %d: one process does not open what the other has sealed: %v", round, err)
		}
		list, err := tokens[0].List(t.Context())
		if err != nil || len(list) != 2 {
			t.Errorf("round %d: %d objects stay, %v", round, len(list), err)
		}
		for i := range both {
			if err := both[i].Close(); err != nil {
				t.Error(err)
			}
		}
		for _, k := range hsm.ServiceKeys() {
			if err := tokens[0].Destroy(t.Context(), k.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// fast is a clock on which ten seconds pass with each look.
func fast() func() time.Time {
	var n atomic.Int64
	start := time.Now()
	return func() time.Time { return start.Add(time.Duration(n.Add(1)) * 10 * time.Second) }
}

// crashed lets a process end between its claim and the key.
type crashed struct{ kept }

var errCrash = errors.New("the process is gone")

func (c crashed) List(ctx context.Context) ([]token.Object, error) {
	list, err := c.kept.List(ctx)
	if err == nil && len(list) > 0 { // its claims
		err = errCrash
	}
	return list, err
}

func (c crashed) Destroy(context.Context, token.ID) error { return errCrash }

// TestLeftClaim: what a process left behind that crashed keeps nobody from the token for ever, and is no orphan.
func TestLeftClaim(t *testing.T) {
	p := rig.SoftHSM(t)
	tok := at(t, p)
	if _, err := hsm.Open(t.Context(), hsm.Options{Name: "crash", Members: []hsm.Member{{Token: crashed{kept{tok}}}}}); !errors.Is(err, errCrash) {
		t.Fatalf("Open: %v", err)
	}
	list, err := tok.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%d claims, %v", len(list), err)
	}
	r, err := hsm.Reconcile(list, nil, func(func(hsm.Record) error) error { return nil })
	if err != nil || r.Objects != 0 || !r.Clean() {
		t.Errorf("a claim counts as a key: %+v, %v", r, err)
	}
	b, err := hsm.Open(t.Context(), hsm.Options{Name: "next", Members: []hsm.Member{{Token: kept{tok}}}, Now: fast()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() // read only
	if _, err := b.Generate(t.Context(), spec(backend.AES256GCM, backend.PurposeEncryption)); err != nil {
		t.Error(err)
	}
	if list, err = tok.List(t.Context()); err != nil || len(list) != 3 {
		t.Errorf("%d objects stay, %v", len(list), err)
	}
}
