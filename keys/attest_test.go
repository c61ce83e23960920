package keys_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm"
	tpmdevice "github.com/keywright/keywright/tpm/device"
)

func nonce() []byte { return bytes.Repeat([]byte{7}, 32) }

// TestAttest: a key of the software backend is called what it is, by a signature that a verifier can check alone.
func TestAttest(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	signer, err := e.AttestationKey(ctx, e.c)
	if err != nil {
		t.Fatal(err)
	}
	k := e.create("k", backend.ECDSAP256, func(r *keys.CreateRequest) { r.Policy.Operations = []backend.Operation{backend.OpSign} })
	if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
		t.Fatal(err)
	}
	check := func(version uint32, state string) {
		t.Helper()
		a, err := e.Attest(ctx, e.c, keys.AttestRequest{Key: "k", Version: version, Nonce: nonce()})
		if err != nil {
			t.Fatal(err)
		}
		c, err := attest.Verify(a.Document, attest.Options{Nonce: nonce(), Signer: signer, Now: e.clock.now(), MaxAge: 1})
		if err != nil {
			t.Fatal(err)
		}
		if version == 0 {
			version = 2
		}
		if c.KeyID != k.ID.String() || c.KeyVersion != version || c.State != state || c.Custody != "software" || c.Assurance != attest.AssuranceStatement ||
			c.GeneratedOnDevice || !c.Exportable || c.Origin != "generated" || c.Signer != attest.SignerTrusted || !slices.Equal(c.Policy.Operations, []string{"sign"}) {
			t.Errorf("claims: %+v", c)
		}
		v, err := e.Version(ctx, e.c, "k", version)
		if err != nil || !bytes.Equal(v.Public, c.PublicKey) {
			t.Errorf("the public key is another: %v", err)
		}
		if last := e.lastEntry(); last.Action != "attest" || last.Outcome != "ok" || last.Key != k.ID || last.KeyVersion != version {
			t.Errorf("the log says %+v", last)
		}
	}
	check(0, "active")
	check(1, "deactivated")
	if _, err := e.SetVersionState(ctx, e.c, "k", 1, keys.StateCompromised); err != nil {
		t.Fatal(err)
	}
	check(1, "compromised")
	e.reopen()
	check(2, "active") // by the same key after a restart

	for what, c := range map[string]struct {
		r    keys.AttestRequest
		code fault.Code
	}{
		"no nonce":      {keys.AttestRequest{Key: "k"}, fault.BadSize},
		"a short nonce": {keys.AttestRequest{Key: "k", Nonce: make([]byte, 15)}, fault.BadSize},
		"a long nonce":  {keys.AttestRequest{Key: "k", Nonce: make([]byte, 65)}, fault.BadSize},
		"no such key":   {keys.AttestRequest{Key: "l", Nonce: nonce()}, fault.KeyNotFound},
		"a later one":   {keys.AttestRequest{Key: "k", Nonce: nonce(), Version: 9}, fault.VersionNotFound},
		"the signer":    {keys.AttestRequest{Key: "~sign/attestation", Nonce: nonce()}, fault.KeyNotFound},
	} {
		a, err := e.Attest(ctx, e.c, c.r)
		if wantCode(t, err, c.code, what); a != nil {
			t.Errorf("%s: an answer with an error", what)
		}
	}
	_, err = e.Attest(ctx, caller(k.ID), keys.AttestRequest{Key: k.ID.String(), Nonce: nonce()})
	wantCode(t, err, fault.KeyNotFound, "another tenant's key")
	if _, err := e.SetVersionState(ctx, e.c, "k", 2, keys.StateSuspended); err != nil {
		t.Fatal(err)
	}
	_, err = e.Attest(ctx, e.c, keys.AttestRequest{Key: "k", Nonce: nonce()})
	wantCode(t, err, fault.BadState, "a suspended version")
	v, err := e.Version(ctx, e.c, "k", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Import(ctx, e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: "p", Algorithm: backend.ECDSAP256}, Public: v.Public}); err != nil {
		t.Fatal(err)
	}
	_, err = e.Attest(ctx, e.c, keys.AttestRequest{Key: "p", Nonce: nonce()})
	wantCode(t, err, fault.OperationNotAllowed, "a public-only key")

	e.recorder.set(func(*audit.Entry) error { return errors.New("full") })
	a, err := e.Attest(ctx, e.c, keys.AttestRequest{Key: "k", Version: 1, Nonce: nonce()})
	if fault.CodeOf(err) == "" || a != nil {
		t.Errorf("evidence without a record: %v, %v", a, err)
	}
	e.recorder.set(nil)
}

// witness is a device that keeps objects and tells of its keys what a test wants told.
type witness struct {
	*device
	tell func(*attest.PKCS11) error
	kind string
	mute bool // its handles tell nothing
}

func (w *witness) Info() backend.Info {
	i := w.device.Info()
	i.Custody = []backend.Custody{backend.CustodyDevice}
	i.Capabilities = slices.Clone(i.Capabilities)
	for n := range i.Capabilities {
		c := &i.Capabilities[n]
		c.Custody, c.Operations = backend.CustodyDevice, append(slices.Clone(c.Operations), backend.OpAttest)
	}
	return i
}

func (w *witness) Generate(ctx context.Context, s backend.Spec) (backend.Ref, error) {
	s.Custody = backend.CustodySoftware
	ref, err := w.device.Generate(ctx, s)
	ref.Spec.Custody = backend.CustodyDevice
	return ref, err
}

func (w *witness) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	r.Spec.Custody = backend.CustodySoftware
	k, err := w.Backend.Load(ctx, r)
	if s, ok := k.(backend.Signer); ok && !w.mute {
		return &testimony{s, w}, err
	}
	return k, err
}

type testimony struct {
	backend.Signer
	w *witness
}

func (k *testimony) Attest(context.Context, []byte) (backend.Evidence, error) {
	e := attest.PKCS11{Placement: attest.PlacementResident, Attributes: &attest.Attributes{Local: true, Sensitive: true, AlwaysSensitive: true, NeverExtractable: true}}
	if k.w.tell != nil {
		if err := k.w.tell(&e); err != nil {
			return backend.Evidence{}, err
		}
	}
	b, err := attest.Encode(e)
	return backend.Evidence{Kind: k.w.kind, Document: b}, err
}

// TestRequireAttestation: with such a policy nothing becomes active that has not proven where it is, and nothing of it is left behind.
func TestRequireAttestation(t *testing.T) {
	w := &witness{kind: attest.KindPKCS11}
	e := newEnv(t, nil)
	e.options = func(o *keys.Options) {
		w.device = e.device
		o.Backends = []backend.Backend{w}
	}
	e.reopen()
	ctx := t.Context()
	if _, err := e.AttestationKey(ctx, e.c); err != nil { // an object of its own on the device
		t.Fatal(err)
	}
	must := func(r *keys.CreateRequest) { r.Policy.RequireAttestation = true }
	k := e.create("k", backend.ECDSAP256, must)
	if k.State != keys.StateActive || !k.Policy.RequireAttestation || k.Custody != backend.CustodyDevice {
		t.Errorf("the key is %+v", k)
	}
	a, err := e.Attest(ctx, e.c, keys.AttestRequest{Key: "k", Nonce: nonce()})
	if err != nil || !a.Claims.GeneratedOnDevice || a.Claims.Exportable || !a.Claims.Policy.RequireAttestation || a.Claims.Assurance != attest.AssuranceStatement {
		t.Errorf("%+v, %v", a, err)
	}
	objects := e.device.count()
	away := fault.New(fault.BackendUnavailable, "away")
	for what, c := range map[string]struct {
		tell func(*attest.PKCS11) error
		kind string
		mute bool
		code fault.Code
	}{
		"extractable": {tell: func(p *attest.PKCS11) error {
			p.Attributes.Extractable, p.Attributes.NeverExtractable = true, false
			return nil
		}},
		"once in clear":        {tell: func(p *attest.PKCS11) error { p.Attributes.AlwaysSensitive = false; return nil }},
		"not made there":       {tell: func(p *attest.PKCS11) error { p.Attributes.Local = false; return nil }},
		"kept outside":         {tell: func(p *attest.PKCS11) error { p.Placement, p.Attributes = attest.PlacementWrapped, nil; return nil }},
		"leaking":              {tell: func(p *attest.PKCS11) error { p.LeaksWrapped = true; return nil }},
		"of another kind":      {kind: attest.KindTPM},
		"of no kind":           {kind: "sgx"},
		"no evidence":          {mute: true},
		"device gone":          {tell: func(*attest.PKCS11) error { return away }, code: fault.BackendUnavailable},
		"device without words": {tell: func(*attest.PKCS11) error { return errors.New("?") }, code: fault.Internal},
	} {
		w.tell, w.mute, w.kind = c.tell, c.mute, attest.KindPKCS11
		if c.kind != "" {
			w.kind = c.kind
		}
		if c.code == "" {
			c.code = fault.Attestation
		}
		_, err := e.Create(ctx, e.c, keys.CreateRequest{Name: "bad", Algorithm: backend.ECDSAP256, Policy: keys.Policy{RequireAttestation: true}})
		wantCode(t, err, c.code, what)
		if _, err := e.Get(ctx, e.c, "bad"); !fault.Has(err, fault.KeyNotFound) {
			t.Errorf("%s: the key is there: %v", what, err)
		}
		_, err = e.Rotate(ctx, e.c, "k")
		wantCode(t, err, c.code, what+", rotating")
		if got, err := e.Get(ctx, e.c, "k"); err != nil || got.PrimaryVersion != k.PrimaryVersion || got.State != keys.StateActive {
			t.Errorf("%s: rotation changed the key: %+v, %v", what, got, err)
		}
		if n := e.device.count(); n != objects {
			t.Errorf("%s: %d objects, had %d", what, n, objects)
		}
	}
	w.tell, w.mute, w.kind = nil, false, attest.KindPKCS11
	if k, err := e.Rotate(ctx, e.c, "k"); err != nil || k.State != keys.StateActive || k.PrimaryVersion == 1 {
		t.Errorf("rotating: %+v, %v", k, err)
	}

	// The demand stays what it was, and is made of nothing that could not meet it.
	e.create("free", backend.ECDSAP256)
	for name, demanded := range map[string]bool{"k": false, "free": true} {
		_, err := e.Update(ctx, e.c, name, keys.UpdateRequest{Policy: &keys.Policy{RequireAttestation: demanded}})
		wantCode(t, err, fault.BadField, "changing the demand of "+name)
	}
	if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Policy: &keys.Policy{RequireAttestation: true, UsageLimit: 5}}); err != nil {
		t.Error(err)
	}
	for what, r := range map[string]keys.CreateRequest{
		"imported":             {Origin: keys.OriginImported, Policy: keys.Policy{RequireAttestation: true}},
		"exportable":           {Policy: keys.Policy{RequireAttestation: true, Exportable: true}},
		"an allowed operation": {Policy: keys.Policy{Operations: []backend.Operation{backend.OpAttest}}},
	} {
		r.Name, r.Algorithm = "never", backend.ECDSAP256
		_, err := e.Create(ctx, e.c, r)
		wantCode(t, err, fault.BadField, what)
	}
}

// TestRequireAttestationOfSoftware: where there is no evidence nothing is made that would have to be taken back.
func TestRequireAttestationOfSoftware(t *testing.T) {
	e := newEnv(t, onDevice)
	_, err := e.Create(t.Context(), e.c, keys.CreateRequest{Name: "k", Algorithm: backend.ECDSAP256, Policy: keys.Policy{RequireAttestation: true}})
	wantCode(t, err, fault.Attestation, "a key in software custody")
	if n := e.device.count(); n != 0 {
		t.Errorf("%d objects", n)
	}
	if last := e.lastEntry(); last.Action != "key.create" || last.Outcome != string(fault.Attestation) {
		t.Errorf("the log says %+v", last)
	}
}

// TestAttestTPM: a real TPM signs for the keys that the service makes on it.
func TestAttestTPM(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	uri, err := tpmdevice.ParseURI(rig.SWTPM(t).URI)
	if err != nil {
		t.Fatal(err)
	}
	d, err := tpmdevice.Open(ctx, tpmdevice.Options{Name: "tpm", URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	b, err := tpm.Open(ctx, tpm.Options{Name: "tpm", Device: d, Derive: func(string) (secret.Bytes, error) { return make(secret.Bytes, 32), nil }})
	if err != nil {
		t.Fatal(errors.Join(err, d.Close()))
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	e.options = func(o *keys.Options) { o.Backends = []backend.Backend{b, e.soft} }
	e.reopen()
	name, err := b.AttestationKeyName(ctx)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := e.AttestationKey(ctx, e.c)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []backend.Algorithm{backend.ECDSAP256, backend.RSA2048, backend.HMACSHA256, backend.ECDHP256} {
		k := e.create(string(alg), alg, func(r *keys.CreateRequest) { r.Policy.RequireAttestation = true })
		if k, err = e.Rotate(ctx, e.c, k.Name); err != nil {
			t.Fatal(err)
		}
		a, err := e.Attest(ctx, e.c, keys.AttestRequest{Key: k.Name, Nonce: nonce()})
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.Version(ctx, e.c, k.Name, 2)
		if err != nil {
			t.Fatal(err)
		}
		c, err := attest.Verify(a.Document, attest.Options{Nonce: nonce(), Signer: signer, AttestationKey: name, PublicKey: v.Public,
			Require: attest.Require{DeviceEvidence: true, GeneratedOnDevice: true, NotExportable: true}})
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if c.KeyVersion != 2 || c.Device.Kind != "tpm" || c.Device.DeviceIdentity != attest.IdentityPinned || len(c.PCRs) == 0 {
			t.Errorf("%s: %+v", alg, c)
		}
	}
}
