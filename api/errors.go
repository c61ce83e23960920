package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/keywright/keywright/fault"
)

// statusOf is the one table from a fault's code to the HTTP status. ok is false for a code that has no row: a test sees
// to it that none of fault.Codes is without.
func statusOf(code fault.Code) (status int, ok bool) {
	switch code {
	case fault.BadJSON, fault.UnknownField, fault.BadEncoding, fault.BadField, fault.MissingField, fault.BadSize,
		fault.BadAlgorithm, fault.BadName, fault.BadCursor, fault.BadQuery, fault.TooManyItems, fault.BadEnvelope,
		fault.DecryptionFailed, fault.BadImport, fault.OperationNotAllowed, fault.Unsupported:
		return http.StatusBadRequest, true
	case fault.Unauthenticated:
		return http.StatusUnauthorized, true
	case fault.Forbidden, fault.InsufficientScope, fault.PolicyDenied, fault.NotExportable, fault.UsageLimit,
		fault.WrongSecret, fault.TenantSuspended, fault.QuotaExceeded, fault.ApprovalRequired:
		return http.StatusForbidden, true
	case fault.RouteNotFound, fault.KeyNotFound, fault.VersionNotFound, fault.APIKeyNotFound, fault.BackendNotFound,
		fault.SlotNotFound, fault.EntryNotFound, fault.NoDefaultKey, fault.TenantNotFound, fault.GrantNotFound, fault.ApprovalNotFound,
		fault.JobNotFound, fault.WebhookNotFound, fault.SessionNotFound:
		return http.StatusNotFound, true
	case fault.EventsGone, fault.EntryPruned:
		return http.StatusGone, true
	case fault.MethodNotAllowed:
		return http.StatusMethodNotAllowed, true
	case fault.BadState, fault.BadTransition, fault.BadVersion, fault.NameTaken, fault.Conflict,
		fault.IdempotencyConflict, fault.DeletionProtected, fault.LastSlot, fault.NotLocked, fault.Attestation, fault.JobEnded:
		return http.StatusConflict, true
	case fault.RateLimited, fault.DailyLimit:
		return http.StatusTooManyRequests, true
	case fault.BodyTooLarge:
		return http.StatusRequestEntityTooLarge, true
	case fault.BadContentType:
		return http.StatusUnsupportedMediaType, true
	case fault.Unavailable, fault.Locked, fault.Overloaded, fault.AuditUnavailable, fault.StoreUnavailable,
		fault.BackendUnavailable:
		return http.StatusServiceUnavailable, true
	case fault.Timeout:
		return http.StatusGatewayTimeout, true
	case fault.Internal, fault.StoreCorrupted, fault.KeyMaterial:
		return http.StatusInternalServerError, true
	}
	return http.StatusInternalServerError, false
}

// internal is all that a caller sees of a failure without a code.
func internal() *fault.Error {
	return fault.New(fault.Internal, "an internal fault: the service's log has its cause under the request id")
}

// public gives the fault that may be shown for err. known is false when err carried no code of the table: then its cause
// belongs into the log.
func public(err error) (f *fault.Error, known bool) {
	if errors.As(err, &f) {
		if _, ok := statusOf(f.Code); ok && f.Code != fault.Internal {
			return f, true
		}
		return internal(), false
	}
	// A bare context error comes from a layer that had no fault to say it with; both mean that the time was over.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fault.New(fault.Timeout, "the deadline passed before the operation finished"), true
	}
	return internal(), false
}
