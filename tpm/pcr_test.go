package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/softhsm-test/rig/tpmsim"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

func authorities(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ECDSA": ec, "RSA": r}
}

func spkiOf(t testing.TB, s crypto.Signer) []byte {
	t.Helper()
	der, err := keyenc.MarshalSPKI(s.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// extend changes a PCR of the SHA-256 bank, as a boot chain that measures something does.
func extend(t testing.TB, d *device.Device, pcr uint32, what string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(what))
	err := d.Do(t.Context(), "test", func(tx *device.Tx) error {
		_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: sum[:]}}}}.Execute(tx)
		return err
	})
	if err != nil {
		t.Fatalf("extending a PCR: %v", err)
	}
	return sum[:]
}

// TestPCRPolicy: what is sealed opens in an approved boot state and in no other. A state is approved ahead, and opens what was sealed before.
func TestPCRPolicy(t *testing.T) {
	for name, uri := range map[string]string{"swtpm": rig.SWTPM(t).URI, "simulator": tpmsim.Start(t).URI} {
		for kind, signer := range authorities(t) {
			t.Run(name+"/"+kind, func(t *testing.T) { testPCRPolicy(t, uri, signer) })
		}
	}
}

func testPCRPolicy(t *testing.T, uri string, signer crypto.Signer) {
	d := openDevice(t, uri, nil)
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	var approvals []tpm.Approval
	policy := &tpm.PCRPolicy{Authority: spkiOf(t, signer), Ref: []byte("web servers")}
	s, err := tpm.NewSealer(d, tpm.SealerOptions{Policy: policy, Approvals: func() []tpm.Approval { return approvals }})
	if err != nil {
		t.Fatal(err)
	}
	plaintext, binding := []byte("the root"), []byte("slot 1")
	sealed, err := s.Seal(t.Context(), plaintext, binding)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	opens := func(what string, want bool) {
		t.Helper()
		got, err := s.Open(t.Context(), sealed, binding)
		switch {
		case want && (err != nil || !bytes.Equal(got, plaintext)):
			t.Errorf("%s: %v", what, err)
		case !want && (err == nil || !fault.Has(err, fault.KeyMaterial) || got != nil):
			t.Errorf("%s: it opened, or failed otherwise: %v", what, err)
		}
	}
	opens("without an approval", false)
	pcrs := tpm.PCRs{Bank: "sha256", Index: []int{0, 4, 7, 1, 2, 3, 5, 6, 8, 9}} // more than one answer of TPM2_PCR_Read has
	now, err := s.Approve(t.Context(), pcrs, policy.Ref, signer)
	if err != nil {
		t.Fatalf("Approve: %v", err)
	}
	approvals = []tpm.Approval{now}
	opens("in the approved state", true)
	if _, err := s.Open(t.Context(), sealed, []byte("slot 2")); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("with another binding: %v", err)
	}

	// Approvals of the same state that are not the authority's, for another reference, or for other registers.
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Approve(t.Context(), pcrs, policy.Ref, stranger)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := s.Approve(t.Context(), pcrs, []byte("other servers"), signer)
	if err != nil {
		t.Fatal(err)
	}
	forged := other
	forged.Authority = now.Authority
	swapped := now
	swapped.PCRs.Index = []int{0}
	for what, a := range map[string]tpm.Approval{"a stranger's": other, "of another reference": ref, "with a stranger's signature": forged, "for other PCRs": swapped} {
		approvals = []tpm.Approval{a}
		opens("with an approval "+what, false)
	}
	approvals = []tpm.Approval{other, ref, now}
	opens("with the right approval among others", true)

	extend(t, d, 7, "an update")
	opens("after a PCR was extended", false)

	// The update was approved: by its state now, which a build system would compute ahead.
	next, err := s.Approve(t.Context(), pcrs, policy.Ref, signer)
	if err != nil {
		t.Fatal(err)
	}
	approvals = append(approvals, next)
	opens("in the state approved next", true)

	// An approval whose digest claims the present state does not help: the signature is over another.
	lie := now
	lie.Digest = next.Digest
	approvals = []tpm.Approval{lie}
	opens("with a digest changed", false)
	// Register 16 is not in the policy.
	approvals = []tpm.Approval{next}
	extend(t, d, 16, "whatever")
	opens("after another PCR was extended", true)
}

// TestPCREnforced: it is the TPM that refuses, not the comparison in this process. The proxy gives PCR values as they were when they were approved.
func TestPCREnforced(t *testing.T) {
	m := rig.SWTPM(t)
	proxy := m.Proxy(t)
	signer := authorities(t)["ECDSA"]
	d := openDevice(t, proxy.URI, nil)
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	var approvals []tpm.Approval
	s, err := tpm.NewSealer(d, tpm.SealerOptions{Policy: &tpm.PCRPolicy{Authority: spkiOf(t, signer)}, Approvals: func() []tpm.Approval { return approvals }})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal(t.Context(), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	proxy.Record()
	a, err := s.Approve(t.Context(), tpm.PCRs{Bank: "sha256", Index: []int{7}}, nil, signer)
	if err != nil {
		t.Fatal(err)
	}
	approvals = []tpm.Approval{a}
	var before []byte
	for _, e := range proxy.Wire() {
		if tpm2.TPMCC(e.Code()) == tpm2.TPMCCPCRRead {
			before = e.Response
		}
	}
	if before == nil {
		t.Fatal("Approve read no PCRs")
	}
	extend(t, d, 7, "an intruder")
	lied := false
	proxy.Intercept(func(command []byte) rig.TPMFault {
		if bytes.Equal(command[6:10], []byte{0, 0, 0x01, 0x7e}) { // TPM2_PCR_Read
			lied = true
			return rig.TPMFault{Answer: before}
		}
		return rig.TPMFault{}
	})
	got, err := s.Open(t.Context(), sealed, nil)
	if !fault.Has(err, fault.KeyMaterial) || got != nil {
		t.Errorf("it opened, or failed otherwise: %v", err)
	}
	if !lied {
		t.Error("nobody asked for the PCRs")
	}
}

// TestApprovalFile: an approval survives its JSON, and nothing that was changed does.
func TestApprovalFile(t *testing.T) {
	for kind, signer := range authorities(t) {
		digest := sha256.Sum256([]byte("state"))
		a, err := tpm.ApproveDigest(tpm.PCRs{Bank: "sha256", Index: []int{7, 0}}, digest[:], []byte("ref"), signer)
		if err != nil {
			t.Fatal(err)
		}
		a.Comment = "kernel 6.12"
		b, err := a.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := tpm.ParseApproval(b)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if d := cmp.Diff(a, got); d != "" {
			t.Error(d)
		}
		for what, change := range map[string]func(*tpm.Approval){
			"bank":      func(a *tpm.Approval) { a.PCRs.Bank = "sha384" },
			"registers": func(a *tpm.Approval) { a.PCRs.Index = []int{0} },
			"twice":     func(a *tpm.Approval) { a.PCRs.Index = []int{0, 0} },
			"range":     func(a *tpm.Approval) { a.PCRs.Index = []int{24} },
			"none":      func(a *tpm.Approval) { a.PCRs.Index = nil },
			"digest":    func(a *tpm.Approval) { a.Digest = make([]byte, 32) },
			"short":     func(a *tpm.Approval) { a.Digest = a.Digest[:31] },
			"ref":       func(a *tpm.Approval) { a.Ref = nil },
			"long ref":  func(a *tpm.Approval) { a.Ref = make([]byte, 33) },
			"format":    func(a *tpm.Approval) { a.Format = "keywright-tpm-approval/v2" },
			"signature": func(a *tpm.Approval) { a.Signature = bytes.Clone(a.Signature); a.Signature[9] ^= 1 },
			"authority": func(a *tpm.Approval) { a.Authority = a.Authority[1:] },
		} {
			bad := a
			change(&bad)
			b, err := bad.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tpm.ParseApproval(b); err == nil {
				t.Errorf("%s: an approval with another %s is taken", kind, what)
			}
		}
		for _, text := range []string{"", "{}", "null", string(b) + "{}", `{"format":"keywright-tpm-approval/v1","more":1}`} {
			if _, err := tpm.ParseApproval([]byte(text)); !fault.Has(err, fault.BadEncoding) {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.ApproveDigest(tpm.PCRs{Bank: "sha256", Index: []int{0}}, make([]byte, 32), nil, small); !fault.Has(err, fault.BadField) {
		t.Errorf("an authority of P-384: %v", err)
	}
}

func TestParsePCRs(t *testing.T) {
	got, err := tpm.ParsePCRs("sha256:7,0,12")
	if d := cmp.Diff(tpm.PCRs{Bank: "sha256", Index: []int{0, 7, 12}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range []string{"", "sha256", "sha256:", "sha256:,", "sha256:1,", "sha256:24", "sha256:01", "sha256:1,1", "md5:1", "sha256:-1", "sha256:1 ", "SHA256:1", "sha256:999"} {
		if _, err := tpm.ParsePCRs(bad); !fault.Has(err, fault.BadField) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
