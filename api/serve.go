package api

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

// Header values that never change, so that no request has to allocate them. net/http only reads them.
var (
	jsonContent     = []string{"application/json"}
	noStore         = []string{"no-store"}
	noSniff         = []string{"nosniff"}
	challenge       = []string{`Bearer realm="keywright"`}
	closeConnection = []string{"close"}
)

func sameToken(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// begin takes a call from the pool and answers for its id.
func (s *Server) begin(g *gin.Context, r *route) *call {
	c := s.calls.Get().(*call)
	c.gin, c.route, c.start = g, r, time.Now()
	c.takeID()
	h := g.Writer.Header()
	h["X-Request-Id"] = []string{c.id}
	h["X-Content-Type-Options"] = noSniff
	h["Cache-Control"] = noStore
	return c
}

// serve is the pipeline of one route.
func (s *Server) serve(r *route) gin.HandlerFunc {
	m := s.metrics.of(r)
	return func(g *gin.Context) {
		c := s.begin(g, r)
		m.all.inFlight.Inc()
		defer func() {
			p := recover()
			aborted := p != nil && c.panicked(p)
			m.all.inFlight.Dec()
			m.done(g.Writer.Status(), time.Since(c.start))
			c.release()
			if aborted {
				panic(http.ErrAbortHandler) // net/http's way to cut a connection; it logs nothing
			}
		}()
		if err := c.run(); err != nil {
			c.fail(err)
			return
		}
		c.succeed()
	}
}

// run does the work of a call up to its response in c.out.
func (c *call) run() error {
	s, r := c.s, c.route
	if !r.Open || r.NeedsRoot {
		if s.root.Locked() {
			return fault.New(fault.Locked, "the service is locked: its root is not open yet")
		}
	}
	ctx := c.gin.Request.Context()
	if limit := r.timeout(s.limits); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	ctx, c.receipt = audit.WithReceipt(ctx)
	if !r.Open {
		if err := c.authenticate(ctx); err != nil {
			return err
		}
	}
	if err := c.checkQuery(); err != nil {
		return err
	}
	if err := c.takeBody(); err != nil {
		return err
	}
	err := r.Do.run(ctx, c)
	// From here on a backend that was too slow may still hold what we gave it.
	if ctx.Err() != nil || fault.Has(err, fault.Timeout) {
		c.leaked = true
	}
	return err
}

// authenticate finds the principal and asks whether it may use the route.
func (c *call) authenticate(ctx context.Context) error {
	p, d, missing, err := c.identify(ctx)
	c.principal = p
	if err != nil {
		if p != nil {
			if err := c.limit(ctx, true); err != nil {
				return err
			}
			return c.denied(ctx, &d)
		}
		if missing != "" {
			c.s.denials.Add(missing)
		}
		return err
	}
	if err := c.limit(ctx, false); err != nil {
		return err
	}
	if d = c.route.permits(c.principal, c.start); !d.Allowed {
		return c.denied(ctx, &d)
	}
	return nil
}

// reason says in a fixed word why a request had no usable credential.
func reason(h http.Header) string {
	switch bearer, apiKey := len(h["Authorization"]), len(h["X-Api-Key"]); {
	case bearer == 0 && apiKey == 0:
		return "missing"
	case bearer > 0 && apiKey > 0, bearer > 1, apiKey > 1:
		return "conflicting"
	}
	return "malformed"
}

// refusalDeadline is for the record of a refusal whose caller has gone.
const refusalDeadline = 5 * time.Second

// denied records a denial of a known caller and gives its fault. No service has seen the request, so that nobody else
// would record it.
func (c *call) denied(ctx context.Context, d *auth.Decision) error {
	refusal := d.Err()
	if ctx.Err() != nil { // who hangs up is not let off
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), refusalDeadline)
		defer cancel()
	}
	_, err := c.s.audit.Record(ctx, &audit.Entry{
		Tenant: c.principal.Tenant, Principal: c.principal.ID, Action: "authorize", Outcome: string(fault.CodeOf(refusal)),
		Latency: time.Since(c.start), RequestID: c.id, Detail: c.route.Method + " " + c.route.Path + " rule " + string(d.Rule),
	})
	if err != nil {
		return err
	}
	return refusal
}

// takeBody reads the body of a route that has one and refuses any other.
func (c *call) takeBody() error {
	r := c.gin.Request
	if c.route.BodyLimit == 0 && r.ContentLength != 0 {
		return fault.New(fault.BodyTooLarge, "this route takes no body")
	}
	if r.ContentLength == 0 && (c.route.BodyLimit == 0 || c.route.BodyOptional) {
		return noDeadline(http.NewResponseController(c.gin.Writer))
	}
	if v := r.Header["Content-Type"]; len(v) != 1 || !isJSON(v[0]) {
		return fault.New(fault.BadContentType, "the body must be application/json")
	}
	if v := r.Header["Content-Encoding"]; len(v) != 0 {
		return fault.New(fault.BadContentType, "the body must not be compressed")
	}
	return c.readBody(c.route.BodyLimit)
}

// succeed writes the response.
func (c *call) succeed() {
	w := c.gin.Writer
	h := w.Header()
	if c.answer.stream != nil {
		if err := c.answer.stream(w); err != nil {
			if !w.Written() {
				h.Del("Content-Disposition")
				c.fail(err)
				return
			}
			// The status line is out already: all that is left is to cut the connection, so that nobody takes the part
			// for the whole.
			c.s.log.Warn("response cut short", "request_id", c.id, "route", c.route.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
		return
	}
	if c.answer.raw != nil {
		h["Content-Type"] = []string{c.answer.contentType}
		c.write(c.route.Status, c.answer.raw)
		return
	}
	h["Content-Type"] = jsonContent
	c.write(c.route.Status, c.out.Bytes())
}

// fail writes the error response.
func (c *call) fail(err error) {
	f, known := public(err)
	status, code := c.route.shown(f.Code)
	c.s.metrics.errors.WithLabelValues(string(f.Code)).Inc()
	switch {
	case !known:
		c.s.log.Error("internal fault", "request_id", c.id, "route", c.route.Path, "error", err)
	case status >= http.StatusInternalServerError && errors.Unwrap(f) != nil:
		c.s.log.Warn("request failed", "request_id", c.id, "route", c.route.Path, "code", string(f.Code), "error", err)
	}
	h := c.gin.Writer.Header()
	if status == http.StatusUnauthorized {
		h["Www-Authenticate"] = challenge
	}
	if f.After > 0 {
		h["Retry-After"] = []string{strconv.FormatInt(int64((f.After+time.Second-1)/time.Second), 10)}
	}
	h["Content-Type"] = jsonContent
	clear(c.out.Bytes())
	c.out.Reset()
	b := c.out.AvailableBuffer()
	b = append(b, `{"error":`...)
	b = appendErrorAs(b, code, f.Message)
	b = c.appendTail(b)
	c.out.Write(b)
	c.write(status, c.out.Bytes())
}

func (c *call) write(status int, body []byte) {
	w := c.gin.Writer
	h := w.Header()
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if c.receipt != nil {
		if index, ok := c.receipt.Index(); ok {
			h["X-Audit-Index"] = []string{strconv.FormatUint(index, 10)}
		}
	}
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		c.s.log.Debug("response not taken", "request_id", c.id, "error", err)
	}
}

// panicked answers a panic with a bare 500. What was thrown may hold a caller's bytes: the log gets its type and the
// stack, and its text only where the runtime made it. It reports whether the connection is to be cut instead.
func (c *call) panicked(p any) (abort bool) {
	c.leaked = true
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return true
	}
	text := fmt.Sprintf("%T", p)
	if err, ok := p.(interface {
		error
		RuntimeError()
	}); ok {
		text = err.Error()
	}
	c.s.log.Error("panic", "request_id", c.id, "route", c.route.Path, "panic", text, "stack", string(debug.Stack()))
	if !c.gin.Writer.Written() {
		c.fail(internal())
		return false
	}
	return true
}

// elsewhere stands for requests that no route takes.
var elsewhere = route{Path: "none"}

func (s *Server) notFound(g *gin.Context) {
	s.refuse(g, fault.New(fault.RouteNotFound, "there is nothing at this path"))
}

func (s *Server) methodNotAllowed(g *gin.Context) {
	s.refuse(g, fault.New(fault.MethodNotAllowed, "this path does not take this method"))
}

func (s *Server) refuse(g *gin.Context, err error) {
	c := s.begin(g, &elsewhere)
	defer c.release()
	c.fail(err)
	s.metrics.none.done(g.Writer.Status(), time.Since(c.start))
}
