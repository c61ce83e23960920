package sealed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// software seals under a fixed key.
type software []byte

func (s software) Seal(_ context.Context, plaintext, binding []byte) ([]byte, error) {
	return envelope.SealSoftware(s, plaintext, binding)
}

func (s software) Open(_ context.Context, blob, binding []byte) (secret.Bytes, error) {
	return envelope.OpenSoftware(s, blob, binding)
}

type hexed []byte

func (h *hexed) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

type vector struct {
	Name        string            `json:"name"`
	SealingKey  hexed             `json:"sealing_key"`
	Tenant      hexed             `json:"tenant"`
	KeyID       hexed             `json:"key_id"`
	Version     uint32            `json:"version"`
	Algorithm   backend.Algorithm `json:"algorithm"`
	AlgorithmID uint16            `json:"algorithm_id"`
	Purpose     backend.Purpose   `json:"purpose"`
	Exportable  bool              `json:"exportable"`
	Custody     backend.Custody   `json:"custody"`
	Public      hexed             `json:"public"`
	Material    hexed             `json:"material"`
	Binding     hexed             `json:"binding"`
	Blob        hexed             `json:"blob"`
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("../../docs/formats/vectors/sealed-key.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Valid []vector }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Valid) < 9 {
		t.Fatalf("%d vectors", len(file.Valid))
	}
	return file.Valid
}

func (v *vector) ref() backend.Ref {
	return backend.Ref{Spec: backend.Spec{Tenant: uuid.UUID(v.Tenant), KeyID: uuid.UUID(v.KeyID), Version: v.Version,
		Algorithm: v.Algorithm, Purpose: v.Purpose, Custody: v.Custody, Exportable: v.Exportable}, Public: v.Public, Blob: v.Blob}
}

// TestVectors: Refs that another implementation made load, and have the key in them that it put there.
func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			ref := v.ref()
			if got := binding(&ref.Spec, v.AlgorithmID, v.Custody, v.Public); !bytes.Equal(got, v.Binding) {
				t.Errorf("binding %x", got)
			}
			e, err := New(software(v.SealingKey), Options{Custody: backend.CustodySoftware})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			ent, err := e.open(t.Context(), &ref)
			if err != nil {
				t.Fatal(err)
			}
			if v.Exportable != bytes.Equal(ent.export, v.Material) {
				t.Error("what may be exported is not the material of an exportable key")
			}
			key := ent.mat.handle(e, ent)
			defer key.Close()
			v.check(t, key)
			// What is made of the same material by us is the same, but for the nonce.
			again, err := e.Import(t.Context(), ref.Spec, v.Material)
			if err != nil || !bytes.Equal(again.Public, v.Public) || again.Spec != ref.Spec || len(again.Blob) != len(v.Blob) {
				t.Fatalf("importing the material: %v", err)
			}
			if raw, err := e.sealer.Open(t.Context(), again.Blob[1:], v.Binding); err != nil || !bytes.Equal(raw, v.Material) {
				t.Errorf("our encoding of the material is another: %v", err)
			}
		})
	}
}

func (v *vector) check(t *testing.T, key backend.Key) {
	t.Helper()
	if len(v.Public) > 0 {
		if der, err := keyenc.MarshalSPKI(key.Public()); err != nil || !bytes.Equal(der, v.Public) {
			t.Errorf("public key: %v", err)
		}
		return
	}
	if key.Public() != crypto.PublicKey(nil) {
		t.Error("a symmetric key has a public one")
	}
	if k, ok := key.(backend.AEAD); ok {
		sealed, err := k.Seal(t.Context(), nil, []byte("text"), []byte("aad"))
		if err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(v.Material)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := gcm.Open(nil, sealed[:12], sealed[12:], []byte("aad")); err != nil || string(got) != "text" {
			t.Errorf("the standard library does not open it: %v", err)
		}
	}
}
