package qpher

// Tag is the group of these routes in the documentation, and what is said of it there.
const (
	Tag   = "qpher"
	About = "The API of Qpher on the same keys. Each algorithm has one key, whose name begins with " + NamePrefix +
		"; its versions are numbered from 1, at most one of them active. Errors have Qpher's codes."
)

// Meaning says what a field is.
func Meaning(name string) string {
	switch name {
	case "algorithm":
		return "Kyber768 or X-Wing for encryption, Dilithium3 or Composite-ML-DSA for signatures; the first when absent"
	case "ciphertext":
		return "KEM ciphertext, nonce, AES-256-GCM ciphertext and tag"
	case "created_at":
		return "when the version was made"
	case "hash":
		return "the digest, exactly as long as its algorithm's"
	case "hash_algorithm":
		return "what the digest was made by"
	case "kem_ciphertext":
		return "what carries the secret to the key's holder"
	case "key_state":
		return "only when the version is compromised"
	case "key_version":
		return "number of the version, from 1; there is no latest"
	case "keys":
		return "all versions that fit, by algorithm and number"
	case "message":
		return "the message itself, at most 1 MiB"
	case "mode":
		return "deterministic: the same plaintext, salt and key give the same ciphertext"
	case "old_key_version":
		return "the version that was active before, retired now"
	case "plaintext":
		return "at most 1 MiB; may be empty"
	case "public_key":
		return "the bare public key of the algorithm's standard"
	case "salt":
		return "at least 32 bytes; with mode deterministic only, which needs it"
	case "shared_secret":
		return "the secret itself, 32 bytes"
	case "signature":
		return "the signature"
	case "signature_type":
		return "always detached"
	case "status":
		return "what the version may do: everything; decrypt, decapsulate, unwrap and verify; nothing"
	case "symmetric_key":
		return "16, 24, 32, 48 or 64 bytes"
	case "total":
		return "how many there are"
	case "valid":
		return "a wrong signature is false, not an error"
	case "wrapped_key":
		return "the symmetric key in the form of a ciphertext"
	case "wrapping_method":
		return "always KEM-DEM"
	}
	return ""
}

// Choices gives the values that a field can have, nil when there is no list of them. in is the type's name.
func Choices(in, name string) []string {
	switch name {
	case "algorithm":
		switch in {
		case "Sign", "Verify", "SignHash", "VerifyHash", "Signature", "Validity", "HashSignature", "HashValidity":
			return Algorithms()[len(kems()):]
		case "Generate", "Retire", "Key", "Rotated":
			return Algorithms()
		}
		return Algorithms()[:len(kems())]
	case "mode":
		return []string{modeStandard, modeDeterministic}
	case "status":
		return statuses()
	case "hash_algorithm":
		return []string{"SHA-256", "SHA-384", "SHA-512"}
	case "signature_type":
		return []string{"detached"}
	case "wrapping_method":
		return []string{"KEM-DEM"}
	}
	return nil
}
