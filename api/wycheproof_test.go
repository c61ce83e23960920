package api

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

// TestWycheproof sends vectors of Project Wycheproof through the whole service, by JSON: signatures to keys of which only
// the public part was imported, and MACs and RSA-OAEP ciphertexts to keys that were imported wrapped. Here they prove that no
// byte, option or verdict is changed on the way; the backends and package verify run all the files.
func TestWycheproof(t *testing.T) {
	s := newService(t)
	var tally backendtest.Tally[string]
	for _, f := range []struct{ file, algorithm, hash, padding, encoding string }{
		{"ecdsa_secp256r1_sha256", "ECDSA-P256", "SHA-256", "", "der"},
		{"ecdsa_secp256r1_sha256_p1363", "ECDSA-P256", "", "", "p1363"},
		{"ecdsa_secp521r1_sha512_p1363", "ECDSA-P521", "SHA-512", "", "p1363"},
		{"ed25519", "Ed25519", "", "", ""},
		{"ed448", "Ed448", "", "", ""},
		{"rsa_signature_2048_sha256", "RSA-2048", "SHA-256", "pkcs1v15", ""},
		{"rsa_pss_2048_sha256_mgf1_32", "RSA-2048", "SHA-256", "pss", ""},
	} {
		t.Run(f.file, func(t *testing.T) {
			for i, g := range backendtest.Vectors(t, f.file) {
				text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: g.PublicKeyDER})
				name := fmt.Sprintf("%s-%d", f.file, i)
				in := wire.ImportKey{Name: name, Algorithm: f.algorithm, PublicKey: string(text)}
				if w := s.do("POST", "/keys/import", string(must(encode(in)))); w.Code != http.StatusCreated {
					refused(t, w, http.StatusBadRequest, fault.BadImport) // a key that is refused as such: an exponent of 3
					tally.Passed(f.file, len(g.Tests))
					continue
				}
				r := wire.Verify{Hash: f.hash, Padding: f.padding, Encoding: f.encoding}
				for _, v := range g.Tests {
					r.Items = append(r.Items, wire.VerifyItem{Message: append([]byte{}, v.Msg...), Signature: append([]byte{}, v.Sig...)})
				}
				got := call1[wire.Batch[wire.Validity]](s, "POST", "/keys/"+name+"/verify", batchOf(r.Hash, r.Padding, r.Encoding, r.Items))
				for j, v := range g.Tests {
					valid := got.Items[j].Valid != nil && *got.Items[j].Valid
					if v.Result == "valid" && !valid || v.Result == "invalid" && valid {
						t.Errorf("vector %d (%s): %+v, want %s", v.ID, v.Comment, got.Items[j], v.Result)
					}
					tally.Ran(f.file)
				}
			}
		})
	}
	t.Run("hmac_sha256", func(t *testing.T) {
		keys := map[string]string{}
		for _, g := range backendtest.Vectors(t, "hmac_sha256") {
			if g.KeySize != 256 || g.TagSize != 256 {
				tally.Passed("hmac_sha256", len(g.Tests)) // tags are never cut short here
				continue
			}
			for _, v := range g.Tests {
				name, ok := keys[string(v.Key)]
				if !ok {
					name = fmt.Sprintf("hmac-%d", v.ID)
					keys[string(v.Key)] = name
					bring(t, s, wire.ImportKey{Name: name, Algorithm: "HMAC-SHA256"}, v.Key)
				}
				got := call1[wire.Validity](s, "POST", "/keys/"+name+"/verify-mac", wire.MAC{MACItem: wire.MACItem{Message: append([]byte{}, v.Msg...), MAC: v.Tag}})
				if *got.Valid != (v.Result == "valid") {
					t.Errorf("vector %d (%s): %v, want %s", v.ID, v.Comment, *got.Valid, v.Result)
				}
				tally.Ran("hmac_sha256")
			}
		}
	})
	t.Run("rsa_oaep", func(t *testing.T) {
		g := backendtest.Vectors(t, "rsa_oaep_2048_sha256_mgf1sha256")[0]
		bring(t, s, wire.ImportKey{Name: "oaep", Algorithm: "RSA-2048", Purpose: "encryption"}, g.PrivateKeyPKCS8)
		for _, v := range g.Tests {
			body := wire.Decrypt{DecryptItem: wire.DecryptItem{Ciphertext: append([]byte{}, v.CT...), Label: v.Label}, Format: "raw", Hash: "SHA-256"}
			w := s.do("POST", "/keys/oaep/decrypt", string(must(encode(body))))
			if valid := w.Code == 200; valid != (v.Result == "valid") {
				t.Errorf("vector %d (%s): %d %s, want %s", v.ID, v.Comment, w.Code, w.Body, v.Result)
			} else if valid && !bytes.Contains(w.Body.Bytes(), []byte(`"plaintext":"`+b64(v.Msg)+`"`)) {
				t.Errorf("vector %d (%s): another plaintext: %s", v.ID, v.Comment, w.Body)
			}
			tally.Ran("rsa_oaep")
		}
	})
	tally.AtLeast(t, map[string]int{"ecdsa_secp256r1_sha256": 484, "ecdsa_secp256r1_sha256_p1363": 262, "ecdsa_secp521r1_sha512_p1363": 318,
		"ed25519": 151, "ed448": 87, "rsa_signature_2048_sha256": 257, "rsa_pss_2048_sha256_mgf1_32": 108, "hmac_sha256": 81, "rsa_oaep": 37})
}

// batchOf is a verify request without the fields of a single item, which the wire type would send empty.
func batchOf(hash, padding, encoding string, items []wire.VerifyItem) any {
	return struct {
		Hash     string            `json:"hash,omitempty"`
		Padding  string            `json:"padding,omitempty"`
		Encoding string            `json:"encoding,omitempty"`
		Items    []wire.VerifyItem `json:"items"`
	}{hash, padding, encoding, items}
}

// bring imports material, wrapped as a caller would.
func bring(t *testing.T, s *service, in wire.ImportKey, material []byte) {
	t.Helper()
	p := call1[wire.ImportParameters](s, "GET", "/keys/import-parameters", nil)
	wrapped, err := keyenc.WrapRSAAES(rand.Reader, spkiOf(t, p.PublicKey).(*rsa.PublicKey), crypto.SHA256, material)
	if err != nil {
		t.Fatal(err)
	}
	in.ImportToken, in.WrappedKey = p.ImportToken, wrapped
	call1[wire.Key](s, "POST", "/keys/import", in)
}
