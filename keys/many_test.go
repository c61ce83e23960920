package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// together makes the software backend's handles take many items at once, as those of a device do, and counts how often that is done.
func together(calls *int) func(*keys.Options) {
	return func(o *keys.Options) { o.Backends[0] = manyBackend{o.Backends[0], calls} }
}

type manyBackend struct {
	backend.Backend
	calls *int
}

func (b manyBackend) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	key, err := b.Backend.Load(ctx, r)
	switch k := key.(type) {
	case backend.AEAD:
		return manyAEAD{k, b.calls}, err
	case backend.Signer:
		return manySigner{k, b.calls}, err
	case backend.MACer:
		return manyMACer{k, b.calls}, err
	}
	return key, err
}

// oneByOne does items with the handle's own method. What is about one item stays with it.
func oneByOne(calls *int, items []backend.Item, do func(backend.Item) ([]byte, error)) ([]backend.Result, error) {
	*calls++
	out := make([]backend.Result, len(items))
	for i, item := range items {
		got, err := do(item)
		if err != nil && !fault.Has(err, fault.DecryptionFailed) && !fault.Has(err, fault.BadSize) && !fault.Has(err, fault.BadField) {
			return nil, err
		}
		out[i] = backend.Result{Output: got, Err: err}
	}
	return out, nil
}

type manyAEAD struct {
	backend.AEAD
	calls *int
}

func (k manyAEAD) SealMany(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
	return oneByOne(k.calls, items, func(i backend.Item) ([]byte, error) { return k.Seal(ctx, nil, i.Input, i.AAD) })
}

func (k manyAEAD) OpenMany(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
	return oneByOne(k.calls, items, func(i backend.Item) ([]byte, error) { return k.Open(ctx, nil, i.Input, i.AAD) })
}

type manySigner struct {
	backend.Signer
	calls *int
}

func (k manySigner) SignMany(ctx context.Context, items []backend.Item, o backend.SignOpts) ([]backend.Result, error) {
	return oneByOne(k.calls, items, func(i backend.Item) ([]byte, error) { return k.Sign(ctx, i.Input, o) })
}

type manyMACer struct {
	backend.MACer
	calls *int
}

func (k manyMACer) MACMany(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
	return oneByOne(k.calls, items, func(i backend.Item) ([]byte, error) { return k.MAC(ctx, i.Input) })
}

// TestManySignAndMAC: signatures and tags made together are those of the items, in order, and bad items fail alone.
func TestManySignAndMAC(t *testing.T) {
	var calls int
	e := newEnv(t, together(&calls))
	ctx := t.Context()
	for _, a := range []backend.Algorithm{backend.ECDSAP256, backend.Ed25519, backend.RSA2048} {
		name := string(a)
		e.create(name, a, func(r *keys.CreateRequest) { r.Purpose = backend.PurposeSigning })
		items := make([]keys.SignItem, 20)
		for i := range items {
			items[i].Message = bytes.Repeat([]byte{byte(i)}, 10*i)
		}
		items[3] = keys.SignItem{}
		calls = 0
		sigs, err := e.Sign(ctx, e.c, keys.Target{Key: name}, keys.SignOpts{}, items, false)
		if err != nil || calls != 1 {
			t.Fatalf("%s: %d calls of the handle, %v", a, calls, err)
		}
		checks := make([]keys.VerifyItem, len(items))
		for i := range items {
			checks[i] = keys.VerifyItem{Message: items[i].Message, Signature: sigs[i].Bytes}
		}
		valid, err := e.Verify(ctx, e.c, keys.Target{Key: name}, keys.SignOpts{}, checks, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range items {
			if i == 3 {
				wantCode(t, sigs[i].Err, fault.MissingField, "an item without a message")
			} else if sigs[i].Err != nil || !valid[i].Valid || sigs[i].Used.Version != 1 {
				t.Errorf("%s: item %d: %+v", a, i, sigs[i])
			}
		}
	}
	e.create("mac", backend.HMACSHA256)
	items := make([]keys.MACItem, 20)
	for i := range items {
		items[i].Message = []byte{byte(i)}
	}
	calls = 0
	tags, err := e.MAC(ctx, e.c, keys.Target{Key: "mac"}, items, false)
	if err != nil || calls != 1 {
		t.Fatalf("%d calls of the handle, %v", calls, err)
	}
	for i := range items {
		items[i].MAC = tags[i].Bytes
	}
	items[5].MAC = items[6].MAC
	items[7].MAC = nil
	valid, err := e.VerifyMAC(ctx, e.c, keys.Target{Key: "mac"}, items, false)
	if err != nil || calls != 2 {
		t.Fatalf("%d calls of the handle, %v", calls, err)
	}
	for i, v := range valid {
		if i == 7 {
			wantCode(t, v.Err, fault.MissingField, "an item without a tag")
		} else if v.Err != nil || v.Valid != (i != 5) {
			t.Errorf("item %d: %+v", i, v)
		}
	}
}

// opener is a device that says that it has opened an envelope itself.
type opener struct {
	backend.Backend
	backend.Importer
}

func (o opener) ImportWrapped(ctx context.Context, s backend.Spec, with backend.Ref, hash crypto.Hash, wrapped []byte) (backend.Ref, error) {
	ref, err := o.Importer.ImportWrapped(ctx, s, with, hash, wrapped)
	ref.Inside = err == nil
	return ref, err
}

// TestImportedInside: the version keeps that its material was never in clear here; its key is an imported one like any other.
func TestImportedInside(t *testing.T) {
	e := newEnv(t, func(o *keys.Options) { o.Backends[0] = opener{o.Backends[0], o.Backends[0].(backend.Importer)} })
	ctx := t.Context()
	p, err := e.ImportParameters(ctx, e.c, "")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		request := keys.ImportRequest{Create: keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM}, Token: p.Token, Wrapped: wrapFor(t, p, make([]byte, 32))}
		if k, err := e.Get(ctx, e.c, "k"); err == nil {
			request.Key, request.Create = k.Name, keys.CreateRequest{}
		}
		k, err := e.Import(ctx, e.c, request)
		if err != nil || k.Origin != keys.OriginImported {
			t.Fatalf("imported as %+v: %v", k, err)
		}
		v, err := e.Version(ctx, e.c, "k", k.PrimaryVersion)
		if err != nil || v.Origin != keys.OriginImportedInside {
			t.Errorf("version %d: %+v, %v", k.PrimaryVersion, v, err)
		}
	}
}
