package attest

import (
	"crypto/sha256"

	"github.com/google/go-tpm/tpm2"
)

// AKTemplate is the public area of which TPM2_CreatePrimary makes the attestation key, under the endorsement hierarchy: ECDSA on P-256 with
// SHA-256, restricted to what the TPM itself made, without authorization and outside of dictionary attack protection. The TPM derives the
// same key of it each time until its endorsement seed is changed, so its Name can be pinned and nothing needs to be stored.
func AKTemplate() tpm2.TPMTPublic {
	label := sha256.Sum256([]byte("keywright/v1/tpm-attestation-key"))
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true,
			Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
		}),
		// Bytes of its own make it another key than those that other programs derive of the same parameters (part 1 section 27.2.4).
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: label[:]},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	}
}
