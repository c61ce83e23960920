package audit

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
)

// pqKey signs by another implementation of ML-DSA than the one that verifies.
type pqKey struct{ private *mldsa.PrivateKey }

func newPQKey(t testing.TB) pqKey {
	t.Helper()
	k, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		t.Fatal(err)
	}
	return pqKey{k}
}

func (k pqKey) PublicBytes() []byte { return k.private.PublicKey().Bytes() }
func (k pqKey) Sign(_ context.Context, msg []byte) ([]byte, error) {
	return k.private.Sign(rand.Reader, msg, &mldsa.Options{})
}

// TestPostQuantumCheckpoint: a checkpoint bears both signatures, each key opens it alone, and the second is over the structure of the
// specification, put together here once more.
func TestPostQuantumCheckpoint(t *testing.T) {
	pq := newPQKey(t)
	s := newMemStore()
	l := openLog(t, s, Options{Signer: newSigner(t).open, CheckpointEvery: -1,
		PostQuantum: func(context.Context) (PostQuantumSigner, error) { return pq, nil }})
	for range 5 {
		if _, err := l.Record(t.Context(), &Entry{Principal: "p", Action: "a", Outcome: "ok"}); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	classical, err := l.VerifierKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := l.PostQuantumVerifierKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenCheckpoint(signed, classical)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenCheckpoint(signed, key)
	if err != nil || a != b || a.Size != 5 {
		t.Fatalf("%+v %+v %v", a, b, err)
	}

	n, err := note.Open(signed, note.VerifierList(placeholder(t, classical)))
	if err != nil || len(n.UnverifiedSigs) != 1 || n.UnverifiedSigs[0].Name != a.Origin {
		t.Fatalf("%+v %v", n, err)
	}
	raw, err := base64.StdEncoding.DecodeString(n.UnverifiedSigs[0].Base64)
	if err != nil || len(raw) != 4+8+2420 || binary.BigEndian.Uint64(raw[4:]) != 0 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	msg := []byte("subtree/v1\n\x00")
	msg = append(append(msg, byte(len(a.Origin))), a.Origin...)
	msg = append(msg, 0, 0, 0, 0, 0, 0, 0, 0)
	msg = append(append(msg, byte(len(a.Origin))), a.Origin...)
	msg = append(msg, 0, 0, 0, 0, 0, 0, 0, 0)
	msg = append(msg, 0, 0, 0, 0, 0, 0, 0, 5)
	msg = append(msg, a.Root[:]...)
	if err := mldsa.Verify(pq.private.PublicKey(), msg, raw[12:], &mldsa.Options{}); err != nil {
		t.Errorf("the signature is not over the specification's structure: %v", err)
	}

	other := encodeVerifierKey(a.Origin, typeMLDSA44, newPQKey(t).PublicBytes())
	elsewhere := encodeVerifierKey("elsewhere", typeMLDSA44, pq.PublicBytes())
	for name, bad := range map[string]string{"another key": other, "another name": elsewhere, "a short key": key[:len(key)-8], "no key": "", "another id": strings.Replace(key, "+", "+0", 1)} {
		if _, err := OpenCheckpoint(signed, bad); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s opens it: %v", name, err)
		}
	}
}

func placeholder(t *testing.T, key string) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// FuzzVerifierKey: a key that is read names itself as it was given, and nothing that is not one is read.
func FuzzVerifierKey(f *testing.F) {
	f.Add("log.example+00000000+AQ==")
	f.Add(encodeVerifierKey("w.example", typeCosign, make([]byte, 32)))
	f.Add(encodeVerifierKey("log.example", typeEd25519, make([]byte, 32)))
	f.Fuzz(func(t *testing.T, key string) {
		v, kind, err := newVerifier(key)
		if err != nil {
			return
		}
		if v == nil || !strings.HasPrefix(key, v.Name()+"+") || kind != typeEd25519 && kind != typeCosign && kind != typeMLDSA44 {
			t.Errorf("%q was read as %v of type %d", key, v, kind)
		}
		v.Verify([]byte(key), []byte(key)) // must not panic
	})
}
