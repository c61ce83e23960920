package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"os"
	"testing"

	json "github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keywright/keywright/fault"
)

// The vectors were made by another implementation, in another language (see docs/formats/envelope.md).

type envelopeVectors struct {
	Format string `json:"format"`
	Note   string `json:"note"`
	Valid  []struct {
		Name          string            `json:"name"`
		KeyID         uuid.UUID         `json:"key_id"`
		KeyVersion    uint32            `json:"key_version"`
		Algorithm     uint16            `json:"algorithm"`
		KEM           hexBytes          `json:"kem"`
		Nonce         hexBytes          `json:"nonce"`
		Body          hexBytes          `json:"body"`
		AAD           hexBytes          `json:"aad"`
		Context       map[string]string `json:"context"`
		Authenticated hexBytes          `json:"authenticated"`
		Envelope      hexBytes          `json:"envelope"`
		Key           hexBytes          `json:"key"`
		Plaintext     hexBytes          `json:"plaintext"`
	} `json:"valid"`
	Invalid []struct {
		Name     string   `json:"name"`
		Envelope hexBytes `json:"envelope"`
	} `json:"invalid"`
}

type sealedVectors struct {
	Format string `json:"format"`
	Note   string `json:"note"`
	Valid  []struct {
		Name          string   `json:"name"`
		Sealer        uint16   `json:"sealer"`
		Generation    uint32   `json:"generation"` // 0: the first, which the blob does not say
		Key           hexBytes `json:"key"`
		Nonce         hexBytes `json:"nonce"`
		Plaintext     hexBytes `json:"plaintext"`
		Binding       hexBytes `json:"binding"`
		Authenticated hexBytes `json:"authenticated"`
		Blob          hexBytes `json:"blob"`
	} `json:"valid"`
	Invalid []struct {
		Name string   `json:"name"`
		Blob hexBytes `json:"blob"`
	} `json:"invalid"`
}

func load(t testing.TB, file string, into any) {
	t.Helper()
	b, err := os.ReadFile("../docs/formats/vectors/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func loadEnvelopes(t testing.TB) (v envelopeVectors) {
	load(t, "envelope.json", &v)
	if len(v.Valid) == 0 || len(v.Invalid) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

func loadSealed(t testing.TB) (v sealedVectors) {
	load(t, "sealed-blob.json", &v)
	if len(v.Valid) == 0 || len(v.Invalid) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

func TestEnvelopeVectors(t *testing.T) {
	for _, v := range loadEnvelopes(t).Valid {
		t.Run(v.Name, func(t *testing.T) {
			e, err := Parse(v.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			if e.KeyID != v.KeyID || e.KeyVersion != v.KeyVersion || e.Algorithm != v.Algorithm ||
				!bytes.Equal(e.KEM, v.KEM) || !bytes.Equal(e.Nonce, v.Nonce) || !bytes.Equal(e.Body, v.Body) {
				t.Errorf("parsed as %+v", e)
			}
			if !bytes.Equal(e.Append(nil), v.Envelope) {
				t.Error("Append gives other bytes")
			}
			aad := e.AppendAAD(nil, len(e.Nonce), v.AAD, v.Context)
			if !bytes.Equal(aad, v.Authenticated) {
				t.Errorf("authenticated data\n%x, want\n%x", aad, []byte(v.Authenticated))
			}
			if v.Key == nil {
				return
			}
			aead := aeadOf(t, v.Algorithm, v.Key)
			plain, err := aead.Open(nil, e.Nonce, e.Body, aad)
			if err != nil || !bytes.Equal(plain, v.Plaintext) {
				t.Errorf("opened to %x, %v", plain, err)
			}
			// As a backend does it: sealed straight behind the header.
			buf := e.AppendHeader(make([]byte, 0, e.Size(len(v.Nonce), len(v.Body))), len(v.Nonce), len(v.Body))
			buf = aead.Seal(append(buf, v.Nonce...), v.Nonce, v.Plaintext, aad)
			if !bytes.Equal(buf, v.Envelope) {
				t.Error("sealing behind the header gives another envelope")
			}
		})
	}
	for _, v := range loadEnvelopes(t).Invalid {
		if _, err := Parse(v.Envelope); !fault.Has(err, fault.BadEnvelope) {
			t.Errorf("%s: %v, want %s", v.Name, err, fault.BadEnvelope)
		}
	}
}

func aeadOf(t *testing.T, algorithm uint16, key []byte) cipher.AEAD {
	t.Helper()
	if algorithm == 4 { // ChaCha20-Poly1305 in the algorithm table
		a, err := chacha20poly1305.New(key)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSealedVectors(t *testing.T) {
	for _, v := range loadSealed(t).Valid {
		t.Run(v.Name, func(t *testing.T) {
			if v.Sealer != SealerSoftware {
				t.Fatalf("sealer %d", v.Sealer)
			}
			generation := max(v.Generation, 1)
			if aad := (&Sealed{Sealer: v.Sealer, Generation: v.Generation, Nonce: v.Nonce}).AppendAAD(nil, v.Binding); !bytes.Equal(aad, v.Authenticated) {
				t.Errorf("authenticated data %x", aad)
			}
			if s, err := ParseSealed(v.Blob); err != nil || s.Generation != generation {
				t.Errorf("generation %d, %v", s.Generation, err)
			}
			blob, err := sealSoftware(v.Key, generation, v.Nonce, v.Plaintext, v.Binding)
			if err != nil || !bytes.Equal(blob, v.Blob) {
				t.Errorf("sealed to %x, %v", blob, err)
			}
			plain, err := OpenGeneration(v.Key, generation, v.Blob, v.Binding)
			if err != nil || !bytes.Equal(plain, v.Plaintext) {
				t.Errorf("opened to another plaintext, %v", err)
			}
		})
	}
	for _, v := range loadSealed(t).Invalid {
		if _, err := ParseSealed(v.Blob); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("%s: %v, want %s", v.Name, err, fault.KeyMaterial)
		}
	}
}
