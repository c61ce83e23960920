package backendtest

import (
	"testing"

	"filippo.io/mldsa"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

// pqVerify is the judge of post-quantum signatures: filippo.io/mldsa for pure ML-DSA, our own package for the rest, which has judges of its own.
func pqVerify(t testing.TB, p *pqc.PublicKey, in []byte, o backend.SignOpts, sig []byte) bool {
	t.Helper()
	params, judged := map[string]mldsa.Parameters{pqc.MLDSA44: mldsa.MLDSA44(), pqc.MLDSA65: mldsa.MLDSA65(), pqc.MLDSA87: mldsa.MLDSA87()}[p.Algorithm().Name()]
	if judged && o.Hash == 0 && !o.ExternalMu {
		k, err := mldsa.NewPublicKey(params, p.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return mldsa.Verify(k, in, sig, &mldsa.Options{Context: o.Context}) == nil
	}
	po := pqc.SignOptions{Context: []byte(o.Context), ExternalMu: o.ExternalMu}
	if o.Hash != 0 {
		po.PreHash, _ = pqc.PreHashOf(o.Hash)
		po.Digest = true
	}
	ok, err := p.Verify(in, sig, po)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// signSlowly signs once with a parameter set of SLH-DSA, for whose signatures nobody waits a hundred times.
func (s *suite) signSlowly(t *testing.T, k kind) {
	t.Helper()
	signer := load(t, s.b, s.temporary(t, s.spec(k))).(backend.Signer)
	o := backend.SignOpts{Context: "context", Deterministic: true}
	sig, err := signer.Sign(t.Context(), []byte("message"), o)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	if !pqVerify(t, signer.Public().(*pqc.PublicKey), []byte("message"), o, sig) {
		t.Error("the signature does not verify")
	}
	if pqVerify(t, signer.Public().(*pqc.PublicKey), []byte("another"), o, sig) {
		t.Error("the judge takes any message")
	}
	_, err = signer.Sign(t.Context(), []byte("message"), backend.SignOpts{Padding: backend.PaddingPSS})
	want(t, "Sign with a padding", err, fault.BadField)
	_, err = signer.Sign(t.Context(), make([]byte, 64), backend.SignOpts{ExternalMu: true})
	want(t, "Sign with mu", err, fault.BadField)
}
