package api

import (
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// results is the answer of an operation: one result, or {"items": […]} where a failed item has its error in the place of a result.
type results[T any] struct {
	single  bool
	list    []T
	call    *call
	failure func(*T) error
	one     func(b []byte, v *T) []byte // writes what succeeded
	room    func(*T) int                // about how many bytes that takes
}

// answer checks what a service gave for n items, and err, which is the whole call's.
func (r *results[T]) answer(n int, err error) (appender, error) {
	if err != nil {
		return nil, err
	}
	if len(r.list) != n {
		return nil, fmt.Errorf("api: the service gave %d results for %d items", len(r.list), n)
	}
	for i := range r.list {
		r.call.itemFailed(r.failure(&r.list[i]))
	}
	if r.single {
		if err := r.failure(&r.list[0]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *results[T]) size() int {
	n := 256
	for i := range r.list {
		n += 128 + r.room(&r.list[i])
	}
	return n
}

func (r *results[T]) appendJSON(b []byte) []byte {
	if r.single {
		return r.one(b, &r.list[0])
	}
	b = append(b, `{"items":[`...)
	for i := range r.list {
		if i > 0 {
			b = append(b, ',')
		}
		if err := r.failure(&r.list[i]); err != nil {
			b = r.call.appendItemError(b, i, err)
			continue
		}
		b = r.one(b, &r.list[i])
	}
	return append(b, "]}"...)
}

// itemFailed looks after an item's failure: a deadline that passed means that a backend may still hold the request.
func (c *call) itemFailed(err error) {
	if err != nil && fault.Has(err, fault.Timeout) {
		c.leaked = true
	}
}

// appendItemError writes why one item failed. What has no code is logged, as with a whole call.
func (c *call) appendItemError(b []byte, i int, err error) []byte {
	f, known := public(err)
	if !known {
		c.s.log.Error("internal fault", "request_id", c.id, "route", c.route.Path, "item", i, "error", err)
	}
	b = append(b, `{"error":`...)
	b = appendError(b, f)
	return append(b, '}')
}

// results is the answer of the operations that give bytes, under the name that they have on the wire. secret ones are wiped once they are
// written.
func (c *call) results(field string, secret, single bool, n int, list []keys.BytesResult, err error) (appender, error) {
	if secret {
		for i := range list {
			c.answer.wipe = append(c.answer.wipe, list[i].Bytes)
		}
	}
	r := results[keys.BytesResult]{single: single, list: list, call: c,
		failure: func(v *keys.BytesResult) error { return v.Err },
		room: func(v *keys.BytesResult) int {
			if v.Err != nil {
				return 128
			}
			return base64.StdEncoding.EncodedLen(len(v.Bytes))
		},
		one: func(b []byte, v *keys.BytesResult) []byte {
			b = append(b, `{"`...)
			b = append(b, field...)
			b = append(b, `":`...)
			b = appendBytes(b, v.Bytes)
			b = appendUsed(b, v.Used)
			return append(b, '}')
		}}
	return r.answer(n, err)
}

// verdicts is the answer of verify and verify-mac.
func (c *call) verdicts(single bool, n int, list []keys.VerifyResult, err error) (appender, error) {
	r := results[keys.VerifyResult]{single: single, list: list, call: c,
		failure: func(v *keys.VerifyResult) error { return v.Err },
		room:    func(*keys.VerifyResult) int { return 64 },
		one: func(b []byte, v *keys.VerifyResult) []byte {
			b = append(b, `{"valid":`...)
			b = strconv.AppendBool(b, v.Valid)
			b = appendUsed(b, v.Used)
			return append(b, '}')
		}}
	return r.answer(n, err)
}
