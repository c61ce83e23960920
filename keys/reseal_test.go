package keys_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// sealedKeys makes n keys of two versions each, with a ciphertext of the first.
func (e *env) sealedKeys(n int) (names []string, ciphertexts [][]byte) {
	e.t.Helper()
	for i := range n {
		name := fmt.Sprintf("key-%02d", i)
		if _, err := e.Create(e.t.Context(), e.c, keys.CreateRequest{Name: name, Algorithm: backend.AES256GCM}); err != nil {
			e.t.Fatal(err)
		}
		out, err := e.Encrypt(e.t.Context(), e.c, keys.Target{Key: name}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte(name)}}, true)
		if err != nil {
			e.t.Fatal(err)
		}
		if _, err := e.Rotate(e.t.Context(), e.c, name); err != nil {
			e.t.Fatal(err)
		}
		names, ciphertexts = append(names, name), append(ciphertexts, out[0].Bytes)
	}
	return names, ciphertexts
}

// opens checks that every ciphertext of the first versions still opens, and that the newest versions work.
func (e *env) opens(names []string, ciphertexts [][]byte) {
	e.t.Helper()
	for i, name := range names {
		out, err := e.Decrypt(e.t.Context(), e.c, keys.Target{}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: ciphertexts[i]}}, true)
		if err != nil || string(out[0].Bytes) != name || out[0].Used.Version != 1 {
			e.t.Fatalf("%s: %v", name, err)
		}
		if _, err := e.Encrypt(e.t.Context(), e.c, keys.Target{Key: name}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte(name)}}, true); err != nil {
			e.t.Fatal(err)
		}
	}
}

func (e *env) stale() int64 {
	e.t.Helper()
	n, err := e.StaleMaterial(e.t.Context(), e.soft.Info().ID)
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

var quick = keys.ResealOptions{Batch: 4, Share: 1}

// After a walk nothing needs the old root, and everything works without it.
func TestReseal(t *testing.T) {
	e := newEnv(t, nil)
	names, ciphertexts := e.sealedKeys(9)
	if e.stale() != 0 {
		t.Fatal("stale before the root was replaced")
	}
	p, err := e.Reseal(t.Context(), quick)
	if err != nil || p.Resealed != 0 || p.Seen != 18 {
		t.Fatalf("%+v, %v", p, err)
	}
	e.newest = 2
	if e.stale() != 18 {
		t.Fatalf("%d stale of 18", e.stale())
	}
	e.opens(names, ciphertexts)
	var told []keys.ResealProgress
	o := quick
	o.Progress = func(_ context.Context, p keys.ResealProgress) error {
		told = append(told, p)
		return nil
	}
	head, err := e.store.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err = e.Reseal(t.Context(), o)
	if err != nil || p.Resealed != 18 || p.Seen != 18 || p.Total != 18 || p.Failed != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if len(told) != 5 || told[0].Resealed != 4 || told[4] != p || !slices.IsSortedFunc(told, func(a, b keys.ResealProgress) int { return int(a.Seen - b.Seen) }) {
		t.Errorf("told: %+v", told)
	}
	after, err := e.store.AuditHead(t.Context())
	if err != nil || after.Size-head.Size != 5 {
		t.Errorf("%d entries of 5 batches, %v", after.Size-head.Size, err)
	}
	if e.stale() != 0 {
		t.Errorf("%d stale after the walk", e.stale())
	}
	e.oldest = 2 // retired
	e.opens(names, ciphertexts)
	e.reopen()
	e.opens(names, ciphertexts)
	if p, err := e.Reseal(t.Context(), quick); err != nil || p.Resealed != 0 {
		t.Errorf("again: %+v, %v", p, err)
	}
}

// A walk that is broken off goes on from where its progress was, and counts everything once.
func TestResealResumes(t *testing.T) {
	e := newEnv(t, nil)
	names, ciphertexts := e.sealedKeys(10)
	e.newest = 2
	enough := errors.New("enough")
	var last keys.ResealProgress
	for stops := 1; ; stops++ {
		o := quick
		o.From, o.Before = last.At, last
		batches := 0
		o.Progress = func(_ context.Context, p keys.ResealProgress) error {
			last = p
			if batches++; batches == 2 {
				return enough
			}
			return nil
		}
		p, err := e.Reseal(t.Context(), o)
		if err == nil {
			last = p
			break
		}
		if stops > 10 {
			t.Fatal("it does not get on")
		}
		e.reopen()
	}
	if last.Seen != 20 || last.Resealed != 20 || last.Total != 20 || e.stale() != 0 {
		t.Errorf("%+v", last)
	}
	e.oldest = 2
	e.opens(names, ciphertexts)
}

// A log that fails stops the walk before the batch; what is told is what is durable.
func TestResealLogFails(t *testing.T) {
	e := newEnv(t, nil)
	names, ciphertexts := e.sealedKeys(6)
	e.newest = 2
	n := 0
	e.recorder.set(func(entry *audit.Entry) error {
		if entry.Action != keys.ActionReseal {
			return nil
		}
		if n++; n == 2 {
			return fault.New(fault.AuditUnavailable, "down")
		}
		return nil
	})
	p, err := e.Reseal(t.Context(), quick)
	if !fault.Has(err, fault.AuditUnavailable) || p.Resealed != 4 || p.Seen != 4 {
		t.Fatalf("%+v, %v", p, err)
	}
	o := quick
	o.From, o.Before = p.At, p
	if p, err = e.Reseal(t.Context(), o); err != nil || p.Resealed != 12 || p.Seen != 12 {
		t.Fatalf("%+v, %v", p, err)
	}
	e.oldest = 2
	e.opens(names, ciphertexts)
}

// Changes of others between reading and writing: the version is read again, nothing of the change is lost.
func TestResealRaces(t *testing.T) {
	e := newEnv(t, nil)
	names, ciphertexts := e.sealedKeys(4)
	e.newest = 2
	raced := false
	e.recorder.set(func(entry *audit.Entry) error {
		if entry.Action != keys.ActionReseal || raced {
			return nil
		}
		raced = true
		for _, name := range names {
			if _, err := e.SetVersionState(t.Context(), e.c, name, 2, keys.StateDeactivated); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	p, err := e.Reseal(t.Context(), keys.ResealOptions{Batch: 100, Share: 1})
	if err != nil || !raced || p.Resealed != 8 || p.Failed != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, name := range names {
		if v, err := e.Version(t.Context(), e.c, name, 2); err != nil || v.State != keys.StateDeactivated {
			t.Errorf("%s: %v", name, err)
		}
	}
	e.oldest = 2
	for i := range names {
		if _, err := e.Decrypt(t.Context(), e.c, keys.Target{}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: ciphertexts[i]}}, true); err != nil {
			t.Error(err)
		}
	}
}

// What does not open is told, stays as it is, and holds up nothing.
func TestResealDamaged(t *testing.T) {
	e := newEnv(t, nil)
	names, ciphertexts := e.sealedKeys(5)
	k, err := e.Get(t.Context(), e.c, names[2])
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.store.Version(t.Context(), k.ID, 2)
	if err != nil {
		t.Fatal(err)
	}
	v.Blob[len(v.Blob)-1] ^= 1
	if _, err := e.log.Record(t.Context(), &audit.Entry{Principal: "test", Action: "damage", Outcome: "ok"}, e.store.UpdateVersion(v)); err != nil {
		t.Fatal(err)
	}
	e.newest = 2
	var failed []string
	o := quick
	o.Failed = func(key uuid.UUID, version uint32, err error) {
		failed = append(failed, fmt.Sprintln(key == k.ID, version, fault.CodeOf(err)))
	}
	p, err := e.Reseal(t.Context(), o)
	if err != nil || p.Resealed != 9 || p.Failed != 1 || !slices.Equal(failed, []string{"true 2 " + string(fault.KeyMaterial) + "\n"}) {
		t.Fatalf("%+v, %v, %v", p, failed, err)
	}
	now, err := e.store.Version(t.Context(), k.ID, 2)
	if err != nil || !slices.Equal(now.Blob, v.Blob) || now.Revision != v.Revision+1 {
		t.Errorf("the damaged one was changed: %v", err)
	}
	if e.stale() != 1 {
		t.Errorf("%d stale", e.stale())
	}
	e.oldest = 2
	e.opens(append(names[:2:2], names[3:]...), append(ciphertexts[:2:2], ciphertexts[3:]...))
}

// With a share the walk pauses, and a pause ends with the context.
func TestResealPauses(t *testing.T) {
	e := newEnv(t, func(o *keys.Options) { o.Now = time.Now })
	e.sealedKeys(4)
	e.newest = 2
	start := time.Now()
	if _, err := e.Reseal(t.Context(), keys.ResealOptions{Batch: 1, Share: 1}); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	e.newest = 3
	start = time.Now()
	if _, err := e.Reseal(t.Context(), keys.ResealOptions{Batch: 1, Share: 0.1}); err != nil {
		t.Fatal(err)
	}
	if slow := time.Since(start); slow < 3*whole {
		t.Errorf("%v at a tenth of the time, %v at all of it", slow, whole)
	}
	e.newest = 4
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	_, err := e.Reseal(ctx, keys.ResealOptions{Batch: 1, Share: 1e-6})
	if !fault.Has(err, fault.Timeout) || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
