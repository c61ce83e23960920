package pqc

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"strings"
	"testing"
)

// compositeWithContext is the signature with a context of draft-ietf-lamps-pq-composite-sigs-19 appendix E, by the key of TestKnownAnswers.
//
//go:embed testdata/composite-context.b64
var compositeWithContext string

func TestCompositeContext(t *testing.T) {
	v := draftComposites(t)[MLDSA65P256]
	p, err := lookup(t, MLDSA65P256).ParsePublicKey(v.public)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(compositeWithContext, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	context := []byte("The lethargic, colorless dog sat beneath the energetic, stationary fox.")
	if ok, err := p.Verify(v.message, sig, SignOptions{Context: context}); err != nil || !ok {
		t.Errorf("the draft's signature: %v, %v", ok, err)
	}
	if ok, err := p.Verify(v.message, sig, SignOptions{}); err != nil || ok {
		t.Errorf("without its context: %v, %v", ok, err)
	}
}

// TestCompositeRepresentative has the example of the draft's appendix D.
func TestCompositeRepresentative(t *testing.T) {
	c := lookup(t, MLDSA65P256).scheme.(*composite)
	const digest = "0f89ee1fcb7b0a4f7809d1267a029719004c5a5e5ec323a7c3523a20974f9a3f202f56fadba4cd9e8d654ab9f2e96dc5c795ea176fa20ede8d854c342f903533"
	const prefix = "436f6d706f73697465416c676f726974686d5369676e61747572657332303235"
	label := []byte("COMPSIG-MLDSA65-ECDSA-P256-SHA512")
	context := unhex(t, "0813061205162623")
	for _, ctx := range [][]byte{nil, context} {
		want := append(append(append(append(unhex(t, prefix), label...), byte(len(ctx))), ctx...), unhex(t, digest)...)
		if got := c.representative(unhex(t, "00010203040506070809"), ctx); !bytes.Equal(got, want) {
			t.Errorf("%x", got)
		}
	}
}

// TestCompositeParts: neither part's signature stands for the other's, nor does one of another composite with the same ML-DSA key.
func TestCompositeParts(t *testing.T) {
	a, b := newKey(t, MLDSA65P256), newKey(t, MLDSA65P256)
	message := []byte("message")
	sigA, err := a.Sign(message, SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sigB, err := b.Sign(message, SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for what, sig := range map[string][]byte{
		"another's ECDSA part":  append(bytes.Clone(sigA[:3309]), sigB[3309:]...),
		"another's ML-DSA part": append(bytes.Clone(sigB[:3309]), sigA[3309:]...),
		"no ECDSA part":         sigA[:3309],
		"no ML-DSA part":        append(make([]byte, 3309), sigA[3309:]...),
	} {
		if ok, err := a.PublicKey().Verify(message, sig, SignOptions{}); err != nil || ok {
			t.Errorf("%s: %v, %v", what, ok, err)
		}
	}
	// The ML-DSA part by itself is no ML-DSA signature of the message: it is one of M' under the label as context.
	pq, err := lookup(t, MLDSA65).ParsePublicKey(a.PublicKey().Bytes()[:1952])
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := pq.Verify(message, sigA[:3309], SignOptions{}); err != nil || ok {
		t.Errorf("the ML-DSA part stands alone: %v, %v", ok, err)
	}
}
