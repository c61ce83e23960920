package token

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
)

// TestWrappedSpoiled: no bit of a wrapped key can change, and it is of use as itself alone.
func TestWrappedSpoiled(t *testing.T) {
	d := openToken(t, rig.SoftHSM(t))
	o, err := d.Generate(t.Context(), newID(), backend.HMACSHA256, backend.PurposeMAC, true)
	if err != nil {
		t.Fatal(err)
	}
	mac := func(id ID, a backend.Algorithm, blob []byte) error {
		_, err := d.Use(t.Context(), Call{Op: MAC, ID: id, Algorithm: a, Wrapped: blob, Input: []byte("message")})
		return err
	}
	for i := range o.Wrapped {
		bad := bytes.Clone(o.Wrapped)
		bad[i] ^= 1
		if err := mac(o.ID, o.Algorithm, bad); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for _, bad := range [][]byte{{}, o.Wrapped[:40], o.Wrapped[1:], append(bytes.Clone(o.Wrapped), 0)} {
		if err := mac(o.ID, o.Algorithm, bad); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("%d bytes of %d: %v", len(bad), len(o.Wrapped), err)
		}
	}
	for range 2 { // the second time it is loaded already
		if err := mac(newID(), o.Algorithm, o.Wrapped); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("under another identity: %v", err)
		}
		if err := mac(o.ID, backend.HMACSHA512, o.Wrapped); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("as another algorithm: %v", err)
		}
		if err := mac(o.ID, o.Algorithm, o.Wrapped); err != nil {
			t.Errorf("as itself: %v", err)
		}
	}
	if s := d.Stats(); s.Breaker != "closed" || s.Reinitialisations != 0 {
		t.Errorf("Stats: %+v", s)
	}
}

// TestWrappedMany: more keys than may stay loaded, used by many at once, leave no more objects than that.
func TestWrappedMany(t *testing.T) {
	const keep = 4
	d := openToken(t, rig.SoftHSM(t), func(c *Config) { c.WrappedCache = keep })
	keys := make([]Object, 3*keep)
	want := make([][]byte, len(keys))
	use := func(i int) ([]byte, error) {
		o := keys[i]
		return d.Use(t.Context(), Call{Op: MAC, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: []byte("message")})
	}
	for i := range keys {
		var err error
		if keys[i], err = d.Generate(t.Context(), newID(), backend.HMACSHA256, backend.PurposeMAC, true); err != nil {
			t.Fatal(err)
		}
		if want[i], err = use(i); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for j := range 60 {
				i := (j*(n+1) + n) % len(keys)
				got, err := use(i)
				if err != nil || !bytes.Equal(got, want[i]) {
					t.Errorf("key %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	err := d.do(t.Context(), 0, func(s *session) error {
		loaded, err := d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, inSession, nil, objectLabel, 100)
		if err == nil && len(loaded) > keep {
			err = errors.New("more keys are loaded than may be")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWrappingKeyOnce: several owners of one token that all want the first wrapped key make one wrapping key together.
func TestWrappingKeyOnce(t *testing.T) {
	p := rig.SoftHSM(t)
	devices := make([]*device, 4)
	for i := range devices {
		devices[i] = openToken(t, p)
	}
	made := make([]Object, len(devices))
	var wg sync.WaitGroup
	for i, d := range devices {
		wg.Go(func() {
			var err error
			if made[i], err = d.Generate(t.Context(), newID(), backend.HMACSHA256, backend.PurposeMAC, true); err != nil {
				t.Errorf("Generate: %v", err)
			}
		})
	}
	wg.Wait()
	for _, d := range devices {
		for _, o := range made {
			if _, err := d.Use(t.Context(), Call{Op: MAC, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: []byte("message")}); err != nil {
				t.Errorf("Use: %v", err)
			}
		}
	}
	err := devices[0].do(t.Context(), 0, func(s *session) error {
		for _, label := range []string{defaultKEKLabel, defaultKEKLabel + "-mac"} {
			found, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, nil, label, 10)
			if err != nil {
				return err
			}
			if len(found) != 1 {
				t.Errorf("%d objects called %s", len(found), label)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWrappedNeedsItsToken: a wrapped key of one token is of no use to another.
func TestWrappedNeedsItsToken(t *testing.T) {
	one := rig.SoftHSM(t)
	two := one.Another(t, "second") // SoftHSM sees the tokens that are there when it is initialised
	a, b := openToken(t, one), openToken(t, two)
	o, err := a.Generate(t.Context(), newID(), backend.HMACSHA256, backend.PurposeMAC, true)
	if err != nil {
		t.Fatal(err)
	}
	call := Call{Op: MAC, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped}
	if _, err := b.Use(t.Context(), call); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("on a token without a wrapping key: %v", err)
	}
	if _, err := b.Generate(t.Context(), newID(), backend.HMACSHA256, backend.PurposeMAC, true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Use(t.Context(), call); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("on a token with another wrapping key: %v", err)
	}
}

// TestWrappedLengths: a key of which the module gave too much or too little is not acknowledged.
func TestWrappedLengths(t *testing.T) {
	b := breakable(t)
	for _, change := range []string{"-8", "+8", "-1", "+16"} {
		b.Length(t, "C_WrapKey", change, "on=both")
		for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.AES256GCM} {
			if _, err := b.Generate(t.Context(), newID(), a, purposeOf(a), true); !fault.Has(err, fault.BackendUnavailable) {
				t.Errorf("%s, %s: %v", change, a, err)
			}
		}
		b.Clear(t)
		b.recovers(t)
	}
}

// TestWrappedForms: a key that was wrapped when the token had settled on another form stays readable.
func TestWrappedForms(t *testing.T) {
	f := rig.Fault(t, rig.SoftHSM(t))
	f.HideMechanism(t, pkcs11.CKM_AES_KEY_WRAP_PAD)
	old := openToken(t, f.Part)
	var keys []Object
	for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.AES256GCM} {
		o, err := old.Generate(t.Context(), newID(), a, purposeOf(a), true)
		if err != nil {
			t.Fatal(err)
		}
		if wrapForm(o.Wrapped[1]) == formKWP {
			t.Fatalf("%s is wrapped by what was hidden", a)
		}
		keys = append(keys, o)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	f.Clear(t)
	now := openToken(t, f.Part)
	use := func(o Object) error {
		op := Encrypt
		if o.Public != nil {
			op = Sign
		}
		_, err := now.Use(t.Context(), Call{Op: op, ID: o.ID, Algorithm: o.Algorithm, Wrapped: o.Wrapped, Input: make([]byte, 32)})
		return err
	}
	for _, o := range keys {
		if err := use(o); err != nil {
			t.Errorf("%s, form %d: %v", o.Algorithm, o.Wrapped[1], err)
		}
		fresh, err := now.Generate(t.Context(), newID(), o.Algorithm, purposeOf(o.Algorithm), true)
		if err != nil {
			t.Fatal(err)
		}
		if wrapForm(fresh.Wrapped[1]) != formKWP {
			t.Errorf("new keys have form %d", fresh.Wrapped[1])
		}
	}
}

func purposeOf(a backend.Algorithm) backend.Purpose {
	info, _ := backend.Lookup(a)
	return info.Purposes[0]
}
