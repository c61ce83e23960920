package api

import (
	"crypto"
	"encoding/base64"
	"fmt"
	"reflect"
	"strconv"

	"context"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// operation makes an endpoint of an operation that takes one item or many: its answer is One, or a batch of One.
func operation[Req, One any](fn func(context.Context, *call, *Req) (appender, error)) endpoint {
	e := handle(fn)
	e.Resp, e.Batched = reflect.TypeFor[One](), true
	return e
}

// items are the lists of the hot operations, as they are read and as they are handed to the service, kept with the call
// for the next one.
type items struct {
	wireEncrypt []wire.EncryptItem
	wireDecrypt []wire.DecryptItem
	encrypt     []keys.EncryptItem
	open        []keys.CiphertextItem
}

func (i *items) wipe() {
	clear(i.wireEncrypt)
	clear(i.wireDecrypt)
	clear(i.encrypt)
	clear(i.open)
	i.wireEncrypt, i.wireDecrypt, i.encrypt, i.open = i.wireEncrypt[:0], i.wireDecrypt[:0], i.encrypt[:0], i.open[:0]
}

// target says which key a request is on: the path's, or the body's on routes without one.
func (c *call) target(t wire.Target) (keys.Target, error) {
	if c.route.onKey {
		name, err := c.param("key")
		if err != nil {
			return keys.Target{}, err
		}
		if t.Key != "" {
			return keys.Target{}, fault.New(fault.BadField, "the path names the key: the body must not")
		}
		return keys.Target{Key: name, Version: t.KeyVersion}, nil
	}
	return keys.Target{Key: t.Key, Version: t.KeyVersion}, nil
}

// gather gives the items of a request to the service: those of the list, or the single one. given says whether a single
// one was sent beside the list; convert fails with the name of a field that is missing.
func gather[W, K any](dst []K, list []W, one *W, given bool, convert func(*W) (K, string)) (all []K, single bool, err error) {
	if list == nil {
		k, missing := convert(one)
		if missing != "" {
			return nil, false, fault.New(fault.MissingField, "the field "+missing+" is missing")
		}
		return append(dst, k), true, nil
	}
	if given {
		return nil, false, fault.New(fault.MissingField, "send one item or items, not both")
	}
	if len(list) == 0 || len(list) > keys.MaxItems {
		return nil, false, fault.New(fault.TooManyItems, "a batch has 1 to "+strconv.Itoa(keys.MaxItems)+" items")
	}
	if cap(dst) < len(list) {
		dst = make([]K, 0, len(list))
	}
	for i := range list {
		k, missing := convert(&list[i])
		if missing != "" {
			return nil, false, fault.New(fault.MissingField, "the field /items/"+strconv.Itoa(i)+"/"+missing+" is missing")
		}
		dst = append(dst, k)
	}
	return dst, false, nil
}

// bytesResults is the answer of the operations that give bytes: one result, or {"items": […]}.
type bytesResults struct {
	field  string // the name of the bytes on the wire
	single bool
	list   []keys.BytesResult
	call   *call
}

// results checks what a service gave and makes the answer of it. secret results are wiped once they are written.
func (c *call) results(field string, secret, single bool, n int, list []keys.BytesResult, err error) (appender, error) {
	if secret {
		for i := range list {
			c.answer.wipe = append(c.answer.wipe, list[i].Bytes)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(list) != n {
		return nil, fmt.Errorf("api: the service gave %d results for %d items", len(list), n)
	}
	for i := range list {
		c.itemFailed(list[i].Err)
	}
	if single && list[0].Err != nil {
		return nil, list[0].Err
	}
	return &bytesResults{field: field, single: single, list: list, call: c}, nil
}

// itemFailed looks after an item's failure: a deadline that passed means that a backend may still hold the request.
func (c *call) itemFailed(err error) {
	if err != nil && fault.Has(err, fault.Timeout) {
		c.leaked = true
	}
}

func (r *bytesResults) size() int {
	n := 256
	for i := range r.list {
		n += base64.StdEncoding.EncodedLen(len(r.list[i].Bytes)) + 128
		if r.list[i].Err != nil {
			n += 128
		}
	}
	return n
}

func (r *bytesResults) appendJSON(b []byte) []byte {
	if r.single {
		return r.one(b, &r.list[0])
	}
	b = append(b, `{"items":[`...)
	for i := range r.list {
		if i > 0 {
			b = append(b, ',')
		}
		if err := r.list[i].Err; err != nil {
			b = r.call.appendItemError(b, i, err)
			continue
		}
		b = r.one(b, &r.list[i])
	}
	return append(b, "]}"...)
}

func (r *bytesResults) one(b []byte, v *keys.BytesResult) []byte {
	b = append(b, `{"`...)
	b = append(b, r.field...)
	b = append(b, `":`...)
	b = appendBytes(b, v.Bytes)
	b = appendUsed(b, v.Used)
	return append(b, '}')
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

// verifyResults is the answer of verify and verify-mac.
type verifyResults struct {
	single bool
	list   []keys.VerifyResult
	call   *call
}

func (c *call) verdicts(single bool, n int, list []keys.VerifyResult, err error) (appender, error) {
	if err != nil {
		return nil, err
	}
	if len(list) != n {
		return nil, fmt.Errorf("api: the service gave %d results for %d items", len(list), n)
	}
	for i := range list {
		c.itemFailed(list[i].Err)
	}
	if single && list[0].Err != nil {
		return nil, list[0].Err
	}
	return &verifyResults{single: single, list: list, call: c}, nil
}

func (r *verifyResults) size() int { return 256 + 192*len(r.list) }

func (r *verifyResults) appendJSON(b []byte) []byte {
	if r.single {
		return r.one(b, &r.list[0])
	}
	b = append(b, `{"items":[`...)
	for i := range r.list {
		if i > 0 {
			b = append(b, ',')
		}
		if err := r.list[i].Err; err != nil {
			b = r.call.appendItemError(b, i, err)
			continue
		}
		b = r.one(b, &r.list[i])
	}
	return append(b, "]}"...)
}

func (r *verifyResults) one(b []byte, v *keys.VerifyResult) []byte {
	b = append(b, `{"valid":`...)
	b = strconv.AppendBool(b, v.Valid)
	b = appendUsed(b, v.Used)
	return append(b, '}')
}

// hash reads the name of a hash: 0 when there is none.
func hash(name string) (crypto.Hash, error) {
	switch name {
	case "":
		return 0, nil
	case "SHA-1":
		return crypto.SHA1, nil
	case "SHA-256":
		return crypto.SHA256, nil
	case "SHA-384":
		return crypto.SHA384, nil
	case "SHA-512":
		return crypto.SHA512, nil
	}
	return 0, fault.New(fault.BadField, "the field hash must be SHA-1, SHA-256, SHA-384 or SHA-512")
}
