package keys_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
)

// TestBatch: each item has its own result, the log has one entry, and a refusal of the whole is not a batch of refusals.
func TestBatch(t *testing.T) {
	t.Run("one by one", func(t *testing.T) { testBatch(t, newEnv(t, nil)) })
	t.Run("together", func(t *testing.T) {
		var calls int
		testBatch(t, newEnv(t, together(&calls)))
		if calls != 4 { // two versions, one in which all fail, and the largest
			t.Errorf("the handle was given many items %d times", calls)
		}
	})
}

func testBatch(t *testing.T, e *env) {
	ctx := t.Context()
	k := e.create("k", backend.AES256GCM)
	e.create("other", backend.AES256GCM)
	a, err := e.encrypt(keys.Target{Key: "k"}, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
		t.Fatal(err)
	}
	b, err := e.encrypt(keys.Target{Key: "k"}, "")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := e.encrypt(keys.Target{Key: "other"}, "x")
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(a.Bytes)
	broken[len(broken)-1] ^= 1
	items := []keys.CiphertextItem{{Ciphertext: []byte("not an envelope")}, {Ciphertext: a.Bytes}, {Ciphertext: foreign.Bytes}, {Ciphertext: b.Bytes},
		{Ciphertext: broken}, {Ciphertext: a.Bytes, AAD: []byte("of another")}, {}}
	r, err := e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, items, false)
	if err != nil {
		t.Fatal(err)
	}
	codes := []fault.Code{fault.BadEnvelope, "", fault.BadEnvelope, "", fault.DecryptionFailed, fault.DecryptionFailed, fault.BadSize}
	for i, want := range codes {
		wantCode(t, r[i].Err, want, fmt.Sprint("item ", i))
	}
	if string(r[1].Bytes) != "one" || r[1].Used.Version != 1 || len(r[3].Bytes) != 0 || r[3].Bytes == nil || r[3].Used.Version != 2 {
		t.Errorf("results: %+v", r)
	}
	if r[4].Err.Error() != r[5].Err.Error() {
		t.Error("a broken ciphertext and a wrong aad are told apart")
	}
	last := e.lastEntry()
	if last.Key != k.ID || last.Items != 7 || !cmp.Equal(last.Failed, []int{0, 2, 4, 5, 6}) || last.Outcome != "ok" || last.Detail != "ERR_INVALID_CIPHERTEXT versions 1 2" {
		t.Errorf("the log says %+v", last)
	}
	// All fail: the outcome says so.
	r, err = e.Decrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: broken}, {Ciphertext: broken}}, false)
	if err != nil || len(r) != 2 {
		t.Fatal(err)
	}
	if last = e.lastEntry(); last.Outcome != string(fault.DecryptionFailed) || last.Items != 2 {
		t.Errorf("the log says %+v", last)
	}
	// None names a key: each fails by itself, and the log has the refusal without a key. A single one is refused as a whole.
	r, err = e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, items[:1:1], false)
	if err != nil || len(r) != 1 || r[0].Bytes != nil {
		t.Fatalf("%+v %v", r, err)
	}
	wantCode(t, r[0].Err, fault.BadEnvelope, "the only item")
	if last = e.lastEntry(); last.Key != uuid.Nil || last.Items != 1 || !cmp.Equal(last.Failed, []int{0}) || last.Outcome != string(fault.BadEnvelope) {
		t.Errorf("the log says %+v", last)
	}
	_, err = e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, items[:1:1], true)
	wantCode(t, err, fault.BadEnvelope, "a single one")
	for _, n := range []int{0, keys.MaxItems + 1} {
		_, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, make([]keys.EncryptItem, n), false)
		wantCode(t, err, fault.TooManyItems, fmt.Sprint(n, " items"))
	}
	full, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, make([]keys.EncryptItem, keys.MaxItems), false)
	if err != nil || len(full) != keys.MaxItems {
		t.Fatal(err)
	}
	// The results share one buffer and must not run into each other.
	for i := range full {
		full[i].Bytes = append(full[i].Bytes, 0xff)
	}
	for i := range full {
		if _, err := e.decrypt(keys.Target{Key: "k"}, full[i].Bytes[:len(full[i].Bytes)-1]); err != nil {
			t.Fatalf("item %d: %v", i, err)
		}
		if i > 20 {
			break
		}
	}
}

// TestTenants: the key of another tenant does not exist, by whatever it is named.
func TestTenants(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	names := map[backend.Algorithm]string{}
	for _, a := range matrixAlgorithms() {
		names[a] = e.create(string(a), a, func(r *keys.CreateRequest) {
			if a == backend.RSA2048 {
				r.Purpose = backend.PurposeEncryption
			}
		}).ID.String()
	}
	ops := e.operations(names)
	box, err := e.encrypt(keys.Target{Key: names[backend.AES256GCM]}, "mine")
	if err != nil {
		t.Fatal(err)
	}
	mine := e.c
	e.c = caller(uuid.New())
	for _, warm := range []bool{true, false} {
		for _, o := range ops {
			for _, name := range []string{names[o.alg], string(o.alg)} {
				_, err := o.run(e, keys.Target{Key: name})
				wantCode(t, err, fault.KeyNotFound, string(o.op))
			}
		}
		_, err = e.decrypt(keys.Target{}, box.Bytes)
		wantCode(t, err, fault.KeyNotFound, "decrypting by the envelope alone")
		unknown := bytes.Clone(box.Bytes)
		unknown[8] ^= 1
		_, err2 := e.decrypt(keys.Target{}, unknown)
		if err == nil || err2 == nil || err.Error() != err2.Error() {
			t.Errorf("a foreign and an unknown key are told apart: %v, %v", err, err2)
		}
		id := names[backend.AES256GCM]
		name := "x"
		for what, err := range map[string]error{
			"get":      second(e.Get(ctx, e.c, id)),
			"update":   second(e.Update(ctx, e.c, id, keys.UpdateRequest{Name: &name})),
			"delete":   second(e.Delete(ctx, e.c, id, 0)),
			"cancel":   second(e.CancelDeletion(ctx, e.c, id)),
			"rotate":   second(e.Rotate(ctx, e.c, id)),
			"versions": second(e.Versions(ctx, e.c, id, 0, 0)),
			"version":  second(e.Version(ctx, e.c, id, 1)),
			"state":    second(e.SetVersionState(ctx, e.c, id, 1, keys.StateSuspended)),
		} {
			wantCode(t, err, fault.KeyNotFound, what)
		}
		_, _, err = e.Export(ctx, e.c, keys.ExportRequest{Key: id, To: names[backend.RSA2048]})
		wantCode(t, err, fault.KeyNotFound, "export")
		if list, _, err := e.List(ctx, e.c, keys.ListRequest{}); err != nil || len(list) != 0 {
			t.Errorf("the list has %d keys of others: %v", len(list), err)
		}
		if warm {
			e.reopen()
		}
	}
	e.c = mine
	if r, err := e.decrypt(keys.Target{}, box.Bytes); err != nil || string(r.Bytes) != "mine" {
		t.Errorf("its own tenant: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestVersionsOfOperations(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM)
	var boxes []keys.BytesResult
	for range 3 {
		r, err := e.encrypt(keys.Target{Key: "k"}, "v")
		if err != nil {
			t.Fatal(err)
		}
		boxes = append(boxes, r)
		if _, err := e.Rotate(ctx, e.c, "k"); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []struct {
		n    uint32
		code fault.Code
	}{{0, ""}, {4, ""}, {3, fault.BadState}, {1, fault.BadState}, {5, fault.VersionNotFound}} {
		_, err := e.encrypt(keys.Target{Key: "k", Version: v.n}, "x")
		wantCode(t, err, v.code, fmt.Sprint("encrypting with version ", v.n))
	}
	_, err := e.decrypt(keys.Target{Key: "k", Version: 2}, boxes[0].Bytes)
	wantCode(t, err, fault.BadEnvelope, "an envelope of another version than named")
	moved := bytes.Clone(boxes[0].Bytes)
	moved[24] = 2 // the version in the header
	_, err = e.decrypt(keys.Target{}, moved)
	wantCode(t, err, fault.DecryptionFailed, "an envelope moved to another version")
	two, zero, five := uint32(2), uint32(0), uint32(5)
	_, err = e.Update(ctx, e.c, "k", keys.UpdateRequest{MinDecrypt: &five})
	wantCode(t, err, fault.BadVersion, "a minimum above the primary version")
	if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{MinDecrypt: &two}); err != nil {
		t.Fatal(err)
	}
	_, err = e.decrypt(keys.Target{}, boxes[0].Bytes)
	wantCode(t, err, fault.BadVersion, "below the minimum")
	if _, err = e.decrypt(keys.Target{}, boxes[1].Bytes); err != nil {
		t.Error(err)
	}
	_, err = e.Rewrap(ctx, e.c, keys.Target{}, []keys.CiphertextItem{{Ciphertext: boxes[0].Bytes}}, true)
	wantCode(t, err, fault.BadVersion, "rewrapping from below the minimum")
	if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{MinDecrypt: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.SetVersionState(ctx, e.c, "k", 1, keys.StateCompromised); err != nil {
		t.Fatal(err)
	}
	r, err := e.Rewrap(ctx, e.c, keys.Target{}, []keys.CiphertextItem{{Ciphertext: boxes[0].Bytes}}, true)
	if err != nil || r[0].Used.Version != 4 || !r[0].Used.Compromised {
		t.Fatalf("rewrapping out of a compromised version: %+v %v", r, err)
	}
	h, err := envelope.Parse(r[0].Bytes)
	if err != nil || h.KeyVersion != 4 {
		t.Errorf("rewrapped to version %d: %v", h.KeyVersion, err)
	}
	if got, err := e.decrypt(keys.Target{}, r[0].Bytes); err != nil || string(got.Bytes) != "v" || got.Used.Compromised {
		t.Errorf("the rewrapped ciphertext: %+v %v", got, err)
	}
	four := uint32(4)
	if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{MinEncrypt: &four}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
		t.Error(err)
	}
}

// TestWrapping: AES-KWP gives bare output of its size, the others envelopes, and data keys open by both ways.
func TestWrapping(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("kwp", backend.AES256KWP)
	e.create("aead", backend.ChaCha20Poly1305)
	e.create("rsa", backend.RSA2048, func(r *keys.CreateRequest) {
		r.Policy.Operations = []backend.Operation{backend.OpDecrypt, backend.OpEncrypt, backend.OpWrap, backend.OpUnwrap, backend.OpDataKey}
	})
	material := bytes.Repeat([]byte{9}, 33)
	for _, key := range []string{"kwp", "aead", "rsa"} {
		w, err := e.Wrap(ctx, e.c, keys.Target{Key: key}, []keys.EncryptItem{{Plaintext: material}}, true)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if key == "kwp" && len(w[0].Bytes) != keyenc.KWPSize(33) {
			t.Errorf("AES-KWP gives %d bytes", len(w[0].Bytes))
		}
		if _, err := e.Rotate(ctx, e.c, key); err != nil {
			t.Fatal(err)
		}
		u, err := e.Unwrap(ctx, e.c, keys.Target{Key: key, Version: 1}, []keys.CiphertextItem{{Ciphertext: w[0].Bytes}}, true)
		if err != nil || !bytes.Equal(u[0].Bytes, material) || u[0].Used.Version != 1 {
			t.Errorf("%s: %v", key, err)
		}
		d, err := e.DataKeys(ctx, e.c, keys.Target{Key: key}, []keys.DataKeyRequest{{}, {Bytes: 64}, {Hide: true}, {Bytes: 15}, {Bytes: 65}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(d[0].Plaintext) != 32 || len(d[1].Plaintext) != 64 || d[2].Plaintext != nil || len(d[2].Ciphertext) == 0 || !fault.Has(d[3].Err, fault.BadSize) || !fault.Has(d[4].Err, fault.BadSize) {
			t.Errorf("%s: data keys of other sizes: %v", key, d)
		}
		u, err = e.Unwrap(ctx, e.c, keys.Target{Key: key}, []keys.CiphertextItem{{Ciphertext: d[0].Ciphertext}}, true)
		if err != nil || !bytes.Equal(u[0].Bytes, d[0].Plaintext) {
			t.Errorf("%s: unwrapping a data key: %v", key, err)
		}
		if key != "kwp" {
			if r, err := e.decrypt(keys.Target{}, d[0].Ciphertext); err != nil || !bytes.Equal(r.Bytes, d[0].Plaintext) {
				t.Errorf("%s: decrypting a data key: %v", key, err)
			}
		}
	}
	for what, item := range map[string]keys.EncryptItem{"aad": {Plaintext: material, AAD: []byte("a")}, "context": {Plaintext: material, Context: map[string]string{"a": "b"}}} {
		_, err := e.Wrap(ctx, e.c, keys.Target{Key: "kwp"}, []keys.EncryptItem{item}, true)
		wantCode(t, err, fault.BadField, "AES-KWP with "+what)
	}
	_, err := e.encrypt(keys.Target{Key: "kwp"}, "x")
	wantCode(t, err, fault.OperationNotAllowed, "encrypting with a wrapping key")
	_, err = e.Wrap(ctx, e.c, keys.Target{Key: "kwp"}, []keys.EncryptItem{{Plaintext: make([]byte, 7)}}, true)
	wantCode(t, err, fault.BadSize, "too little to wrap")
}

// TestBinding: aad and context belong to the ciphertext, of AEAD and RSA keys alike, and each other's place is not theirs.
func TestBinding(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("aead", backend.AES128GCM)
	e.create("rsa", backend.RSA2048, func(r *keys.CreateRequest) { r.Purpose = backend.PurposeEncryption })
	for _, key := range []string{"aead", "rsa"} {
		r, err := e.Encrypt(ctx, e.c, keys.Target{Key: key}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x"), AAD: []byte("aad"), Context: map[string]string{"a": "1", "b": "2"}}}, true)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []struct {
			aad     string
			context map[string]string
			opens   bool
		}{
			{"aad", map[string]string{"b": "2", "a": "1"}, true}, {"aad", map[string]string{"a": "1"}, false}, {"aad", nil, false},
			{"", map[string]string{"a": "1", "b": "2"}, false}, {"aad", map[string]string{"a": "2", "b": "1"}, false}, {"aad", map[string]string{"a": "12", "b": ""}, false},
		} {
			_, err := e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, []keys.CiphertextItem{{Ciphertext: r[0].Bytes, AAD: []byte(c.aad), Context: c.context}}, true)
			if c.opens {
				wantCode(t, err, "", key)
			} else {
				wantCode(t, err, fault.DecryptionFailed, fmt.Sprint(key, " ", i))
			}
		}
	}
	_, err := e.Encrypt(ctx, e.c, keys.Target{Key: "aead"}, keys.EncryptOpts{Format: keys.FormatRaw}, make([]keys.EncryptItem, 1), true)
	wantCode(t, err, fault.BadField, "a raw ciphertext of AES")
	_, err = e.Encrypt(ctx, e.c, keys.Target{Key: "rsa"}, keys.EncryptOpts{Format: keys.FormatRaw}, []keys.EncryptItem{{AAD: []byte("a")}}, true)
	wantCode(t, err, fault.BadField, "a raw ciphertext with aad")
	_, err = e.Encrypt(ctx, e.c, keys.Target{Key: "rsa"}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: make([]byte, 200)}}, true)
	wantCode(t, err, fault.BadSize, "too long for RSA")
	for _, size := range []int{keys.MaxPlaintext, keys.MaxPlaintext + 1} {
		r, err := e.Encrypt(ctx, e.c, keys.Target{Key: "aead"}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: make([]byte, size)}}, true)
		if size > keys.MaxPlaintext {
			wantCode(t, err, fault.BadSize, "too long")
		} else if _, err = e.decrypt(keys.Target{}, r[0].Bytes); err != nil {
			t.Errorf("the largest plaintext: %v", err)
		}
	}
}

func TestRandom(t *testing.T) {
	e := newEnv(t, func(o *keys.Options) { o.Rand = zeros{} })
	ctx := t.Context()
	// With a generator of the system that gives zeros the result is the backend's alone.
	a, err := e.Random(ctx, e.c, "", 64)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Random(ctx, e.c, "soft", 64)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, b) || bytes.Equal(a, make([]byte, 64)) {
		t.Error("the generator of the backend is not in it")
	}
	for _, n := range []int{0, -1, keys.MaxRandom + 1} {
		_, err := e.Random(ctx, e.c, "", n)
		wantCode(t, err, fault.BadSize, fmt.Sprint(n))
	}
	_, err = e.Random(ctx, e.c, "absent", 1)
	wantCode(t, err, fault.BackendNotFound, "a backend that is not there")
	if last := e.entries()[1]; last.Action != "random" || last.Resource != "backend:soft" {
		t.Errorf("the log says %+v", last)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestEverythingOpensAgain is the promise of the product: whatever was encrypted opens, whatever happened to its key since, while that is
// neither suspended nor being deleted.
func TestEverythingOpensAgain(t *testing.T) {
	e := newEnv(t, nil)
	ctx := context.Background()
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		name := fmt.Sprint("k", round)
		alg := rapid.SampledFrom([]backend.Algorithm{backend.AES128GCM, backend.AES192GCM, backend.AES256GCM, backend.ChaCha20Poly1305}).Draw(rt, "algorithm")
		e.create(name, alg)
		type box struct {
			item keys.CiphertextItem
			pt   []byte
		}
		var boxes []box
		rt.Repeat(map[string]func(*rapid.T){
			"encrypt": func(rt *rapid.T) {
				in := keys.EncryptItem{Plaintext: rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "plaintext"), AAD: rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(rt, "aad"),
					Context: rapid.MapOfN(rapid.StringN(0, 4, 8), rapid.StringN(0, 4, 8), 0, 3).Draw(rt, "context")}
				r, err := e.Encrypt(ctx, e.c, keys.Target{Key: name}, keys.EncryptOpts{}, []keys.EncryptItem{in}, true)
				if err != nil {
					rt.Fatal(err)
				}
				boxes = append(boxes, box{keys.CiphertextItem{Ciphertext: r[0].Bytes, AAD: in.AAD, Context: in.Context}, in.Plaintext})
			},
			"rotate": func(rt *rapid.T) {
				if _, err := e.Rotate(ctx, e.c, name); err != nil {
					rt.Fatal(err)
				}
			},
			"rewrap": func(rt *rapid.T) {
				if len(boxes) == 0 {
					return
				}
				b := &boxes[rapid.IntRange(0, len(boxes)-1).Draw(rt, "which")]
				r, err := e.Rewrap(ctx, e.c, keys.Target{}, []keys.CiphertextItem{b.item}, true)
				if err != nil {
					rt.Fatal(err)
				}
				b.item.Ciphertext = r[0].Bytes
			},
			"rename": func(rt *rapid.T) {
				round++
				to := fmt.Sprint("k", round)
				if _, err := e.Update(ctx, e.c, name, keys.UpdateRequest{Name: &to}); err != nil {
					rt.Fatal(err)
				}
				name = to
			},
			"compromise and leave behind": func(rt *rapid.T) {
				if _, err := e.SetVersionState(ctx, e.c, name, 0, keys.StateCompromised); err != nil {
					rt.Fatal(err)
				}
				if _, err := e.Rotate(ctx, e.c, name); err != nil {
					rt.Fatal(err)
				}
			},
			"delete and repent": func(rt *rapid.T) {
				if _, err := e.Delete(ctx, e.c, name, 0); err != nil {
					rt.Fatal(err)
				}
				if _, err := e.CancelDeletion(ctx, e.c, name); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				if len(boxes) == 0 {
					return
				}
				items := make([]keys.CiphertextItem, len(boxes))
				for i, b := range boxes {
					items[i] = b.item
				}
				r, err := e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, items, false)
				if err != nil {
					rt.Fatal(err)
				}
				for i, b := range boxes {
					if r[i].Err != nil || !bytes.Equal(r[i].Bytes, b.pt) {
						rt.Fatalf("a ciphertext does not open: %v", r[i].Err)
					}
				}
			},
		})
	})
}
