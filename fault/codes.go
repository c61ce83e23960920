package fault

// Code is a stable identifier of a kind of failure, as it stands in the error_code field on the wire. Codes are never
// renamed or reused.
type Code string

// The codes. The table in Codes says what each means; docs/errors.md is made from it.
const (
	Internal            Code = "ERR_INTERNAL"
	Unavailable         Code = "ERR_UNAVAILABLE"
	Locked              Code = "ERR_LOCKED"
	Overloaded          Code = "ERR_OVERLOADED"
	Timeout             Code = "ERR_TIMEOUT"
	AuditUnavailable    Code = "ERR_AUDIT_UNAVAILABLE"
	StoreUnavailable    Code = "ERR_STORE_UNAVAILABLE"
	StoreCorrupted      Code = "ERR_STORE_CORRUPTED"
	BackendUnavailable  Code = "ERR_BACKEND_UNAVAILABLE"
	KeyMaterial         Code = "ERR_KEY_MATERIAL_UNREADABLE"
	Unauthenticated     Code = "ERR_UNAUTHENTICATED"
	Forbidden           Code = "ERR_FORBIDDEN"
	InsufficientScope   Code = "ERR_INSUFFICIENT_SCOPE"
	PolicyDenied        Code = "ERR_POLICY_DENIED"
	RouteNotFound       Code = "ERR_ROUTE_NOT_FOUND"
	MethodNotAllowed    Code = "ERR_METHOD_NOT_ALLOWED"
	KeyNotFound         Code = "ERR_KEY_NOT_FOUND"
	VersionNotFound     Code = "ERR_KEY_VERSION_NOT_FOUND"
	APIKeyNotFound      Code = "ERR_API_KEY_NOT_FOUND"
	BackendNotFound     Code = "ERR_BACKEND_NOT_FOUND"
	SlotNotFound        Code = "ERR_ROOT_SLOT_NOT_FOUND"
	EntryNotFound       Code = "ERR_AUDIT_ENTRY_NOT_FOUND"
	EntryPruned         Code = "ERR_AUDIT_ENTRY_PRUNED"
	WebhookNotFound     Code = "ERR_WEBHOOK_NOT_FOUND"
	SessionNotFound     Code = "ERR_SESSION_NOT_FOUND"
	EventsGone          Code = "ERR_EVENTS_GONE"
	NoDefaultKey        Code = "ERR_NO_DEFAULT_KEY"
	JobNotFound         Code = "ERR_JOB_NOT_FOUND"
	JobEnded            Code = "ERR_JOB_ENDED"
	BadJSON             Code = "ERR_INVALID_JSON"
	UnknownField        Code = "ERR_UNKNOWN_FIELD"
	BadEncoding         Code = "ERR_INVALID_ENCODING"
	BadField            Code = "ERR_INVALID_FIELD"
	MissingField        Code = "ERR_MISSING_FIELD"
	BadSize             Code = "ERR_INVALID_SIZE"
	BadAlgorithm        Code = "ERR_INVALID_ALGORITHM"
	BadName             Code = "ERR_INVALID_NAME"
	BadCursor           Code = "ERR_INVALID_CURSOR"
	BadQuery            Code = "ERR_INVALID_QUERY"
	BodyTooLarge        Code = "ERR_BODY_TOO_LARGE"
	BadContentType      Code = "ERR_UNSUPPORTED_MEDIA_TYPE"
	TooManyItems        Code = "ERR_TOO_MANY_ITEMS"
	RateLimited         Code = "ERR_RATE_LIMITED"
	BadEnvelope         Code = "ERR_INVALID_CIPHERTEXT"
	DecryptionFailed    Code = "ERR_DECRYPTION_FAILED"
	BadImport           Code = "ERR_INVALID_KEY_MATERIAL"
	BadState            Code = "ERR_KEY_STATE"
	BadTransition       Code = "ERR_STATE_TRANSITION"
	BadVersion          Code = "ERR_KEY_VERSION"
	OperationNotAllowed Code = "ERR_OPERATION_NOT_ALLOWED"
	Unsupported         Code = "ERR_UNSUPPORTED"
	NotExportable       Code = "ERR_NOT_EXPORTABLE"
	UsageLimit          Code = "ERR_USAGE_LIMIT"
	DailyLimit          Code = "ERR_DAILY_LIMIT"
	NameTaken           Code = "ERR_NAME_TAKEN"
	Conflict            Code = "ERR_CONFLICT"
	IdempotencyConflict Code = "ERR_IDEMPOTENCY_CONFLICT"
	DeletionProtected   Code = "ERR_DELETION_PROTECTED"
	Attestation         Code = "ERR_ATTESTATION"
	LastSlot            Code = "ERR_LAST_ROOT_SLOT"
	WrongSecret         Code = "ERR_WRONG_ROOT_SECRET"
	NotLocked           Code = "ERR_NOT_LOCKED"
	TenantNotFound      Code = "ERR_TENANT_NOT_FOUND"
	TenantSuspended     Code = "ERR_TENANT_SUSPENDED"
	QuotaExceeded       Code = "ERR_QUOTA_EXCEEDED"
	GrantNotFound       Code = "ERR_GRANT_NOT_FOUND"
	ApprovalNotFound    Code = "ERR_APPROVAL_NOT_FOUND"
	ApprovalRequired    Code = "ERR_APPROVAL_REQUIRED"
)

// Description says what a code means, in words for the reader of docs/errors.md.
type Description struct {
	Code    Code
	Meaning string
}

// Codes lists every code once, in the order of the documentation.
func Codes() []Description {
	return []Description{
		{Internal, "A fault inside the service. The log has the cause under the request id; nothing of it is shown."},
		{Unavailable, "The service is starting or stopping."},
		{Locked, "The root is not open yet: unlock the service first."},
		{Overloaded, "A queue is full. Try again after the time in Retry-After."},
		{Timeout, "The deadline passed before the operation finished."},
		{AuditUnavailable, "The audit record could not be made durable, so the result was not released."},
		{StoreUnavailable, "The store cannot be reached or written (disk full, read-only, locked)."},
		{StoreCorrupted, "The store found damage in its own pages and refuses to go on with them."},
		{BackendUnavailable, "The backend that holds this key is not available on this node at the moment."},
		{KeyMaterial, "The stored key material does not open or does not fit its record: damaged, or of another root."},
		{Unauthenticated, "No credential, or one that is malformed, unknown, expired or revoked."},
		{Forbidden, "The credential may not do this."},
		{InsufficientScope, "The credential lacks the scope that this route needs."},
		{PolicyDenied, "The policy of the key forbids this request (operation, or required context missing)."},
		{RouteNotFound, "There is nothing at this path."},
		{MethodNotAllowed, "The path exists, but not with this method."},
		{KeyNotFound, "No such key in this tenant."},
		{VersionNotFound, "The key has no such version."},
		{APIKeyNotFound, "No such API key in this tenant."},
		{BackendNotFound, "No backend of this name is configured."},
		{SlotNotFound, "No such root slot."},
		{EntryNotFound, "The audit log has no such entry, or not one of this tenant."},
		{EntryPruned, "The entry was pruned by the retention of the audit log: its hash and its proof are kept, its body is not."},
		{WebhookNotFound, "No such webhook in this tenant."},
		{SessionNotFound, "No such session in this tenant, or the request has none."},
		{EventsGone, "Events are kept for 3 days, and what came after this id is not all there any more: read the audit log from there, then begin anew."},
		{NoDefaultKey, "No key was named and the tenant has no default key for this operation."},
		{JobNotFound, "No such job that the credential may see. Jobs are forgotten 30 days after their end."},
		{JobEnded, "The job has ended already."},
		{BadJSON, "The body is not valid JSON, has duplicate members, trailing data, or a value of the wrong type."},
		{UnknownField, "The body has a field that this request does not know."},
		{BadEncoding, "A binary field is not standard padded base64, or a PEM, DER or hex value is malformed."},
		{BadField, "A field has a value that is not allowed."},
		{MissingField, "A required field is missing, or two that exclude each other are both there."},
		{BadSize, "A value is shorter or longer than allowed."},
		{BadAlgorithm, "The algorithm is unknown, or not one for this request."},
		{BadName, "A name or label is malformed."},
		{BadCursor, "The cursor was not made by this list."},
		{BadQuery, "A query parameter is unknown or has a value that is not allowed."},
		{BodyTooLarge, "The body is larger than this route accepts."},
		{BadContentType, "The body must be application/json."},
		{TooManyItems, "A batch has no items or more than 1,000."},
		{RateLimited, "Too many requests, of the tenant or of this credential: try again after the time in Retry-After."},
		{BadEnvelope, "The ciphertext is not a well-formed envelope, or not one of this key."},
		{DecryptionFailed, "The ciphertext does not open. Why is not said."},
		{BadImport, "The imported material does not open, or is not a key of the named algorithm."},
		{BadState, "The state of the key version forbids this operation."},
		{BadTransition, "The state of a key version cannot change in this way."},
		{BadVersion, "The version is below the key's minimum, or cannot be used for this."},
		{OperationNotAllowed, "The key's algorithm or purpose does not have this operation."},
		{Unsupported, "The backend cannot do this with this algorithm."},
		{NotExportable, "The policy of the key does not allow its export."},
		{DailyLimit, "The tenant has carried out as many operations today as its plan allows: Retry-After ends at midnight, UTC."},
		{UsageLimit, "The usage limit of the key is reached, or its version has protected as much as its algorithm bears: then rotate it."},
		{NameTaken, "Another key of the tenant has this name."},
		{Conflict, "Somebody else changed the same thing at the same time: read again and repeat."},
		{IdempotencyConflict, "The Idempotency-Key was used before with another request."},
		{DeletionProtected, "The key is protected against deletion by its policy."},
		{Attestation, "The policy of the key demands attestation and the backend gives no evidence that satisfies it, or the evidence does not verify."},
		{LastSlot, "The last root slot cannot be removed."},
		{WrongSecret, "No root slot opens with what was given."},
		{NotLocked, "The service is not locked."},
		{TenantNotFound, "No such tenant."},
		{TenantSuspended, "The tenant is suspended: its credentials are refused until it is resumed."},
		{QuotaExceeded, "The tenant has as many of these as its quota allows."},
		{GrantNotFound, "The key has no such grant."},
		{ApprovalNotFound, "No such approval in this tenant."},
		{ApprovalRequired, "The operation takes the approval of others: none was sent, or it is not granted, not of this request, used or expired."},
	}
}
