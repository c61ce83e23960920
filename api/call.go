package api

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
)

// call is one request on its way through the pipeline. Calls are pooled: nothing of one may be kept after its handler has
// returned, and everything that held a caller's bytes is wiped first.
type call struct {
	s         *Server
	gin       *gin.Context
	route     *route
	start     time.Time
	query     url.Values
	principal *auth.Principal
	id        string         // the request id
	receipt   *audit.Receipt // where the call is recorded

	body     []byte // the request as it came
	fields   arena  // its binary fields, decoded
	decode   json.Options
	out      bytes.Buffer // the response
	answer   answer
	taken    int64  // of the body budget
	watching bool   // the credential of a stream is looked at again
	leaked   bool   // a service may still hold the request's memory: it must not be used again
	entropy  []byte // random bytes left for request ids
	pool     [512]byte
	batch    items
}

// answer is what a handler may say about its response beyond its data.
type answer struct {
	contentType string                          // of raw
	raw         []byte                          // instead of the envelope
	stream      func(http.ResponseWriter) error // instead of everything
	wipe        [][]byte                        // what must be wiped once it is written
}

func newCall(s *Server) *call {
	c := &call{s: s}
	c.decode = decodeOptions(c)
	return c
}

// release wipes the call and gives it back to the pool. After a deadline has passed a backend may still be reading what it
// was given: then the memory is left to the garbage collector.
func (c *call) release() {
	for _, b := range c.answer.wipe {
		clear(b)
	}
	c.s.bodies.give(c.taken)
	if c.leaked {
		return
	}
	clear(c.body)
	c.fields.wipe()
	c.batch.wipe()
	clear(c.out.Bytes())
	if cap(c.body) > keepBuffer || cap(c.fields.buf) > keepBuffer || c.out.Cap() > keepBuffer {
		return
	}
	c.out.Reset()
	c.body = c.body[:0]
	clear(c.answer.wipe)
	c.answer = answer{wipe: c.answer.wipe[:0]}
	c.gin, c.route, c.query, c.principal, c.id, c.receipt, c.taken, c.watching = nil, nil, nil, nil, "", nil, 0, false
	c.s.calls.Put(c)
}

// maxRequestID is the longest request id that is taken from a caller.
const maxRequestID = 128

func wellFormedID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// takeID takes the caller's request id, or makes a version 4 UUID (RFC 9562 section 5.4).
func (c *call) takeID() {
	if v := c.gin.Request.Header["X-Request-Id"]; len(v) == 1 && wellFormedID(v[0]) {
		c.id = v[0]
		return
	}
	if len(c.entropy) < 16 {
		// crypto/rand.Read never fails: it ends the program instead.
		rand.Read(c.pool[:]) //nolint:errcheck // see above
		c.entropy = c.pool[:]
	}
	u := c.entropy[:16]
	c.entropy = c.entropy[16:]
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	var t [36]byte
	hex.Encode(t[0:8], u[0:4])
	hex.Encode(t[9:13], u[4:6])
	hex.Encode(t[14:18], u[6:8])
	hex.Encode(t[19:23], u[8:10])
	hex.Encode(t[24:36], u[10:16])
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	c.id = string(t[:])
}

// caller is what the services are told about who asks.
func (c *call) caller() keys.Caller {
	k := keys.Caller{Principal: c.principal, RequestID: c.id}
	if len(c.gin.Request.Header["X-Approval"]) > 0 {
		k.Approval = c.presentedApproval()
	}
	return k
}

// creator is caller, with the idempotency token if one was sent.
func (c *call) creator() (keys.Caller, error) {
	k := c.caller()
	v, ok := c.gin.Request.Header["Idempotency-Key"]
	if !ok {
		return k, nil
	}
	if len(v) != 1 || !visibleASCII(v[0]) {
		return k, fault.New(fault.BadField, "the header Idempotency-Key must be 1 to 255 visible ASCII characters")
	}
	h := sha256.New()
	h.Write([]byte(c.route.Method + " " + c.gin.Request.URL.EscapedPath() + "\n"))
	h.Write(c.body)
	k.Idempotency = idempotency.Token{Key: v[0]}
	h.Sum(k.Idempotency.Request[:0])
	return k, nil
}

func visibleASCII(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// param gives a path parameter, decoded.
func (c *call) param(name string) (string, error) {
	v := c.gin.Param(name)
	if strings.IndexByte(v, '%') < 0 {
		return v, nil
	}
	d, err := url.PathUnescape(v)
	if err != nil {
		return "", fault.New(fault.RouteNotFound, "the path is not well encoded")
	}
	return d, nil
}

// presented gives the credential of the request, from either header. Two that differ are as good as none.
func presented(h http.Header) (string, error) {
	bearer, apiKey := h["Authorization"], h["X-Api-Key"]
	if len(bearer) > 1 || len(apiKey) > 1 {
		return "", fault.New(fault.Unauthenticated, "send one credential")
	}
	var token string
	if len(bearer) == 1 {
		scheme, rest, ok := strings.Cut(bearer[0], " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return "", fault.New(fault.Unauthenticated, "the Authorization header must be of the scheme Bearer")
		}
		token = strings.Trim(rest, " ")
	}
	if len(apiKey) == 1 {
		if len(bearer) == 1 && !sameToken(apiKey[0], token) {
			return "", fault.New(fault.Unauthenticated, "Authorization and X-API-Key carry different credentials")
		}
		token = apiKey[0]
	}
	if token == "" {
		return "", fault.New(fault.Unauthenticated, "send a credential, as Authorization: Bearer or X-API-Key")
	}
	return token, nil
}
