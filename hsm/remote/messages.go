package remote

import (
	"crypto"
	"encoding/binary"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

// operation is what a request asks for: the methods of token.Token.
type operation uint8

const (
	opUse operation = iota + 1
	opRandom
	opPing
	opFind
	opList
	opGenerate
	opImport
	opDestroy
	opDescribe
	opStats
	opUseMany
	opAttributes
	opPlace
	opImportWrapped
)

// repeatable reports whether a call whose answer was lost with its child can be made again. Objects are never made or removed twice:
// the first call may have done it.
func (o operation) repeatable() bool {
	return o == opUse || o == opUseMany || o == opRandom || o == opFind || o == opAttributes || o == opList
}

// onObjects reports whether a call is about the token's objects as such: those go to one child, as long as it lives. SoftHSM shows objects
// twice, or not at all, when several processes make and destroy some at the same time.
func (o operation) onObjects() bool {
	return o == opFind || o == opAttributes || o == opList || o == opGenerate || o == opImport || o == opImportWrapped || o == opPlace || o == opDestroy
}

func beginRequest(b []byte, op operation) []byte {
	b = begin(b, kindRequest, 0)
	b = binary.BigEndian.AppendUint64(b, 0)
	return append(b, byte(op))
}

// address writes number and time left into a request that is otherwise ready, and can be sent again.
func address(frame []byte, id uint64, left time.Duration) {
	binary.BigEndian.PutUint64(frame[lengthSize+1:], id)
	binary.BigEndian.PutUint64(frame[lengthSize+headSize:], uint64(max(left, 0)))
}

// request is a decoded request. Its byte strings belong to the frame.
type request struct {
	left      time.Duration
	op        operation
	call      token.Call     // opUse, opUseMany
	items     []backend.Item // opUseMany
	material  secret.Bytes   // opImport
	envelope  token.Envelope // opImportWrapped
	blob      []byte         // opAttributes, opPlace
	public    []byte         // opPlace
	id        token.ID
	algorithm backend.Algorithm
	purpose   backend.Purpose
	wrapped   bool
	n         int // opRandom
}

func (r *request) decode(body []byte) error {
	d := decoder{b: body}
	left := d.u64()
	r.left = time.Duration(left)
	d.bad = d.bad || r.left < 0
	r.op = operation(d.u8())
	switch r.op {
	case opUse:
		d.call(&r.call)
	case opUseMany:
		d.call(&r.call)
		r.items = d.items()
	case opAttributes:
		d.id(&r.id)
		r.algorithm, r.blob = backend.Algorithm(d.str()), d.bytes()
	case opPlace:
		d.id(&r.id)
		r.algorithm, r.purpose = backend.Algorithm(d.str()), backend.Purpose(d.str())
		r.blob, r.public = d.bytes(), d.bytes()
	case opRandom:
		r.n = int(d.u32())
		d.bad = d.bad || r.n > maxFrame/2
	case opFind, opDestroy:
		d.id(&r.id)
	case opGenerate, opImport, opImportWrapped:
		d.id(&r.id)
		r.algorithm, r.purpose, r.wrapped = backend.Algorithm(d.str()), backend.Purpose(d.str()), d.boolean()
		switch r.op {
		case opImport:
			r.material = d.bytes()
		case opImportWrapped:
			d.envelope(&r.envelope)
		}
	case opPing, opList, opDescribe, opStats:
	default:
		return errMalformed
	}
	return d.end()
}

func appendMake(b []byte, id token.ID, a backend.Algorithm, p backend.Purpose, wrapped bool) []byte {
	b = append(b, id[:]...)
	return appendBool(appendBytes(appendBytes(b, a), p), wrapped)
}

func (d *decoder) id(id *token.ID) { copy(id[:], d.next(token.IDSize)) }

func appendCall(b []byte, c *token.Call) []byte {
	b = append(append(b, byte(c.Op)), c.ID[:]...)
	b = appendBytes(b, c.Algorithm)
	b = appendBytes(b, c.Wrapped)
	b = appendBytes(b, c.Input)
	b = appendBytes(b, c.AAD)
	b = binary.BigEndian.AppendUint32(b, uint32(c.Hash))
	b = appendBytes(b, c.Padding)
	b = appendBytes(b, c.Label)
	b = appendBytes(b, c.Context)
	return appendBool(b, c.Deterministic)
}

func (d *decoder) call(c *token.Call) {
	c.Op = token.Operation(d.u8())
	d.id(&c.ID)
	c.Algorithm = algorithmName(d.bytes())
	c.Wrapped, c.Input, c.AAD = d.bytes(), d.bytes(), d.bytes()
	c.Hash = crypto.Hash(d.u32())
	c.Padding = paddingName(d.bytes())
	c.Label, c.Context, c.Deterministic = d.bytes(), d.bytes(), d.boolean()
}

// algorithmName saves the hot path an allocation for the names that it sees most.
func algorithmName(p []byte) backend.Algorithm {
	switch string(p) {
	case string(backend.ECDSAP256):
		return backend.ECDSAP256
	case string(backend.AES256GCM):
		return backend.AES256GCM
	}
	return backend.Algorithm(p)
}

func paddingName(p []byte) backend.Padding {
	if len(p) == 0 {
		return ""
	}
	return backend.Padding(p)
}

// leastObject is the size of an object whose strings are all empty.
const leastObject = token.IDSize + 3*4 + 6 + 8

func appendObject(b []byte, o *token.Object) []byte {
	b = append(b, o.ID[:]...)
	b = appendBytes(b, o.Algorithm)
	b = appendBytes(b, o.Public)
	b = appendBytes(b, o.Wrapped)
	b = appendBool(b, o.Local, o.Sensitive, o.AlwaysSensitive, o.Extractable, o.NeverExtractable, o.Inside)
	return binary.BigEndian.AppendUint64(b, uint64(o.KeyGenMechanism))
}

func (d *decoder) object(o *token.Object) {
	d.id(&o.ID)
	o.Algorithm = backend.Algorithm(d.str())
	o.Public, o.Wrapped = d.owned(), d.owned()
	o.Local, o.Sensitive, o.AlwaysSensitive = d.boolean(), d.boolean(), d.boolean()
	o.Extractable, o.NeverExtractable, o.Inside = d.boolean(), d.boolean(), d.boolean()
	o.KeyGenMechanism = uint(d.u64())
}

func decodeObject(body []byte) (o token.Object, err error) {
	d := decoder{b: body}
	d.object(&o)
	return o, d.end()
}

// decodeObjects reads one part of a list.
func decodeObjects(list []token.Object, body []byte) ([]token.Object, error) {
	d := decoder{b: body}
	for n := d.count(leastObject); n > 0 && !d.bad; n-- {
		var o token.Object
		d.object(&o)
		list = append(list, o)
	}
	return list, d.end()
}

func appendStats(b []byte, s token.Stats) []byte {
	for _, n := range []int{s.Sessions, s.SessionsInUse, s.Stuck, s.Queued} {
		b = appendInt(b, n)
	}
	for _, n := range []uint64{s.Reinitialisations, s.SessionsDropped, s.Logins, s.LoginsRefused, s.Calls, s.Returns} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	for _, t := range []time.Duration{s.StuckFor, s.SilentFor, s.MendingFor, s.QueueTime, s.DeviceTime} {
		b = appendInt(b, int(t))
	}
	for i := range s.Times {
		b = appendHistogram(appendHistogram(b, &s.Times[i].Queue), &s.Times[i].Device)
	}
	return appendBytes(b, s.Breaker)
}

func decodeStats(body []byte) (s token.Stats, err error) {
	d := decoder{b: body}
	for _, p := range []*int{&s.Sessions, &s.SessionsInUse, &s.Stuck, &s.Queued} {
		*p = d.integer()
	}
	for _, p := range []*uint64{&s.Reinitialisations, &s.SessionsDropped, &s.Logins, &s.LoginsRefused, &s.Calls, &s.Returns} {
		*p = d.u64()
	}
	for _, p := range []*time.Duration{&s.StuckFor, &s.SilentFor, &s.MendingFor, &s.QueueTime, &s.DeviceTime} {
		*p = time.Duration(d.integer())
	}
	for i := range s.Times {
		d.histogram(&s.Times[i].Queue)
		d.histogram(&s.Times[i].Device)
	}
	s.Breaker = d.str()
	return s, d.end()
}

func appendHistogram(b []byte, h *token.Histogram) []byte {
	for _, n := range h.Counts {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return appendInt(b, int(h.Sum))
}

func (d *decoder) histogram(h *token.Histogram) {
	for i := range h.Counts {
		h.Counts[i] = d.u64()
	}
	h.Sum = time.Duration(d.integer())
}
