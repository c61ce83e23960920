package api

import (
	"crypto"
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
