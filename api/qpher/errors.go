package qpher

import (
	"net/http"

	"github.com/keywright/keywright/fault"
)

// Group is the family of routes that an error comes from: what the same failure is called depends on it.
type Group string

// The groups of routes.
const (
	GroupKEM       Group = "KEM"
	GroupSignature Group = "SIG"
	GroupKMS       Group = "KMS"
)

// Qpher's error codes. Those that Qpher's pages do not name are numbered here: see docs/guides/qpher.md.
const (
	codeAuth        = "ERR_AUTH_001"
	codeSchema      = "ERR_INVALID_001"
	codeValue       = "ERR_INVALID_003"
	codeForbidden   = "ERR_FORBIDDEN_001"
	codePolicy      = "ERR_POLICY_001"
	codeNotFound    = "ERR_NOT_FOUND_001"
	codeConflict    = "ERR_CONFLICT_001"
	codeRateLimit   = "ERR_RATE_LIMIT_001"
	codeKEMRequest  = "ERR_KEM_001"
	codeKEMOpen     = "ERR_KEM_002"
	codeKEMVersion  = "ERR_KEM_005"
	codeSIGRequest  = "ERR_SIG_001"
	codeKMSRequest  = "ERR_KMS_001"
	codeCrypto      = "ERR_CRYPTO_001"
	codeInternal    = "ERR_INTERNAL_001"
	codeBadGateway  = "ERR_BAD_GATEWAY_001"
	codeService     = "ERR_SERVICE_001"
	codeTimeout     = "ERR_TIMEOUT_001"
	statusValue     = http.StatusUnprocessableEntity
	statusRateLimit = http.StatusTooManyRequests
)

// Error is one of Qpher's error codes, for the documentation.
type Error struct {
	Code    string
	Status  int
	Meaning string
}

// Errors lists the codes in the order of the documentation.
func Errors() []Error {
	return []Error{
		{codeAuth, 401, "No API key, or one that is malformed, unknown, expired or revoked."},
		{codeRateLimit, 429, "Too many requests."},
		{codeForbidden, 403, "The API key lacks the scope that this route needs."},
		{codePolicy, 403, "The policy of the key forbids this request."},
		{codeSchema, 400, "The request does not fit its schema."},
		{codeValue, 422, "The request is well-formed and has a value that is not allowed."},
		{codeKEMRequest, 400, "A field of a KEM request is missing, or the key does not have the operation."},
		{codeKEMOpen, 400, "The ciphertext does not open. Why is not said."},
		{codeKEMVersion, 404, "The key has no such version, or its status does not allow this."},
		{codeSIGRequest, 400, "A field of a signature request is missing, or the key does not have the operation."},
		{codeKMSRequest, 400, "The key cannot be changed in this way."},
		{codeNotFound, 404, "There is no such version, or its status does not allow this."},
		{codeConflict, 409, "There is an active version already, or somebody else changed the same key at the same time."},
		{codeCrypto, 500, "The stored key material does not open."},
		{codeInternal, 500, "A fault inside the service."},
		{codeBadGateway, 502, "The device that holds the key is not available."},
		{codeService, 503, "The service is starting, stopping, locked or overloaded, or cannot record what it does."},
		{codeTimeout, 504, "The deadline passed before the operation finished."},
	}
}

// Shown is the one table from a fault's code to Qpher's status and code. native is the status that the native API gives it, which decides for
// the codes that have no row of their own.
func Shown(g Group, code fault.Code, native int) (status int, name string) {
	switch code {
	case fault.PolicyDenied, fault.UsageLimit:
		return http.StatusForbidden, codePolicy
	case fault.BadField, fault.BadSize, fault.BadAlgorithm, fault.BadName, fault.Unsupported:
		return statusValue, codeValue
	case fault.MissingField, fault.OperationNotAllowed:
		switch {
		case g == GroupKEM:
			return http.StatusBadRequest, codeKEMRequest
		case g == GroupSignature:
			return http.StatusBadRequest, codeSIGRequest
		case code == fault.MissingField:
			return http.StatusBadRequest, codeSchema
		}
		return http.StatusBadRequest, codeKMSRequest
	case fault.DecryptionFailed, fault.BadEnvelope:
		return http.StatusBadRequest, codeKEMOpen
	case fault.KeyNotFound, fault.VersionNotFound:
		return http.StatusNotFound, g.notFound()
	case fault.BadState, fault.BadVersion:
		if g != GroupKMS {
			return http.StatusNotFound, g.notFound()
		}
	case fault.BackendUnavailable:
		return http.StatusBadGateway, codeBadGateway
	case fault.KeyMaterial:
		return http.StatusInternalServerError, codeCrypto
	}
	return byStatus(native)
}

func (g Group) notFound() string {
	if g == GroupKEM {
		return codeKEMVersion
	}
	return codeNotFound
}

func byStatus(native int) (int, string) {
	switch native {
	case http.StatusUnauthorized:
		return native, codeAuth
	case http.StatusForbidden:
		return native, codeForbidden
	case http.StatusNotFound:
		return native, codeNotFound
	case http.StatusConflict:
		return native, codeConflict
	case statusValue:
		return native, codeValue
	case statusRateLimit:
		return native, codeRateLimit
	case http.StatusBadGateway:
		return native, codeBadGateway
	case http.StatusServiceUnavailable:
		return native, codeService
	case http.StatusGatewayTimeout:
		return native, codeTimeout
	}
	if native >= 400 && native < 500 { // Qpher knows neither 405 nor 413 nor 415
		return http.StatusBadRequest, codeSchema
	}
	return http.StatusInternalServerError, codeInternal
}
