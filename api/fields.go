package api

import (
	"reflect"

	"github.com/keywright/keywright/api/qpher"
)

// meaning says what a field of a wire type is, for the OpenAPI document and the reference page. What is said of a name in
// one type comes before what is said of it everywhere. A test sees to it that no field is without.
func meaning(in reflect.Type, name string) string {
	if in.PkgPath() == qpherPath {
		return qpher.Meaning(name)
	}
	if m := meaningIn(in.Name(), name); m != "" {
		return m
	}
	return meaningOf(name)
}

func meaningOf(name string) string {
	if m := meaningOfAccess(name); m != "" {
		return m
	}
	switch name {
	case "assurance":
		return "device-evidence: a key of the device signed it; service-statement: it is the service's word"
	case "generated_on_device":
		return "whether the device itself made the private part"
	case "signer":
		return "trusted when the service's signature is by the key that the verifier expects"
	case "pcrs":
		return "the platform configuration registers of the TPM, as quoted"
	case "bank":
		return "sha1, sha256, sha384 or sha512"
	case "require_attestation":
		return "no version becomes active before evidence of it has verified; fixed at creation"
	case "evidence":
		return "the document to keep and verify"
	case "claims":
		return "what it says"
	case "statement":
		return "JSON of what the service says of the key"
	case "device":
		return "where the key lives"
	case "manufacturer", "model", "serial", "firmware":
		return "as the device tells it"
	case "placement":
		return "of a key on a PKCS#11 token: resident or wrapped"
	case "attributes":
		return "of the key's object on the PKCS#11 token"
	case "CKA_LOCAL":
		return "generated on the token"
	case "CKA_SENSITIVE":
		return "not shown in clear"
	case "CKA_ALWAYS_SENSITIVE":
		return "sensitive ever since it was made"
	case "CKA_EXTRACTABLE":
		return "can leave the token wrapped"
	case "CKA_NEVER_EXTRACTABLE":
		return "not extractable ever since it was made"
	case "device_identity":
		return "attestation-key when the TPM's attestation key is the one that the verifier expects, else unproven"
	case "attestation_key_name":
		return "TPM Name of the attestation key, hexadecimal"
	case "endorsement_key_sha256":
		return "SHA-256 of the SPKI of the endorsement key, hexadecimal"
	case "endorsement_certificate":
		return "absent, unverified or verified"
	case "object_names":
		return "TPM Names of the key's objects, hexadecimal"
	case "reset_count", "restart_count":
		return "of the TPM's clock"
	case "aad":
		return "additional authenticated data, at most 65536 bytes"
	case "action":
		return "what was done"
	case "algorithm":
		return "name of the algorithm"
	case "backend":
		return "name of the backend"
	case "bytes":
		return "size of the data key, 16 to 64; 32 when absent"
	case "capabilities":
		return "one for each algorithm"
	case "category":
		return "NIST's post-quantum security category, 1 to 5"
	case "checkpoint":
		return "a signed checkpoint (C2SP tlog-checkpoint)"
	case "ciphertext":
		return "what encrypt gave"
	case "context":
		return "names and values: bound to a ciphertext, and checked against the key's policy"
	case "created_at":
		return "when it was made"
	case "custody":
		return "where private operations happen and who can see the material"
	case "custody_caveat":
		return "what weakens the custody of every key in the backend; absent when nothing does"
	case "deletion_protection":
		return "refuse deletion while set"
	case "derived_key":
		return "the output of HKDF (RFC 5869)"
	case "deterministic":
		return "leave out the fresh randomness of ML-DSA and SLH-DSA"
	case "detail":
		return "what there is to add"
	case "digest":
		return "the message's digest by hash, instead of the message"
	case "encoding":
		return "of ECDSA signatures: der when absent"
	case "error":
		return "why this item failed; then nothing else is set"
	case "error_code":
		return "never renamed or reused"
	case "expires_at":
		return "when it ends"
	case "exportable":
		return "whether it may be exported; can be taken away, never added"
	case "failed":
		return "positions of the items that failed"
	case "format":
		return "envelope when absent; raw is a bare RSA-OAEP ciphertext, hpke is enc and ciphertext of RFC 9180, kem-dem is KEM ciphertext and AES-256-GCM"
	case "hash":
		return "of RSA-OAEP; SHA-256 when absent"
	case "hashes":
		return "the audit path, from the leaf upward (RFC 6962 section 2.1.1), or the consistency proof (section 2.1.2)"
	case "id":
		return "identity, which never changes"
	case "import":
		return "whether keys made elsewhere can be brought"
	case "import_token":
		return "names the wrapping key"
	case "index":
		return "place in the log, from 0"
	case "info":
		return "of HKDF"
	case "is_active":
		return "whether the version is active"
	case "is_default":
		return "whether it is the tenant's default key for its purpose"
	case "is_post_quantum", "post_quantum":
		return "whether the algorithm resists quantum computers"
	case "items":
		return "up to 1,000 items, instead of the fields of one"
	case "keeps_objects":
		return "whether key material lives in the device"
	case "kem_ciphertext":
		return "what encapsulate gave"
	case "key":
		return "id or name of a key, where the path has none; the default key when absent"
	case "key_file":
		return "the key file's 32 bytes"
	case "key_id":
		return "the key that did the work"
	case "key_state":
		return "only when the version is compromised"
	case "key_type", "purpose":
		return "the one use of the key: encryption, wrapping, signing, mac, agreement or encapsulation"
	case "key_version":
		return "number of the version; the primary one when absent"
	case "label":
		return "RSA-OAEP label with format raw, info with format hpke"
	case "labels":
		return "names and values for people and filters"
	case "last_rotated_at", "rotated_at":
		return "when the key was last rotated; absent before the first rotation"
	case "latency_us":
		return "time that the operation took, in microseconds"
	case "latest_version":
		return "the highest number ever given"
	case "leaf":
		return "the exact bytes that are hashed into the tree"
	case "leaf_hash":
		return "SHA-256 of 0x00 and the leaf (RFC 6962 section 2.1)"
	case "length":
		return "bytes, 16 to 1024; 32 when absent"
	case "locked":
		return "whether the service is still locked"
	case "mac":
		return "the tag"
	case "message":
		return "the message itself, at most 1 MiB"
	case "min_decrypt_version":
		return "decrypt, unwrap and verify only from this version on"
	case "min_encrypt_version":
		return "encrypt, wrap, sign and mac only from this version on"
	case "mu":
		return "message representative of ML-DSA, 64 bytes, instead of the message (FIPS 204 section 6.2)"
	case "name":
		return "unique name, which can be changed"
	case "new_keys":
		return "which algorithms the tenant takes for new keys"
	case "next_cursor":
		return "where the next page begins; empty on the last"
	case "next_rotation_at":
		return "when the policy asks for a new version"
	case "origin":
		return "generated, imported or public-only; of a version also imported-inside: the device opened the wrapped material, which was never in clear here"
	case "outcome":
		return "ok, or an error code"
	case "padding":
		return "of RSA signatures: pss when absent"
	case "passphrase":
		return "a slot's passphrase"
	case "peer_public_key":
		return "PEM, or base64 of SPKI DER or of the raw value"
	case "plaintext":
		return "what to encrypt, at most 1 MiB; may be empty"
	case "policy":
		return "what the key may be used for"
	case "prefix":
		return "the part by which people know it"
	case "primary_version":
		return "the version in use; 0 while there is none"
	case "principal":
		return "who did it"
	case "quirks":
		return "what an operator should know"
	case "random":
		return "the bytes"
	case "readiness":
		return "how the algorithm stands against a quantum computer"
	case "request_id":
		return "of the request"
	case "required_context":
		return "names that a caller's context must hold"
	case "resource":
		return "what was acted on when it is not a key"
	case "revoked_at":
		return "when it was revoked"
	case "rotation_period":
		return "as a duration (720h); by hand only when absent"
	case "salt":
		return "of HKDF"
	case "scheduled_deletion_at", "scheduled_deletion_date":
		return "when the key ends"
	case "scopes":
		return "what it may do; among the creator's own"
	case "security_bits":
		return "classical strength (SP 800-57 part 1)"
	case "shared_secret":
		return "the secret itself: derive keys from it, do not use it twice"
	case "shares":
		return "shares of a Shamir slot; they may come one call at a time"
	case "shares_missing":
		return "how many more are needed"
	case "signature":
		return "the signature"
	case "signature_context":
		return "context string of ML-DSA, SLH-DSA and composites, up to 255 bytes: signed with the message"
	case "size":
		return "how many entries the log had"
	case "standard":
		return "where it is defined"
	case "state":
		return "of the version (SP 800-57 part 1)"
	case "state_changed_at":
		return "when its state changed last"
	case "status":
		return "ok or locked"
	case "successors":
		return "post-quantum algorithms for the same purpose, the recommended one first"
	case "tenant":
		return "whose keys these are"
	case "threshold":
		return "how many of the shares open the slot"
	case "time":
		return "when it was done"
	case "to":
		return "an RSA key of the tenant to wrap to"
	case "updated_at":
		return "when it was changed last"
	case "usage_limit":
		return "operations in all; none when absent"
	case "valid":
		return "a wrong one is false, not an error"
	case "verifier_key":
		return "the public key of the checkpoints, in note form"
	case "version":
		return "number of the version"
	case "waiting_period_days":
		return "7 to 30; 30 when absent"
	case "without_plaintext":
		return "give the encrypted data key only"
	case "wrapped_key":
		return "the wrapped material"
	case "wrapping_algorithm":
		return "the form of the wrapping"
	}
	return ""
}
