package token

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestNetwork: an HSM behind a network that dies and freezes.
func TestNetwork(t *testing.T) {
	server := rig.P11Kit(t)
	b := &broken{device: openToken(t, server.Part)}
	// Everything with parameters is filtered out on the way: RSA-PSS and RSA-OAEP are composed of the bare operation.
	for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.HMACSHA256, backend.RSA2048} {
		k, _ := kindOf(a)
		for _, p := range k.Purposes {
			o, err := b.Generate(t.Context(), newID(), a, p, false)
			if err != nil {
				t.Fatalf("Generate %s: %v", a, err)
			}
			works(t, b.device, k, p, o, nil)
			if a == backend.ECDSAP256 {
				b.resident = o
			}
		}
	}
	recovers := func(what string) {
		t.Helper()
		start := time.Now()
		for b.sign(t.Context(), b.resident) != nil {
			if time.Since(start) > 15*time.Second { // two seconds, and a while for a busy machine
				t.Fatalf("%s: not back after fifteen seconds", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Logf("%s: back after %v", what, time.Since(start))
	}
	server.Kill(t)
	until := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(until) {
		if err := b.sign(t.Context(), b.resident); !fault.Has(err, fault.BackendUnavailable) {
			t.Fatalf("with the server dead: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	server.Restart(t)
	recovers("killed and restarted")

	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := b.sign(ctx, b.resident); !fault.Has(err, fault.Timeout) {
		t.Errorf("with the server frozen: %v", err)
	}
	server.Continue(t)
	recovers("frozen and thawed")
	waitFor(t, "the frozen call", func() bool { return b.Stats().Stuck == 0 })
}

// TestFunctions: the struct of the library is as functions takes it to be.
func TestFunctions(t *testing.T) {
	typ := reflect.TypeOf(pkcs11.Ctx{})
	if typ.NumField() != 1 || typ.Field(0).Type.Kind() != reflect.Pointer || typ.Field(0).Type.Elem().Size() != 2*unsafe.Sizeof(uintptr(0)) {
		t.Fatalf("the library's Ctx is now %v of %v", typ, typ.Field(0).Type.Elem())
	}
}

// TestWrappedVector holds the form of wrapped keys (docs/formats/hsm-wrapped-key.md) to one computed here.
func TestWrappedVector(t *testing.T) {
	d := openToken(t, rig.SoftHSM(t))
	var kekID, id ID
	copy(kekID[:], known(IDSize))
	copy(id[:], bytes.Repeat([]byte{0xaa}, IDSize))
	kek, mac := known(32), bytes.Repeat([]byte{0x55}, 32)
	err := d.do(t.Context(), 0, func(s *session) error {
		other := companion(kekID)
		for _, o := range []struct {
			object
			value []byte
		}{
			{object{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, label: defaultKEKLabel, id: kekID[:], onToken: true, usages: []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}, kek},
			{object{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, label: defaultKEKLabel + "-mac", id: other[:], onToken: true, usages: []uint{pkcs11.CKA_SIGN}}, mac},
		} {
			if _, err := d.lib.CreateObject(s.SessionHandle, append(d.style.template(o.object), attr(pkcs11.CKA_VALUE, o.value))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	o, err := d.Import(t.Context(), id, backend.AES256GCM, backend.PurposeEncryption, known(32), true)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte{1, 1, 0, 3, 1}, id[:]...)
	want = append(want, kekID[:]...)
	material, err := keyenc.KWPWrap(kek, known(32))
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, material...)
	h := hmac.New(sha256.New, mac)
	h.Write(want)
	want = h.Sum(want)
	if !bytes.Equal(o.Wrapped, want) {
		t.Errorf("wrapped as\n%x, want\n%x", o.Wrapped, want)
	}
	if got := hex.EncodeToString(want); got != wrappedVector {
		t.Errorf("the vector is %s", got)
	}
}

const wrappedVector = "0101000301aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01080f161d242b323940474e555c636a71787f86" +
	"d90d932be4e52d99a5655e181db11d4b7e2a8e4baa2c4a901d4885ade21ff1cc1f6437f0bdda0431c3c7e1582fe838720b0ccbf3bc590e22ff20a7688258845e2c4c7ead4f1ce462"
