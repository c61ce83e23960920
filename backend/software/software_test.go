package software_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// root is a root that can be locked, counts how often it is asked and keeps what it gave, to see whether it is wiped.
type root struct {
	key    []byte
	locked atomic.Bool
	size   int

	mu     sync.Mutex
	labels []string
	given  []secret.Bytes
}

func newRoot() *root {
	r := &root{key: make([]byte, 32), size: 32}
	rand.Read(r.key)
	return r
}

var errLocked = fault.New(fault.Locked, "the root is not open")

func (r *root) derive(label string) (secret.Bytes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.labels = append(r.labels, label)
	if r.locked.Load() {
		return nil, errLocked
	}
	k := secret.Bytes(slices.Clone(r.key[:r.size]))
	r.given = append(r.given, k)
	return k, nil
}

func open(t testing.TB, r *root) *software.Backend {
	t.Helper()
	b, err := software.Open(t.Context(), software.Options{Name: "soft", Derive: r.derive})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func aes256() backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption}
}

// TestLocked: while the root is locked every use of it says so and the rest works; unlocking needs no second Open.
func TestLocked(t *testing.T) {
	r := newRoot()
	r.locked.Store(true)
	b := open(t, r)
	_, err1 := b.Generate(t.Context(), aes256())
	_, err2 := b.Import(t.Context(), aes256(), make([]byte, 32))
	_, err3 := b.Seal(t.Context(), []byte("x"), nil)
	_, err4 := b.Open(t.Context(), []byte("x"), nil)
	err5 := b.Ping(t.Context())
	for i, err := range []error{err1, err2, err3, err4, err5} {
		if !fault.Has(err, fault.Locked) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := b.Random(t.Context(), make([]byte, 4)); err != nil {
		t.Errorf("Random needs no root: %v", err)
	}
	if err := b.Destroy(t.Context(), backend.Ref{Spec: aes256()}); err != nil {
		t.Errorf("Destroy needs no root: %v", err)
	}
	r.locked.Store(false)
	ref, err := b.Generate(t.Context(), aes256())
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.Load(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Close(), b.Ping(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestSealingKey: it is derived under its label, once however many ask at the same time, and wiped by Close.
func TestSealingKey(t *testing.T) {
	r := newRoot()
	b := open(t, r)
	if len(r.labels) != 0 {
		t.Error("Open asks the root")
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := b.Generate(context.Background(), aes256()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if d := cmp.Diff([]string{"keywright/v1/software-sealing"}, r.labels); d != "" {
		t.Error(d)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.given[0], make([]byte, 32)) {
		t.Error("the sealing key is not wiped")
	}
	_, err1 := b.Seal(t.Context(), nil, nil)
	_, err2 := b.Open(t.Context(), nil, nil)
	for i, err := range []error{err1, err2, b.Random(t.Context(), nil), b.Ping(t.Context())} {
		if !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
	if len(r.labels) != 1 {
		t.Error("the root is asked after Close")
	}
}

// TestWrongSizeOfRoot: a key that is not one is not used, and is wiped.
func TestWrongSizeOfRoot(t *testing.T) {
	r := newRoot()
	r.size = 16
	b := open(t, r)
	if _, err := b.Generate(t.Context(), aes256()); !fault.Has(err, fault.Internal) {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(r.given[0], make([]byte, 16)) {
		t.Error("it is not wiped")
	}
}

// TestCloseWhileSealing: the key is not wiped from under a call: what is sealed opens, or the call is refused.
func TestCloseWhileSealing(t *testing.T) {
	r := newRoot()
	for range 50 {
		b, again := open(t, r), open(t, r)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				blob, err := b.Seal(context.Background(), []byte("value"), []byte("bound"))
				if fault.Has(err, fault.BackendUnavailable) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := again.Open(context.Background(), blob, []byte("bound")); err != nil || string(got) != "value" {
					t.Errorf("sealed under another key: %v", err)
				}
			})
		}
		wg.Go(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
}

// TestSealedForOthersIsNoKey: what callers seal and key material do not pass for each other.
func TestSealedForOthersIsNoKey(t *testing.T) {
	r := newRoot()
	b := open(t, r)
	ref, err := b.Generate(t.Context(), aes256())
	if err != nil {
		t.Fatal(err)
	}
	// The binding of the key, found out by taking the blob apart as its format page says.
	binding := bindingOf(ref)
	if _, err := envelope.OpenSoftware(r.key, ref.Blob[1:], binding); err != nil {
		t.Fatalf("the binding is not as thought: %v", err)
	}
	if _, err := b.Open(t.Context(), ref.Blob[1:], binding); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("key material opens for a caller: %v", err)
	}
	blob, err := b.Seal(t.Context(), make([]byte, 32), binding)
	if err != nil {
		t.Fatal(err)
	}
	forged := ref
	forged.Blob = append([]byte{1}, blob...)
	if _, err := b.Load(t.Context(), forged); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a caller's blob loads as a key: %v", err)
	}
}

// bindingOf writes the binding of a symmetric key by docs/formats/sealed-key.md.
func bindingOf(r backend.Ref) []byte {
	var b []byte
	field := func(f ...byte) { b = append(append(b, byte(len(f)>>8), byte(len(f))), f...) }
	field([]byte("keywright/v1/sealed-key")...)
	field(r.Spec.Tenant[:]...)
	field(r.Spec.KeyID[:]...)
	field(0, 0, 0, byte(r.Spec.Version))
	field(0, 3)
	field([]byte(r.Spec.Purpose)...)
	field(0)
	field([]byte("software")...)
	field(0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
		0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55) // SHA-256 of nothing
	return b
}

func TestInfo(t *testing.T) {
	info := open(t, newRoot()).Info()
	if info.Kind != "software" || info.Name != "soft" || info.ID != "software" || info.KeepsObjects || len(info.Quirks) == 0 {
		t.Errorf("%+v", info)
	}
	if d := cmp.Diff([]backend.Custody{backend.CustodySoftware}, info.Custody); d != "" {
		t.Error(d)
	}
	for _, a := range backend.Algorithms() {
		if c, ok := info.Can(a.Name); !ok || c.Custody != backend.CustodySoftware || !c.Import {
			t.Errorf("%s: %+v", a.Name, c)
		}
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	r := newRoot()
	for _, o := range []software.Options{{}, {Name: "a"}, {Derive: r.derive}} {
		if _, err := software.Open(t.Context(), o); err == nil {
			t.Errorf("name %q, root %v", o.Name, o.Derive != nil)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := software.Open(ctx, software.Options{Name: "a", Derive: r.derive}); !fault.Has(err, fault.Timeout) {
		t.Errorf("an ended context: %v", err)
	}
}
