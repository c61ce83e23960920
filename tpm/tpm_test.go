package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

func spec(a backend.Algorithm, p backend.Purpose) backend.Spec {
	return backend.Spec{Tenant: uuid.New(), KeyID: uuid.New(), Version: 1, Algorithm: a, Purpose: p}
}

func generate(t testing.TB, b *tpm.Backend, s backend.Spec) backend.Ref {
	t.Helper()
	ref, err := b.Generate(t.Context(), s)
	if err != nil {
		t.Fatalf("Generate %s: %v", s.Algorithm, err)
	}
	return ref
}

func signs(ctx context.Context, b *tpm.Backend, ref backend.Ref) error {
	k, err := b.Load(ctx, ref)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("message"))
	sig, err := k.(backend.Signer).Sign(ctx, digest[:], backend.SignOpts{Hash: crypto.SHA256})
	if err != nil {
		return err
	}
	if len(sig) != 64 {
		return errors.New("not a signature")
	}
	return k.Close()
}

// TestLocked: while the root is locked keys say so, the sealer works, and unlocking needs no second Open.
func TestLocked(t *testing.T) {
	var locked atomic.Bool
	locked.Store(true)
	var asked atomic.Int32
	b := opened(t, rig.SWTPM(t).URI, func(o *tpm.Options) {
		o.AllowSealed = true
		o.Derive = func(label string) (secret.Bytes, error) {
			if locked.Load() {
				return nil, fault.New(fault.Locked, "the root is not open")
			}
			if label != tpm.Label {
				t.Errorf("label %q", label)
			}
			asked.Add(1)
			return root(1)(label)
		}
	})
	for _, s := range []backend.Spec{spec(backend.ECDSAP256, backend.PurposeSigning), spec(backend.AES256GCM, backend.PurposeEncryption)} {
		if _, err := b.Generate(t.Context(), s); !fault.Has(err, fault.Locked) {
			t.Errorf("Generate %s: %v", s.Algorithm, err)
		}
	}
	if _, err := b.Import(t.Context(), spec(backend.HMACSHA256, backend.PurposeMAC), make([]byte, 32)); !fault.Has(err, fault.Locked) {
		t.Errorf("Import: %v", err)
	}
	sealed, err := b.Seal(t.Context(), []byte("the root"), nil)
	if err != nil {
		t.Fatalf("the sealer needs no root: %v", err)
	}
	if got, err := b.Open(t.Context(), sealed, nil); err != nil || string(got) != "the root" {
		t.Errorf("the sealer needs no root: %v", err)
	}
	if err := b.Ping(t.Context()); err != nil {
		t.Errorf("Ping needs no root: %v", err)
	}
	locked.Store(false)
	ref := generate(t, b, spec(backend.ECDSAP256, backend.PurposeSigning))
	if err := signs(t.Context(), b, ref); err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the root was asked %d times", n)
	}
}

// TestAnotherRoot: what one root made on a TPM is nothing to another on the same TPM, but for what the root is no part of.
func TestAnotherRoot(t *testing.T) {
	m := rig.SWTPM(t)
	b := open(t, m.URI, "one", allowSealed)
	var refs []backend.Ref
	for _, s := range []backend.Spec{spec(backend.ECDSAP256, backend.PurposeSigning), spec(backend.HMACSHA256, backend.PurposeMAC), spec(backend.AES256GCM, backend.PurposeEncryption)} {
		refs = append(refs, generate(t, b, s))
	}
	sealed, err := b.Seal(t.Context(), []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = opened(t, m.URI, func(o *tpm.Options) { o.AllowSealed, o.Derive = true, root(2) })
	for _, r := range refs {
		if _, err := b.Load(t.Context(), r); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("%s of another root: %v", r.Spec.Algorithm, err)
		}
	}
	if _, err := b.Open(t.Context(), sealed, nil); err != nil {
		t.Errorf("a sealed text of the same TPM: %v", err)
	}
}

// TestEngineAndSealer: a caller's text does not open as a key's material, nor the other way round (the suite does the rest).
func TestEngineAndSealer(t *testing.T) {
	b := opened(t, rig.SWTPM(t).URI, allowSealed)
	ref := generate(t, b, spec(backend.AES256GCM, backend.PurposeEncryption))
	for cut := range 4 { // the versions and places before the sealer's text
		if _, err := b.Open(t.Context(), ref.Blob[cut:], nil); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("a key's blob from byte %d: %v", cut, err)
		}
	}
}

// TestCleared: after TPM2_Clear the keys are gone, which is said as what it is; the pinned parent is missed when the TPM is opened.
func TestCleared(t *testing.T) {
	m := rig.SWTPM(t)
	b := open(t, m.URI, "before", nil)
	ref, id := generate(t, b, spec(backend.ECDSAP256, backend.PurposeSigning)), b.Info().ID
	sealed, err := b.Seal(t.Context(), []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	d := openDevice(t, m.URI, nil)
	pin := d.ParentName()
	err = d.Do(t.Context(), "clear", func(tx *device.Tx) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(tx)
		return err
	})
	if err != nil {
		t.Fatalf("TPM2_Clear: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	u, err := device.ParseURI(m.URI)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.Open(t.Context(), device.Options{URI: u, ParentName: pin}); !errors.Is(err, device.ErrForeign) || !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("opening a cleared TPM: %v", err)
	}
	b = opened(t, m.URI, nil)
	if b.Info().ID == id {
		t.Error("the cleared TPM has the same identity")
	}
	if _, err := b.Load(t.Context(), ref); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("Load on the cleared TPM: %v", err)
	}
	if _, err := b.Open(t.Context(), sealed, nil); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("Open on the cleared TPM: %v", err)
	}
}

// TestPowerCycle: a TPM that loses its power under load costs errors that say when to try again, for at most two seconds, and nothing is lost or left over.
func TestPowerCycle(t *testing.T) {
	m := rig.SWTPM(t)
	b := open(t, m.URI, "cycle", allowSealed)
	ref := generate(t, b, spec(backend.ECDSAP256, backend.PurposeSigning))
	aes := generate(t, b, spec(backend.AES256GCM, backend.PurposeEncryption))
	ctx, cancel := context.WithCancel(t.Context())
	var done, refused atomic.Int64
	var mu sync.Mutex // guards lastError
	var lastError time.Time
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for ctx.Err() == nil {
				err := signs(context.WithoutCancel(ctx), b, ref)
				var f *fault.Error
				switch {
				case err == nil:
					done.Add(1)
				case errors.As(err, &f) && f.Code == fault.BackendUnavailable && f.After > 0 && f.After <= 2*time.Second:
					refused.Add(1)
					mu.Lock()
					lastError = time.Now()
					mu.Unlock()
				default:
					t.Errorf("beside a power cycle: %v", err)
					return
				}
			}
		})
	}
	for range 3 {
		time.Sleep(250 * time.Millisecond)
		start, before := time.Now(), done.Load()
		m.Cycle(t)
		for done.Load() < before+50 && time.Since(start) < 10*time.Second {
			time.Sleep(5 * time.Millisecond)
		}
		mu.Lock()
		if took := lastError.Sub(start); took > 2*time.Second {
			t.Errorf("errors went on for %v", took)
		}
		mu.Unlock()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v until 50 signatures were made", took)
		}
	}
	cancel()
	workers.Wait()
	t.Logf("%d signatures, %d refusals", done.Load(), refused.Load())
	k, err := b.Load(t.Context(), aes)
	if err != nil {
		t.Fatalf("a sealed key after it: %v", err)
	}
	if err := errors.Join(k.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	noneLeft(t, m)
}

// noneLeft looks at a TPM that nobody has open: no object and no session of ours is in it.
func noneLeft(t *testing.T, m *rig.TPM) {
	t.Helper()
	network, address := m.Address()
	conn, err := net.Dial(network, address) //nolint:noctx // a local socket
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for what, first := range map[string]uint32{"objects": 0x80000000, "loaded sessions": 0x02000000, "saved sessions": 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 16}.Execute(line{conn})
		if err != nil {
			t.Fatal(err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		if left := slices.DeleteFunc(list.Handle, func(h tpm2.TPMHandle) bool { return uint32(h)>>24 != first>>24 }); len(left) > 0 {
			t.Errorf("%s left over: %x", what, left)
		}
	}
}

// line is a TPM without anything around it.
type line struct{ net.Conn }

func (l line) Send(command []byte) ([]byte, error) {
	if _, err := l.Write(command); err != nil {
		return nil, err
	}
	head := make([]byte, 10)
	if _, err := io.ReadFull(l, head); err != nil {
		return nil, err
	}
	rest := make([]byte, int(head[4])<<8+int(head[5])-len(head))
	_, err := io.ReadFull(l, rest)
	return slices.Concat(head, rest), err
}

// TestCertified: a TPM with a certificate of its maker has it in the evidence, and it chains to the maker's root.
func TestCertified(t *testing.T) {
	m := rig.CertifiedSWTPM(t)
	b := opened(t, m.URI, nil)
	ref := generate(t, b, spec(backend.ECDSAP256, backend.PurposeSigning))
	k, err := b.Load(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time without looking for the certificate
		e, err := k.(backend.Attester).Attest(t.Context(), bytes.Repeat([]byte{1}, backend.AttestationBinding))
		if err != nil {
			t.Fatalf("Attest: %v", err)
		}
		if e.Kind != attest.KindTPM || !strings.Contains(string(e.Document), `"ek_certificates"`) {
			t.Errorf("evidence without the certificate: %s", e.Document)
		}
	}
	one, err := b.AttestationKeyName(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.Cycle(t)
	two, err := b.AttestationKeyName(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(one) != 34 || !bytes.Equal(one, two) {
		t.Errorf("the attestation key is another after a power cycle: %x, %x", one, two)
	}
}

// TestPolicyOf: the object of a key carries what PolicyOf says, for verifiers of evidence.
func TestPolicyOf(t *testing.T) {
	b := opened(t, rig.SWTPM(t).URI, nil)
	ref := generate(t, b, spec(backend.ECDSAP256, backend.PurposeSigning))
	policy, err := tpm.PolicyOf(ref.Spec)
	if err != nil || !bytes.Contains(ref.Blob, policy) {
		t.Errorf("the blob does not have the policy digest: %v", err)
	}
	other := ref.Spec
	other.Version++
	if p, err := tpm.PolicyOf(other); err != nil || bytes.Equal(p, policy) {
		t.Errorf("another version has the same digest: %v", err)
	}
	if _, err := tpm.PolicyOf(backend.Spec{Algorithm: "none"}); !fault.Has(err, fault.Unsupported) {
		t.Errorf("PolicyOf of no algorithm: %v", err)
	}
	k, err := b.Load(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.Public().(*ecdsa.PublicKey); !ok {
		t.Errorf("public key %T", k.Public())
	}
}

// TestLacking: what the TPM refuses is not offered in device custody, and in sealed custody where that is allowed.
func TestLacking(t *testing.T) {
	m := rig.SWTPM(t)
	proxy := m.Proxy(t)
	proxy.Intercept(func(command []byte) rig.TPMFault {
		if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCEncryptDecrypt2 {
			return rig.TPMFault{Answer: rig.TPMRefusal(uint32(tpm2.TPMRCCommandCode))}
		}
		return rig.TPMFault{}
	})
	b := open(t, proxy.URI, "without", nil)
	if c, ok := b.Info().Can(backend.AES256CTRHMACSHA256); ok {
		t.Errorf("the TPM refuses it, and it is offered: %+v", c)
	}
	if _, err := b.Generate(t.Context(), spec(backend.AES256CTRHMACSHA256, backend.PurposeEncryption)); !fault.Has(err, fault.Unsupported) {
		t.Errorf("Generate: %v", err)
	}
	if c, ok := b.Info().Can(backend.ECDSAP256); !ok || c.Custody != backend.CustodyDevice {
		t.Errorf("another algorithm: %+v", c)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	b = opened(t, proxy.URI, allowSealed)
	if c, ok := b.Info().Can(backend.AES256CTRHMACSHA256); !ok || c.Custody != backend.CustodySealed {
		t.Errorf("with sealed custody allowed: %+v", c)
	}
	ref := generate(t, b, spec(backend.AES256CTRHMACSHA256, backend.PurposeEncryption))
	if ref.Spec.Custody != backend.CustodySealed {
		t.Errorf("custody %q", ref.Spec.Custody)
	}
}
