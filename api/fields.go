package api

import (
	"reflect"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
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

func meaningIn(in, name string) string {
	if m := meaningInAccess(in + "." + name); m != "" {
		return m
	}
	if in == "Job" || in == "JobFailure" {
		if m := meaningOfJob(name); m != "" {
			return m
		}
	}
	switch in + "." + name {
	case "Checkpoint.verifier_key_pq":
		return "the ML-DSA-44 key of the checkpoint's second signature, in note form (C2SP tlog-cosignature)"
	case "Consistency.from":
		return "entries of the earlier tree"
	case "Consistency.to":
		return "entries of the later tree"
	case "Event.id":
		return "index of the audit entry that tells of it"
	case "Event.time":
		return "when it happened"
	case "Event.type":
		return "what happened"
	case "Event.key":
		return "the key that it is about"
	case "Event.job":
		return "id of the job that it is about"
	case "Event.resource":
		return "what it is about, when that is no key"
	case "Event.outcome":
		return "an error code, when it is not ok"
	case "EventKey.id":
		return "the key's id"
	case "EventKey.name":
		return "the key's name when the event was read"
	case "EventKey.version":
		return "the version that it is about"
	case "Webhook.id":
		return "identity"
	case "Webhook.name", "CreateWebhook.name":
		return "for people"
	case "Webhook.url", "CreateWebhook.url":
		return "where to: an address of HTTPS"
	case "Webhook.types", "CreateWebhook.types":
		return "types of events, key.* for all that begin so; all when empty"
	case "Webhook.keys", "CreateWebhook.keys":
		return "keys whose events are told; all when empty"
	case "Webhook.label", "CreateWebhook.label":
		return "name, or name=value: only events of keys that have it"
	case "Webhook.state":
		return "active or disabled"
	case "Webhook.reason":
		return "why it is disabled: by hand, or gone when the receiver answered 410"
	case "Webhook.created_by":
		return "who made it"
	case "Webhook.old_secret_until":
		return "until when calls are signed with the secret before as well"
	case "Webhook.delivery":
		return "how the deliveries go"
	case "Webhook.secret":
		return "whsec_ and base64: shown once, when it is made"
	case "WebhookDelivery.next":
		return "id of the event from which on nothing was delivered yet"
	case "WebhookDelivery.delivered":
		return "how many events were delivered"
	case "WebhookDelivery.given_up":
		return "how many were not delivered within 24 hours"
	case "WebhookDelivery.attempts":
		return "how many have failed since the last success"
	case "WebhookDelivery.last_success":
		return "when an event was last taken"
	case "WebhookDelivery.last_failure":
		return "when a call last failed"
	case "WebhookDelivery.last_status", "WebhookTest.status":
		return "status that the receiver answered; absent when it did not"
	case "WebhookDelivery.last_error", "WebhookTest.error":
		return "why the call failed, in a fixed word"
	case "WebhookDelivery.next_try":
		return "when it is tried again"
	case "WebhookTest.delivered":
		return "whether the receiver took it"
	case "WebhookTest.latency_ms":
		return "how long the call took, in milliseconds"
	case "RotateWebhookSecret.overlap_hours":
		return "for how long the secret before signs as well, 0 to 168; 24 when absent"
	case "CreateKey.backend", "ImportKey.backend":
		return "a backend's name; the default one when absent"
	case "MoveKey.backend", "MoveKeys.backend":
		return "the backend to move to, by name"
	case "MoveKey.custody", "MoveKeys.custody":
		return "custody there; what the backend gives the algorithm when absent"
	case "MoveKey.mode", "MoveKeys.mode":
		return "material (default): every version's is carried over; new-version: the key's next version is made there and those before stay"
	case "MoveKey.allow_weaker", "MoveKeys.allow_weaker":
		return "allow a custody that is weaker than the versions have: device, sealed, software"
	case "MoveKeys.name_prefix":
		return "keys whose names begin so"
	case "MoveKeys.algorithm":
		return "keys of this algorithm"
	case "MoveKeys.state":
		return "keys in this state"
	case "MoveKeys.label":
		return "keys with this label: name, or name=value"
	case "CreateKey.custody", "ImportKey.custody":
		return "where private operations happen; the backend's strongest when absent"
	case "CreateKey.origin":
		return "generated (default), or imported: the first version waits for its material"
	case "CreateKey.default", "UpdateKey.default":
		return "make it the tenant's default key for its purpose"
	case "Node.id":
		return "made anew at each start"
	case "Node.name":
		return "as configured, or the machine's; several may have one"
	case "Node.address":
		return "where it listens, as it sees it itself"
	case "Node.version":
		return "of the program"
	case "Node.started_at":
		return "when it was started"
	case "Node.seen_at":
		return "when it said last that it is there"
	case "Node.self":
		return "whether it is the one that answers"
	case "Node.backends":
		return "the devices that it has; keys of others answer 503 on it, and say where"
	case "Node.leases":
		return "the work that one node at a time does, and this one does now"
	case "NodeBackend.kind":
		return "software, hsm or tpm"
	case "NodeBackend.id":
		return "the device's own identity, the same on all nodes"
	case "Backend.default":
		return "whether new keys are made here when none is named"
	case "Backend.id":
		return "the device's own identity, the same under any name"
	case "Backend.kind":
		return "software, hsm or tpm"
	case "Backend.state":
		return "available, or the error code of the last probe"
	case "Backend.members":
		return "its devices, where there are several or they come and go"
	case "BackendMember.name":
		return "the configured name, or the device's label"
	case "BackendMember.state":
		return "missing, joining, refused, healthy or unavailable"
	case "BackendMember.weight":
		return "share of the operations; 0: it stands by"
	case "BackendMember.since":
		return "when it last became healthy, or ceased to be"
	case "BackendMember.reason":
		return "why it is not healthy"
	case "Backend.custody":
		return "what it can give, strongest first"
	case "Backend.name":
		return "the configured name"
	case "RandomRequest.backend":
		return "a backend whose generator is mixed in"
	case "RandomRequest.bytes":
		return "1 to 1048576"
	case "ImportKey.key":
		return "an existing key, instead of the fields of a new one"
	case "APIKey.key":
		return "the API key itself: shown once, when it is made"
	case "APIKey.brand", "CreateAPIKey.brand":
		return "how the key begins: kw (default), or qph, qapi or qh for clients that insist"
	case "APIKey.name", "CreateAPIKey.name":
		return "for people"
	case "APIKey.id", "Slot.id", "AddedSlot.id":
		return "identity"
	case "Me.id":
		return "as it stands in the audit log"
	case "Me.name":
		return "the name of the credential"
	case "PublicKey.format":
		return "pem or raw"
	case "PublicKey.public_key":
		return "PEM of the SPKI; with raw, base64 of the bare key"
	case "PublicKey.description":
		return "the label description"
	case "PublicKey.expires_at":
		return "when the key expires, if it does"
	case "Key.activates_at", "Policy.activates_at":
		return "from when on the key may be used; pre-active before"
	case "Key.expires_at", "Policy.expires_at":
		return "from when on the key protects nothing new; it goes on decrypting, verifying and unwrapping"
	case "Policy.rotate_after_messages":
		return "rotate when the primary version has protected so many messages; at three quarters of what the algorithm bears in any case"
	case "Policy.rotate_after_bytes":
		return "rotate when the primary version has protected so many bytes"
	case "KeyVersion.messages":
		return "how many messages it is counted to have protected, at most: nodes set some aside; absent when it is not counted"
	case "KeyVersion.bytes":
		return "how many bytes it is counted to have protected, at most"
	case "KeyVersion.message_limit":
		return "how many messages the algorithm bears under one version; absent when nothing bounds them"
	case "KeyVersion.byte_limit":
		return "how many bytes the algorithm bears under one version; absent when nothing bounds them"
	case "Policy.operations":
		return "what the key may be used for; everything of its purpose when empty"
	case "Capability.operations":
		return "what it can do with the algorithm"
	case "AuditEntry.items":
		return "how many items the batch had"
	case "AuditEntry.key_version":
		return "the version that did the work"
	case "Ciphertext.ciphertext", "DataKeyResult.ciphertext":
		return "an envelope, which names its key; with format raw the bare RSA-OAEP ciphertext"
	case "DataKeyResult.plaintext":
		return "the data key in clear"
	case "Plaintext.plaintext":
		return "what was encrypted"
	case "Wrap.plaintext", "WrapItem.plaintext":
		return "key material; 8 to 4096 bytes with AES-256-KWP"
	case "Wrap.aad", "WrapItem.aad", "Unwrap.aad", "UnwrapItem.aad":
		return "bound to the wrapped key; not with AES-256-KWP"
	case "Sign.hash", "Verify.hash":
		return "the algorithm's default when absent"
	case "Derive.hash", "DeriveItem.hash":
		return "of HKDF; SHA-256 when absent"
	case "Error.message":
		return "for people; may change"
	case "Encapsulation.kem_ciphertext":
		return "what carries the secret to the key's holder"
	case "Sign.context", "SignItem.context", "Verify.context", "VerifyItem.context":
		return "names and values, checked against the key's policy; not signed"
	case "MAC.mac", "MACItem.mac":
		return "the tag to check; for verify-mac only"
	case "Root.generation", "RotatedRoot.generation":
		return "of the root: 1 at first, one more with each rotation"
	case "Root.earlier":
		return "generations that are kept until nothing is under them any more"
	case "Root.stale":
		return "key versions that are under an earlier root"
	case "RotateRoot.slots":
		return "new slots for what people keep; those on devices of this node are made anew without being named"
	case "RotateRoot.drop":
		return "ids of slots that are given up"
	case "RotateRoot.no_follow":
		return "keeps the new root from nodes that run under the old one: for a root that is known to others"
	case "ReplaceSlot.replaces":
		return "id of the slot in whose place it comes; its label stays unless another is given"
	case "RotatedRoot.slots":
		return "the slots of the new root; shares are shown once"
	case "RotatedRoot.dropped":
		return "slots that were given up"
	case "RotatedRoot.job", "RotatedKEK.job":
		return "the job that seals everything anew"
	case "RetireRoot.lose":
		return "how many key versions are to be lost with the earlier roots; 0 when absent"
	case "Reseal.backend":
		return "the configured name of one backend; all when absent"
	case "KEK.name":
		return "what it is for"
	case "KEK.generation", "RotatedKEK.generation", "RetireKEK.generation":
		return "of the device's keys over keys, from 1"
	case "KEK.newest":
		return "whether new material gets it"
	case "KEK.versions":
		return "key versions that are under its generation"
	case "ReplaceSlot.label":
		return "for people; that of the slot which it replaces when absent"
	case "ReplaceSlot.kind":
		return "what opens it: passphrase, key-file, shamir, hsm or tpm; with device it need not be said"
	case "ReplaceSlot.device":
		return "the configured name of a device that is to open it by itself"
	case "Slot.label", "AddSlot.label", "AddedSlot.label":
		return "for people"
	case "AddSlot.shares", "ReplaceSlot.shares":
		return "how many shares to make"
	case "AddedSlot.shares":
		return "the shares: shown once"
	case "Slot.kind", "AddedSlot.kind":
		return "what opens it"
	case "AddSlot.kind":
		return "what opens it: passphrase, key-file, shamir, hsm or tpm; with device it need not be said"
	case "AddSlot.device":
		return "the configured name of a device that is to open it by itself"
	case "Slot.device", "AddedSlot.device":
		return "identity of the device that opens it, as the id of a backend"
	case "Health.version":
		return "of the program"
	case "UpdateKey.labels":
		return "labels to set; null removes one"
	case "UpdateKey.policy":
		return "replaces the policy"
	case "ExportKey.public_key":
		return "PEM of an RSA public key to wrap to, instead of to"
	case "ImportKey.public_key":
		return "PEM, for a key that verifies and encrypts only"
	case "Claims.public_key", "EvidenceSignature.public_key":
		return "SPKI DER"
	case "AttestationKey.public_key":
		return "PEM"
	case "Attest.nonce", "Claims.nonce":
		return "the verifier's own, 16 to 64 bytes"
	case "Attestation.format", "Evidence.format":
		return "name and version of the document's format"
	case "Claims.time":
		return "when the statement was made, by the service's clock"
	case "Claims.exportable":
		return "whether anything but the device alone decides that the material leaves it"
	case "Claims.policy":
		return "what the service enforces for the key"
	case "ClaimedPolicy.operations":
		return "what the key may be used for; everything of its purpose when absent"
	case "Claims.state":
		return "of the version, when the statement was made"
	case "Evidence.evidence":
		return "JSON of what the device says; empty when the statement is all there is"
	case "Evidence.kind":
		return "of the evidence: tpm, pkcs11 or none"
	case "Evidence.signature":
		return "the service's, over statement and evidence"
	case "AttestedDevice.kind":
		return "software, hsm or tpm"
	case "AttestedDevice.identity":
		return "the device's own, as GET /backends shows it"
	case "EvidenceSignature.value":
		return "Ed25519 (RFC 8032)"
	case "PCR.value":
		return "as the TPM signed it"
	case "PCR.index":
		return "number of the register"
	case "ImportParameters.public_key":
		return "PEM of the RSA key to wrap with"
	}
	return ""
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

// choices gives the values that a field can have, from the tables that decide it.
func choices(in reflect.Type, name string) []string {
	if in.PkgPath() == qpherPath {
		return qpher.Choices(in.Name(), name)
	}
	switch name {
	case "role":
		out := make([]string, 0, len(auth.Roles()))
		for _, r := range auth.Roles() {
			out = append(out, string(r.Role))
		}
		return out
	case "status":
		return []string{string(auth.TenantActive), string(auth.TenantSuspended)}
	case "algorithm":
		if in == reflect.TypeFor[wire.CreateKey]() || in == reflect.TypeFor[wire.ImportKey]() {
			var out []string
			for _, a := range backend.Algorithms() {
				out = append(out, string(a.Name))
			}
			return out
		}
	case "custody":
		if in != reflect.TypeFor[wire.Backend]() { // which has a list of them
			return []string{string(backend.CustodyDevice), string(backend.CustodySealed), string(backend.CustodySoftware)}
		}
	case "state":
		if in == reflect.TypeFor[wire.BackendMember]() {
			return []string{"missing", "joining", "refused", "healthy", "unavailable"}
		}
		if in == reflect.TypeFor[wire.Job]() {
			return []string{"queued", "running", "done", "failed", "cancelled"}
		}
		if in == reflect.TypeFor[wire.Approval]() {
			return []string{"pending", "approved", "rejected", "expired", "used"}
		}
		if in != reflect.TypeFor[wire.Backend]() {
			var out []string
			for _, s := range []keys.State{keys.StatePreActive, keys.StatePendingImport, keys.StateActive, keys.StateDeactivated,
				keys.StateSuspended, keys.StateCompromised, keys.StatePendingDeletion, keys.StateDestroyed} {
				out = append(out, string(s))
			}
			return out
		}
	case "hash":
		if in == reflect.TypeFor[wire.Sign]() || in == reflect.TypeFor[wire.Verify]() {
			return []string{"SHA-256", "SHA-384", "SHA-512"}
		}
		return []string{"SHA-1", "SHA-256", "SHA-384", "SHA-512"}
	case "format":
		if in == reflect.TypeFor[wire.PublicKey]() {
			return []string{"pem", "raw"}
		}
		if in == reflect.TypeFor[wire.Attestation]() || in == reflect.TypeFor[wire.Evidence]() {
			return []string{attest.Format}
		}
		return []string{"envelope", "raw", "hpke", "kem-dem"}
	case "padding":
		return []string{string(backend.PaddingPSS), string(backend.PaddingPKCS1v15)}
	case "new_keys":
		return []string{newKeysAny, string(keys.NewKeysPostQuantum), string(keys.NewKeysHybrid)}
	case "readiness":
		return []string{string(backend.ReadinessVulnerable), string(backend.ReadinessSymmetric), string(backend.ReadinessPostQuantum), string(backend.ReadinessHybrid)}
	case "brand":
		return auth.Brands()
	case "encoding":
		return []string{"der", "p1363"}
	case "assurance":
		return []string{string(attest.AssuranceDevice), string(attest.AssuranceStatement)}
	case "kind":
		switch in {
		case reflect.TypeFor[wire.Evidence]():
			return []string{attest.KindTPM, attest.KindPKCS11, attest.KindNone}
		case reflect.TypeFor[wire.AttestedDevice](), reflect.TypeFor[wire.Backend]():
		default:
			return []string{"passphrase", "key-file", "shamir"}
		}
	}
	return nil
}

func meaningOfJob(name string) string {
	switch name {
	case "state":
		return "done: all was tried, and failed says how much did not succeed"
	case "kind":
		return "what it does: move, rotation, deletion, …"
	case "deployment":
		return "whether it is the deployment's and not a tenant's"
	case "params":
		return "what it was asked, by kind"
	case "done":
		return "how much is done"
	case "failed":
		return "how much has failed for good"
	case "total":
		return "how much there is; absent when it is not known"
	case "failures":
		return "what failed, the first 100"
	case "resource":
		return "key:<id>, or key:<id>/<version>"
	case "error":
		return "why it failed or, while it is queued, why the last attempt did"
	case "attempts":
		return "attempts in a row that failed"
	case "retry_at":
		return "when it is tried again"
	case "node":
		return "the node that runs it, or ended it"
	case "created_by":
		return "the principal who asked for it; system when it was the schedule"
	case "started_at":
		return "when it first began"
	case "updated_at":
		return "when its progress was last written"
	case "ended_at":
		return "when it ended"
	}
	return ""
}
