package attest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// FuzzStructures gives any bytes to the readers of TPM structures: they end in a refusal or in what is written with the very same bytes.
func FuzzStructures(f *testing.F) {
	template := AKTemplate()
	f.Add(tpm2.Marshal(template))
	f.Add(tpm2.Marshal(tpm2.RSAEKTemplate))
	f.Add(tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256})}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := parsePublic(b, "key"); err == nil {
			if len(o.name) != 2+o.hash.Size() || binary.BigEndian.Uint16(o.name) != uint16(o.NameAlg) || !bytes.Equal(tpm2.Marshal(o.TPMTPublic), b) {
				t.Fatalf("%+v", o)
			}
			for _, algorithm := range []string{"RSA-2048", "ECDSA-P256", "HMAC-SHA256", "AES-256-CTR-HMAC-SHA256"} {
				for _, s := range shapes(algorithm, "signing") {
					s.fits(o)
				}
			}
		}
		if k, err := attestationKey(b); err == nil {
			if !k.ObjectAttributes.Restricted || k.key == nil || k.digest == 0 {
				t.Fatalf("%+v", k)
			}
			if k.verify(b, b, "key") == nil {
				t.Fatal("a key is its own signature")
			}
		}
		if a, err := parsed[tpm2.TPMSAttest](b, "attest"); err == nil && !bytes.Equal(tpm2.Marshal(*a), b) {
			t.Fatal("another structure")
		}
		if s, err := parsed[tpm2.TPMTSignature](b, "signature"); err == nil && !bytes.Equal(tpm2.Marshal(*s), b) {
			t.Fatal("another signature")
		}
	})
}

// TestSignatureSchemes: an attestation key signs by its own scheme and hash, and by nothing weaker.
func TestSignatureSchemes(t *testing.T) {
	for what, change := range map[string]func(*tpm2.TPMTPublic){
		"decrypting":     func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"not signing":    func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = false },
		"not restricted": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false },
		"movable":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false },
		"brought":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
		"name by SHA-1":  func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 },
		"signs by SHA-1": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA1})}})
		},
		"no scheme": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		},
		"another curve": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP224})
		},
		"a point off the curve": func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
		},
		"a keyed hash": func(p *tpm2.TPMTPublic) {
			p.Type = tpm2.TPMAlgKeyedHash
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{})
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: make([]byte, 32)})
		},
	} {
		p := onCurve()
		if _, err := attestationKey(tpm2.Marshal(p)); err != nil {
			t.Fatal(err)
		}
		change(&p)
		if _, err := attestationKey(tpm2.Marshal(p)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// onCurve is an attestation key of which the public key is the generator of P-256.
func onCurve() tpm2.TPMTPublic {
	p := AKTemplate()
	g := [2][]byte{
		{0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96},
		{0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5},
	}
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: g[0]}, Y: tpm2.TPM2BECCParameter{Buffer: g[1]}})
	return p
}
