package token

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// texts are items to encrypt.
func texts(n int) []backend.Item {
	out := make([]backend.Item, n)
	for i := range out {
		out[i] = backend.Item{Input: bytes.Repeat([]byte{byte(i)}, i+1), AAD: known(i % 5)}
	}
	return out
}

// TestManyHeals: a session that fails in the middle of many items costs none of them, and each has its second attempt.
func TestManyHeals(t *testing.T) {
	b := breakable(t)
	call := Call{Op: Encrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm}
	items := texts(60)
	for _, c := range []struct{ fn, rv, when string }{
		{"C_EncryptInit", "CKR_SESSION_HANDLE_INVALID", "every=7"},
		{"C_Encrypt", "CKR_OPERATION_NOT_INITIALIZED", "every=20"},
		{"C_EncryptInit", "CKR_KEY_HANDLE_INVALID", "times=1"},
		{"C_Encrypt", "CKR_FUNCTION_FAILED", "skip=30"},
	} {
		t.Run(c.fn+"/"+c.rv, func(t *testing.T) {
			options := []string{c.when}
			if c.when == "skip=30" {
				options = append(options, "times=1")
			}
			b.Set(t, c.fn, c.rv, options...)
			defer b.Clear(t)
			n := b.Stats().Calls
			out, err := b.UseMany(t.Context(), call, items)
			if err != nil || len(out) != len(items) {
				t.Fatalf("%d results: %v", len(out), err)
			}
			if now := b.Stats(); now.Calls < n+uint64(len(items)) || now.Breaker != "closed" {
				t.Errorf("%d calls are counted for %d items, the breaker is %s", now.Calls-n, len(items), now.Breaker)
			}
			open := call
			open.Op = Decrypt
			sealed := make([]backend.Item, len(out))
			for i := range out {
				sealed[i] = backend.Item{Input: out[i].Output, AAD: items[i].AAD}
			}
			b.Clear(t)
			back, err := b.UseMany(t.Context(), open, sealed)
			if err != nil {
				t.Fatal(err)
			}
			for i := range back {
				if back[i].Err != nil || !bytes.Equal(back[i].Output, items[i].Input) {
					t.Errorf("item %d is not what it was: %v", i, back[i].Err)
				}
			}
		})
	}
	b.TokenGone(t)
	if out, err := b.UseMany(t.Context(), call, items); !fault.Has(err, fault.BackendUnavailable) || out != nil {
		t.Errorf("with the token gone: %d results, %v", len(out), err)
	}
	b.TokenBack(t)
	b.recovers(t)
}

// TestManyTakesTurns: whoever wants the session of a slow token for one operation does not wait for all items of another.
func TestManyTakesTurns(t *testing.T) {
	b := breakable(t, func(c *Config) { c.Sessions = 1 })
	const each, n = 2 * time.Millisecond, 200
	b.Delay(t, "C_Encrypt", each)
	defer b.Clear(t)
	call := Call{Op: Encrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm}
	var many sync.WaitGroup
	done := make(chan struct{})
	many.Go(func() {
		defer close(done)
		if _, err := b.UseMany(t.Context(), call, texts(n)); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * each)
	single := call
	single.Input = []byte("text")
	for range 5 {
		start := time.Now()
		if _, err := b.Use(t.Context(), single); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > n*each/4 {
			t.Errorf("one operation waited %v beside many", took)
		}
	}
	select {
	case <-done:
		t.Error("the many were done first: the test shows nothing")
	default:
	}
	many.Wait()
}

// TestManyHangs: a module that hangs in the middle costs the caller no more than the deadline.
func TestManyHangs(t *testing.T) {
	b := breakable(t)
	b.Hang(t, "C_Encrypt", "skip=5", "times=1")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	out, err := b.UseMany(ctx, Call{Op: Encrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm}, texts(20))
	if !fault.Has(err, fault.Timeout) || !errors.Is(err, context.DeadlineExceeded) || out != nil {
		t.Errorf("%d results, %v", len(out), err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("after %v", took)
	}
	b.Clear(t)
	b.recovers(t)
}

// TestAttributes: a generated key says so, as a token object and as what a wrapped key becomes.
func TestAttributes(t *testing.T) {
	b := breakable(t)
	o, err := b.Attributes(t.Context(), b.resident.ID, b.resident.Algorithm, nil)
	if err != nil || !o.Local || !o.AlwaysSensitive || !o.NeverExtractable || o.Extractable || o.KeyGenMechanism != 0x1040 {
		t.Errorf("of a resident key: %+v, %v", o, err)
	}
	o, err = b.Attributes(t.Context(), b.wrapped.ID, b.wrapped.Algorithm, b.wrapped.Wrapped)
	if err != nil || o.Local || o.NeverExtractable || !o.Sensitive || o.Extractable || o.KeyGenMechanism != NoMechanism {
		t.Errorf("of a wrapped key: %+v, %v", o, err)
	}
	if _, err := b.Attributes(t.Context(), b.resident.ID, backend.ECDSAP384, nil); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("under another algorithm: %v", err)
	}
	if _, err := b.Attributes(t.Context(), newID(), b.wrapped.Algorithm, b.wrapped.Wrapped); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a wrapped key under another identity: %v", err)
	}
}

// TestNonceOfTokens: a token that is to make the nonces and leaves zeros encrypts nothing.
func TestNonceOfTokens(t *testing.T) {
	d := openToken(t, rig.SoftHSM(t))
	o, err := d.Generate(t.Context(), newID(), backend.AES256GCM, backend.PurposeEncryption, false)
	if err != nil {
		t.Fatal(err)
	}
	call := Call{Op: Encrypt, ID: o.ID, Algorithm: o.Algorithm, Input: []byte("text")}
	if _, err := d.Use(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	d.zeroNonce = true
	if out, err := d.Use(t.Context(), call); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("%d bytes under a nonce of zeros: %v", len(out), err)
	}
}

// TestClaimEnds: a key that could not be made because no session was free in time can be made later under its identity.
func TestClaimEnds(t *testing.T) {
	b := breakable(t, func(c *Config) { c.Sessions = 1 })
	b.Delay(t, "C_Encrypt", 200*time.Millisecond, "times=1")
	var busy sync.WaitGroup
	busy.Go(func() {
		if _, err := b.Use(t.Context(), Call{Op: Encrypt, ID: b.aes.ID, Algorithm: b.aes.Algorithm, Input: []byte("text")}); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	id := newID()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Generate(ctx, id, backend.AES256GCM, backend.PurposeEncryption, false); !fault.Has(err, fault.Timeout) {
		t.Errorf("with no session free: %v", err)
	}
	other := newID()
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Import(ctx, other, backend.AES256GCM, backend.PurposeEncryption, known(32), false); !fault.Has(err, fault.Timeout) {
		t.Errorf("with no session free: %v", err)
	}
	busy.Wait()
	if _, err := b.Generate(t.Context(), id, backend.AES256GCM, backend.PurposeEncryption, false); err != nil {
		t.Errorf("the same key later: %v", err)
	}
	if _, err := b.Import(t.Context(), other, backend.AES256GCM, backend.PurposeEncryption, known(32), false); err != nil {
		t.Errorf("the same key later: %v", err)
	}
}

// TestImportTwice: a second attempt of an import, after a session that failed, still has the material.
func TestImportTwice(t *testing.T) {
	b := breakable(t)
	k, _ := kindOf(backend.AES256GCM)
	raw := make([]byte, k.KeySize)
	rand.Read(raw)
	for _, fn := range []string{"C_FindObjectsInit", "C_FindObjects", "C_GetAttributeValue"} {
		b.Set(t, fn, "CKR_SESSION_HANDLE_INVALID", "times=1")
		o, err := b.Import(t.Context(), newID(), k.Name, backend.PurposeEncryption, bytes.Clone(raw), false)
		if err != nil {
			b.recovers(t) // after the key was asked for there is no second attempt
			continue
		}
		works(t, b.device, k, backend.PurposeEncryption, o, raw)
	}
}
