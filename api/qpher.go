package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// qpherTime is how Qpher writes times: with milliseconds, in UTC.
const qpherTime = "2006-01-02T15:04:05.000Z"

// timeForm is the form of the timestamp in a route's answers.
func (r *route) timeForm() string {
	if r.Qpher != "" {
		return qpherTime
	}
	return time.RFC3339Nano
}

// shown gives the status and the name that a code has in a route's answers.
func (r *route) shown(code fault.Code) (status int, name string) {
	status, _ = statusOf(code)
	if r.Qpher != "" {
		return qpher.Shown(r.Qpher, code, status)
	}
	return status, string(code)
}

// errorName is the response of failures in the document.
func (r *route) errorName() string {
	if r.Qpher != "" {
		return "QpherError"
	}
	return "Error"
}

// qpherErrors describes the failures of Qpher's routes.
func (d *document) qpherErrors() {
	var names []string
	for _, e := range qpher.Errors() {
		names = append(names, e.Code)
	}
	text := object{"type": "string"}
	d.schemas["QpherErrorResponse"] = object{"type": "object", "required": []string{"error", "request_id", "timestamp"}, "properties": object{
		"error": object{"type": "object", "required": []string{"error_code", "message"}, "properties": object{
			"error_code": object{"type": "string", "enum": names}, "message": text}},
		"request_id": text, "timestamp": object{"type": "string", "format": "date-time"}}}
}

// qpherRows is the part of the table that package qpher answers.
func (s *Server) qpherRows() []route {
	q := qpher.New(s.keys)
	algorithm := param{"algorithm", "string", "one of Qpher's four names; required"}
	some := algorithm
	some.Meaning = "one of Qpher's four names; all when absent"
	rows := []route{
		qpherOperation("/kem/encrypt", qpher.GroupKEM, "Encrypt", answers[qpher.Ciphertext](q.Encrypt)),
		qpherOperation("/kem/decrypt", qpher.GroupKEM, "Decrypt", answers[qpher.Plaintext](q.Decrypt)),
		qpherOperation("/kem/encapsulate", qpher.GroupKEM, "Make a shared secret and what carries it", answers[qpher.Encapsulation](q.Encapsulate)).small(),
		qpherOperation("/kem/decapsulate", qpher.GroupKEM, "Recover a shared secret", answers[qpher.SharedSecret](q.Decapsulate)).small(),
		qpherOperation("/kem/key/wrap", qpher.GroupKEM, "Wrap a symmetric key", answers[qpher.WrappedKey](q.Wrap)).small(),
		qpherOperation("/kem/key/unwrap", qpher.GroupKEM, "Unwrap a symmetric key", answers[qpher.SymmetricKey](q.Unwrap)).small(),
		qpherOperation("/kem/wrap", qpher.GroupKEM, "Wrap a symmetric key: the other spelling", answers[qpher.WrappedKey](q.Wrap)).small(),
		qpherOperation("/kem/unwrap", qpher.GroupKEM, "Unwrap a symmetric key: the other spelling", answers[qpher.SymmetricKey](q.Unwrap)).small(),
		qpherOperation("/signature/sign", qpher.GroupSignature, "Sign", answers[qpher.Signature](q.Sign)),
		qpherOperation("/signature/verify", qpher.GroupSignature, "Verify a signature", answers[qpher.Validity](q.Verify)),
		qpherOperation("/signature/sign-hash", qpher.GroupSignature, "Sign a digest", answers[qpher.HashSignature](q.SignHash)).small(),
		qpherOperation("/signature/verify-hash", qpher.GroupSignature, "Verify a signature of a digest", answers[qpher.HashValidity](q.VerifyHash)).small(),

		qpherChange("/kms/keys/generate", "Make a version while none is active", handle(behind(q.Generate)), http.StatusCreated),
		qpherChange("/kms/keys/rotate", "Make a version and retire the active one", handle(behind(q.Rotate)), http.StatusOK),
		qpherChange("/kms/keys/retire", "Retire a version", handle(behind(q.Retire)), http.StatusOK),
		read("/kms/keys/active", auth.ScopeKeysRead, qpher.Tag, "The active version", handle(looks(q.Active)), algorithm),
		read("/kms/keys/{n}", auth.ScopeKeysRead, qpher.Tag, "One version", handle(looks(q.Get)), algorithm),
		read("/kms/keys", auth.ScopeKeysRead, qpher.Tag, "All versions", handle(looks(q.List)), some,
			param{"status", "string", "active, retired or archived"}),
	}
	for i := range rows {
		rows[i].Tag = qpher.Tag
		if rows[i].Qpher == "" {
			rows[i].Qpher = qpher.GroupKMS
		}
	}
	return rows
}

func qpherOperation(path string, g qpher.Group, summary string, do endpoint) route {
	r := operate(path, summary, do)
	r.Qpher = g
	return r
}

// qpherChange needs the scope to read as well: its answer shows a version.
func qpherChange(path, summary string, do endpoint, status int) route {
	r := write(http.MethodPost, path, auth.ScopeKeysWrite, qpher.Tag, summary, do)
	r.And, r.Status = auth.ScopeKeysRead, status
	return r
}

// behind makes a handler of a method of package qpher.
func behind[Req, Resp any](fn func(context.Context, keys.Caller, *Req) (Resp, error)) func(context.Context, *call, *Req) (Resp, error) {
	return func(ctx context.Context, c *call, r *Req) (Resp, error) { return fn(ctx, c.caller(), r) }
}

// looks is behind for what takes path and query alone.
func looks[Resp any](fn func(context.Context, keys.Caller, qpher.Params) (Resp, error)) func(context.Context, *call, *wire.Empty) (Resp, error) {
	return func(ctx context.Context, c *call, _ *wire.Empty) (Resp, error) {
		return fn(ctx, c.caller(), func(name string) string {
			if v := c.query.Get(name); v != "" {
				return v
			}
			return c.gin.Param(name)
		})
	}
}

// answers makes an endpoint of an operation, whose answer writes itself and looks like Data.
func answers[Data, Req any](fn func(context.Context, keys.Caller, *Req) (*qpher.Answer, error)) endpoint {
	e := handle(func(ctx context.Context, c *call, r *Req) (appender, error) {
		a, err := fn(ctx, c.caller(), r)
		if err != nil {
			return nil, err
		}
		c.answer.wipe = append(c.answer.wipe, a.Secrets()...)
		return foreign{a}, nil
	})
	e.Resp = reflect.TypeFor[Data]()
	return e
}

// foreign is an answer of package qpher as an appender.
type foreign struct{ *qpher.Answer }

func (f foreign) size() int                  { return f.Size() }
func (f foreign) appendJSON(b []byte) []byte { return f.AppendJSON(b) }
