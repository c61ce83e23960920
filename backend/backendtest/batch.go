package backendtest

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"testing"
	"time"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// batched is how many items the suite gives at once: enough to be spread over several processes.
const batched = 50

// testBatch: handles that take many items do with them what they do with each, in order, and one bad item is its own alone.
func (s *suite) testBatch(t *testing.T) {
	for _, k := range s.kinds() {
		t.Run(k.String(), func(t *testing.T) {
			switch key := s.key(t, k).(type) {
			case backend.BatchAEAD:
				checkBatchAEAD(t, k, key)
			case backend.BatchSigner:
				checkBatchSigner(t, k, key)
			case backend.BatchMACer:
				checkBatchMACer(t, key)
			}
		})
	}
}

// outputs wants a result without error for each item.
func outputs(t *testing.T, what string, results []backend.Result, err error, n int) [][]byte {
	t.Helper()
	if err != nil || len(results) != n {
		t.Fatalf("%s: %d results of %d items: %v", what, len(results), n, err)
	}
	out := make([][]byte, n)
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("%s: item %d: %v", what, i, r.Err)
		}
		out[i] = r.Output
	}
	return out
}

// refusesMany: a context that has ended gives nothing, and no items are no error.
func refusesMany(t *testing.T, what string, items []backend.Item, many func(context.Context, []backend.Item) ([]backend.Result, error)) {
	t.Helper()
	over, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	out, err := many(over, items)
	want(t, what+" with a context that has ended", err, fault.Timeout)
	if len(out) > 0 {
		t.Errorf("%s gave %d results beside an error", what, len(out))
	}
	if out, err := many(t.Context(), nil); err != nil || len(out) > 0 {
		t.Errorf("%s of nothing: %d results, %v", what, len(out), err)
	}
}

func checkBatchAEAD(t *testing.T, k kind, aead backend.BatchAEAD) {
	t.Helper()
	items := make([]backend.Item, batched)
	for i := range items {
		items[i] = backend.Item{Input: random(t, 37*i), AAD: random(t, i%3)}
	}
	results, err := aead.SealMany(t.Context(), items)
	sealed := outputs(t, "SealMany", results, err, len(items))
	nonces := map[string]bool{}
	back := make([]backend.Item, len(items))
	for i, ct := range sealed {
		if len(ct) != len(items[i].Input)+k.Info.NonceSize+k.Info.TagSize {
			t.Fatalf("SealMany: item %d has %d bytes", i, len(ct))
		}
		nonce := string(ct[:k.Info.NonceSize])
		if nonces[nonce] {
			t.Fatal("SealMany: a nonce came twice")
		}
		nonces[nonce] = true
		if got, err := aead.Open(t.Context(), nil, ct, items[i].AAD); err != nil || !bytes.Equal(got, items[i].Input) {
			t.Fatalf("Open of item %d of SealMany: %v", i, err)
		}
		back[i] = backend.Item{Input: bytes.Clone(ct), AAD: items[i].AAD}
	}
	var bad alike
	bad.code = fault.DecryptionFailed
	back[3].Input[20] ^= 1
	back[7].Input = back[7].Input[:5]
	back[11].AAD = []byte("another")
	results, err = aead.OpenMany(t.Context(), back)
	if err != nil || len(results) != len(back) {
		t.Fatalf("OpenMany: %d results: %v", len(results), err)
	}
	for i, r := range results {
		switch i {
		case 3, 7, 11:
			bad.add(t, "a bad item of OpenMany", r.Output, r.Err)
		default:
			if r.Err != nil || !bytes.Equal(r.Output, items[i].Input) {
				t.Errorf("OpenMany: item %d among bad ones: %v", i, r.Err)
			}
		}
	}
	_, err = aead.Open(t.Context(), nil, back[3].Input, back[3].AAD)
	bad.add(t, "the same item with Open", nil, err)
	refusesMany(t, "SealMany", items, aead.SealMany)
	refusesMany(t, "OpenMany", back, aead.OpenMany)
}

func checkBatchSigner(t *testing.T, k kind, signer backend.BatchSigner) {
	t.Helper()
	o := variants(k)[0]
	n := batched
	if k.Info.Family == backend.FamilyRSA {
		n = 5
	}
	items := make([]backend.Item, n)
	for i := range items {
		size := 32 + i
		if o.Hash != 0 {
			size = o.Hash.Size()
		}
		items[i].Input = random(t, size)
	}
	results, err := signer.SignMany(t.Context(), items, o)
	for i, sig := range outputs(t, "SignMany", results, err, n) {
		if !stdVerify(t, signer.Public(), items[i].Input, o, sig) {
			t.Errorf("SignMany: the standard library refuses item %d", i)
		}
	}
	refusesMany(t, "SignMany", items, func(ctx context.Context, items []backend.Item) ([]backend.Result, error) {
		return signer.SignMany(ctx, items, o)
	})
	if o.Hash == 0 {
		return
	}
	items[2].Input = items[2].Input[1:]
	results, err = signer.SignMany(t.Context(), items, o)
	if err != nil || len(results) != n {
		t.Fatalf("SignMany with a short digest: %d results: %v", len(results), err)
	}
	for i, r := range results {
		switch {
		case i == 2:
			want(t, "a short digest in SignMany", r.Err, fault.BadSize)
		case r.Err != nil:
			t.Errorf("SignMany: item %d beside a short digest: %v", i, r.Err)
		default:
			if !stdVerify(t, signer.Public(), items[i].Input, o, r.Output) {
				t.Errorf("SignMany: the standard library refuses item %d beside a short digest", i)
			}
		}
	}
	for i := range items {
		items[i].Input = random(t, crypto.SHA1.Size())
	}
	results, err = signer.SignMany(t.Context(), items, backend.SignOpts{Hash: crypto.SHA1, Padding: o.Padding})
	if err == nil {
		for _, r := range results {
			err = errors.Join(err, r.Err)
		}
	}
	want(t, "SignMany with SHA-1", err, fault.BadField)
}

func checkBatchMACer(t *testing.T, mac backend.BatchMACer) {
	t.Helper()
	items := make([]backend.Item, batched)
	for i := range items {
		items[i].Input = random(t, i*11)
	}
	results, err := mac.MACMany(t.Context(), items)
	for i, tag := range outputs(t, "MACMany", results, err, len(items)) {
		one, err := mac.MAC(t.Context(), items[i].Input)
		if err != nil || !bytes.Equal(one, tag) {
			t.Errorf("MACMany: item %d is not what MAC gives (%v)", i, err)
		}
	}
	refusesMany(t, "MACMany", items, mac.MACMany)
}
