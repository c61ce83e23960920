package api

func meaningIn(in, name string) string {
	if m := meaningInSessions(in + "." + name); m != "" {
		return m
	}
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
	case "Proof.pruned":
		return "the entry was pruned: there is no leaf"
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
