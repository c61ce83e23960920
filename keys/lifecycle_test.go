package keys_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/idempotency"
	"github.com/keywright/keywright/keys"
)

func TestCreateRefusals(t *testing.T) {
	e := newEnv(t, nil)
	many := map[string]string{}
	for i := range keys.MaxLabels + 1 {
		many[fmt.Sprint("l", i)] = ""
	}
	policy := func(p keys.Policy) keys.CreateRequest {
		return keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Policy: p}
	}
	e.create("taken", backend.AES256GCM)
	for what, c := range map[string]struct {
		r    keys.CreateRequest
		code fault.Code
	}{
		"no name":           {keys.CreateRequest{Algorithm: backend.AES256GCM}, fault.MissingField},
		"no algorithm":      {keys.CreateRequest{Name: "k"}, fault.MissingField},
		"unknown algorithm": {keys.CreateRequest{Name: "k", Algorithm: "ROT-13"}, fault.BadAlgorithm},
		"a UUID":            {keys.CreateRequest{Name: uuid.NewString(), Algorithm: backend.AES256GCM}, fault.BadName},
		"a space":           {keys.CreateRequest{Name: "a b", Algorithm: backend.AES256GCM}, fault.BadName},
		"internal form":     {keys.CreateRequest{Name: "~import/x", Algorithm: backend.AES256GCM}, fault.BadName},
		"a long name":       {keys.CreateRequest{Name: string(make([]byte, 129)), Algorithm: backend.AES256GCM}, fault.BadName},
		"taken":             {keys.CreateRequest{Name: "taken", Algorithm: backend.AES256GCM}, fault.NameTaken},
		"other purpose":     {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Purpose: backend.PurposeSigning}, fault.BadField},
		"no such backend":   {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Backend: "hsm"}, fault.BackendNotFound},
		"stronger custody":  {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Custody: backend.CustodyDevice}, fault.Unsupported},
		"no such custody":   {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Custody: "vault"}, fault.BadField},
		"origin":            {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Origin: keys.OriginPublicOnly}, fault.BadField},
		"bad label":         {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Labels: map[string]string{"-": ""}}, fault.BadName},
		"label value":       {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Labels: map[string]string{"a": "\n"}}, fault.BadName},
		"many labels":       {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Labels: many}, fault.BadSize},
		"foreign operation": {policy(keys.Policy{Operations: []backend.Operation{backend.OpSign}}), fault.BadField},
		"operation twice":   {policy(keys.Policy{Operations: []backend.Operation{backend.OpEncrypt, backend.OpEncrypt}}), fault.BadField},
		"export by name":    {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption, Policy: keys.Policy{Operations: []backend.Operation{backend.OpExport}}}, fault.BadField},
		"fast rotation":     {policy(keys.Policy{RotationPeriod: time.Minute}), fault.BadField},
		"negative limit":    {policy(keys.Policy{UsageLimit: -1}), fault.BadField},
		"context twice":     {policy(keys.Policy{RequiredContext: []string{"a", "a"}}), fault.BadField},
		"context of KWP":    {keys.CreateRequest{Name: "k", Algorithm: backend.AES256KWP, Policy: keys.Policy{RequiredContext: []string{"a"}}}, fault.BadField},
		"rotating imports":  {keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM, Origin: keys.OriginImported, Policy: keys.Policy{RotationPeriod: time.Hour}}, fault.BadField},
	} {
		_, err := e.Create(t.Context(), e.c, c.r)
		wantCode(t, err, c.code, what)
		if last := e.lastEntry(); last.Outcome != string(c.code) {
			t.Errorf("%s: the log says %+v", what, last)
		}
	}
	if k := e.create("rsa", backend.RSA2048, func(r *keys.CreateRequest) { r.Policy.Operations = []backend.Operation{backend.OpDecrypt} }); k.Purpose != backend.PurposeEncryption {
		t.Errorf("the purpose of a key that decrypts is %s", k.Purpose)
	}
}

func TestPolicy(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) {
		r.Policy = keys.Policy{Operations: []backend.Operation{backend.OpEncrypt}, RequiredContext: []string{"app"}}
	})
	_, err := e.encrypt(keys.Target{Key: "k"}, "x")
	wantCode(t, err, fault.PolicyDenied, "without the context")
	r, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.EncryptItem{{Context: map[string]string{"app": "a"}}, {Context: map[string]string{"other": ""}}}, false)
	if err != nil || r[0].Err != nil || !fault.Has(r[1].Err, fault.PolicyDenied) {
		t.Fatalf("%+v %v", r, err)
	}
	open := []keys.CiphertextItem{{Ciphertext: r[0].Bytes, Context: map[string]string{"app": "a"}}}
	_, err = e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, open, true)
	wantCode(t, err, fault.PolicyDenied, "an operation that the policy does not have")
	if _, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Policy: &keys.Policy{}}); err != nil {
		t.Fatal(err)
	}
	if _, err = e.Decrypt(ctx, e.c, keys.Target{}, keys.EncryptOpts{}, open, true); err != nil {
		t.Errorf("after the policy was changed: %v", err)
	}
}

// TestUsageLimit: however many ask at once, no more succeed than the limit says, and what is over it is not released.
func TestUsageLimit(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.UsageLimit = 10 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for range 30 {
		wg.Go(func() {
			_, err := e.encrypt(keys.Target{Key: "k"}, "x")
			if err != nil {
				wantCode(t, err, fault.UsageLimit, "over the limit")
				return
			}
			mu.Lock()
			good++
			mu.Unlock()
		})
	}
	wg.Wait()
	if good != 10 {
		t.Errorf("%d uses of 10", good)
	}
	e.create("b", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.UsageLimit = 3 })
	items := make([]keys.CiphertextItem, 4)
	_, err := e.Decrypt(ctx, e.c, keys.Target{Key: "b"}, keys.EncryptOpts{}, items, false)
	wantCode(t, err, fault.UsageLimit, "a batch above the limit")
	r, err := e.Decrypt(ctx, e.c, keys.Target{Key: "b"}, keys.EncryptOpts{}, items[:3], false)
	if err != nil || r[0].Err == nil {
		t.Fatal("empty ciphertexts open")
	}
	k, err := e.store.KeyByID(ctx, e.tenant, e.mustID("b"))
	if err != nil || k.Uses != 0 {
		t.Errorf("failed items were counted: %d %v", k.Uses, err)
	}
}

func TestUpdate(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("taken", backend.AES256GCM)
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Labels = map[string]string{"a": "1", "b": "2"} })
	id := e.mustID("k").String()
	name, taken, bad, three := "renamed", "taken", "", "3"
	_, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Name: &taken})
	wantCode(t, err, fault.NameTaken, "a name that is taken")
	_, err = e.Update(ctx, e.c, "k", keys.UpdateRequest{Name: &bad})
	wantCode(t, err, fault.BadName, "no name")
	k, err := e.Update(ctx, e.c, "k", keys.UpdateRequest{Name: &name, Labels: map[string]*string{"a": nil, "c": &three}})
	if err != nil || !cmp.Equal(k.Labels, map[string]string{"b": "2", "c": "3"}) {
		t.Fatalf("%+v %v", k, err)
	}
	if last := e.lastEntry(); last.Action != "key.update" || last.Detail != "name labels" || last.Key != k.ID {
		t.Errorf("the log says %+v", last)
	}
	_, err = e.encrypt(keys.Target{Key: "k"}, "x")
	wantCode(t, err, fault.KeyNotFound, "by its old name")
	for _, key := range []string{"renamed", id} {
		if _, err := e.encrypt(keys.Target{Key: key}, "x"); err != nil {
			t.Errorf("by %s: %v", key, err)
		}
	}
	stored, err := e.Get(ctx, e.c, id)
	if err != nil || !cmp.Equal(stored, k) {
		t.Errorf("what was answered is not what is stored: %s", cmp.Diff(stored, k))
	}
	e.create("k", backend.AES256GCM) // the old name is free
}

func TestDefaultKeys(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	_, err := e.encrypt(keys.Target{}, "x")
	wantCode(t, err, fault.NoDefaultKey, "without a default")
	a := e.create("a", backend.AES256GCM, func(r *keys.CreateRequest) { r.Default = true })
	s := e.create("s", backend.Ed25519, func(r *keys.CreateRequest) { r.Default = true })
	r, err := e.encrypt(keys.Target{}, "x")
	if err != nil || r.Used.KeyID != a.ID {
		t.Fatalf("%+v %v", r, err)
	}
	sig, err := e.Sign(ctx, e.c, keys.Target{}, keys.SignOpts{}, []keys.SignItem{{Message: []byte("m")}}, true)
	if err != nil || sig[0].Used.KeyID != s.ID {
		t.Fatalf("%+v %v", sig, err)
	}
	yes, no := true, false
	b := e.create("b", backend.AES256GCM)
	if _, err := e.Update(ctx, e.c, "b", keys.UpdateRequest{Default: &yes}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Update(ctx, e.c, "a", keys.UpdateRequest{Default: &no}); err != nil { // it is not the default any more
		t.Fatal(err)
	}
	if r, err = e.encrypt(keys.Target{}, "x"); err != nil || r.Used.KeyID != b.ID {
		t.Errorf("the new default: %+v %v", r, err)
	}
	if _, err := e.Update(ctx, e.c, "b", keys.UpdateRequest{Default: &no}); err != nil {
		t.Fatal(err)
	}
	_, err = e.encrypt(keys.Target{}, "x")
	wantCode(t, err, fault.NoDefaultKey, "after it was taken away")
}

func TestIdempotency(t *testing.T) {
	for name, options := range map[string]func(*keys.Options){"software": nil, "device": onDevice} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, options)
			ctx := t.Context()
			c := e.c
			c.Idempotency = idempotency.Token{Key: "one", Request: [32]byte{1}}
			create := keys.CreateRequest{Name: "k", Algorithm: backend.AES256GCM}
			var wg sync.WaitGroup
			ids := make([]uuid.UUID, 8)
			for i := range ids {
				wg.Go(func() {
					for {
						k, err := e.Create(ctx, c, create)
						if fault.Has(err, fault.Conflict) {
							continue // still being made by another
						}
						if err != nil {
							t.Errorf("creating: %v", err)
							return
						}
						ids[i] = k.ID
						return
					}
				})
			}
			wg.Wait()
			for _, id := range ids {
				if id != ids[0] {
					t.Errorf("two keys for one token")
				}
			}
			other := c
			other.Idempotency.Request = [32]byte{2}
			_, err := e.Create(ctx, other, keys.CreateRequest{Name: "z", Algorithm: backend.AES256GCM})
			wantCode(t, err, fault.IdempotencyConflict, "another request under the token")
			c.Idempotency = idempotency.Token{Key: "two", Request: [32]byte{3}}
			for range 3 {
				k, err := e.Rotate(ctx, c, "k")
				if err != nil || k.LatestVersion != 2 {
					t.Errorf("rotating: %+v %v", k, err)
				}
			}
			// The same key of a request of another tenant is another.
			foreign := caller(uuid.New())
			foreign.Idempotency = idempotency.Token{Key: "one", Request: [32]byte{9}}
			if _, err := e.Create(ctx, foreign, create); err != nil {
				t.Errorf("another tenant: %v", err)
			}
			e.clock.advance(idempotency.TTL + time.Hour)
			if err := e.Maintain(ctx); err != nil {
				t.Fatal(err)
			}
			if k, err := e.Rotate(ctx, c, "k"); err != nil || k.LatestVersion != 3 {
				t.Errorf("after the record has expired: %+v %v", k, err)
			}
		})
	}
}

func TestList(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	for i := range 7 {
		e.create(fmt.Sprint("k", i), backend.AES256GCM, func(r *keys.CreateRequest) { r.Labels = map[string]string{"odd": fmt.Sprint(i % 2)} })
	}
	e.create("sig", backend.Ed25519)
	if _, err := e.ImportParameters(ctx, e.c, ""); err != nil { // an internal key, not to be listed
		t.Fatal(err)
	}
	var names []string
	r := keys.ListRequest{Limit: 3}
	for {
		page, next, err := e.List(ctx, e.c, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page {
			names = append(names, k.Name)
		}
		if next == "" {
			break
		}
		r.Cursor = next
	}
	if want := []string{"k0", "k1", "k2", "k3", "k4", "k5", "k6", "sig"}; !cmp.Equal(names, want) {
		t.Errorf("listed %v", names)
	}
	for _, f := range []struct {
		f keys.Filter
		n int
	}{{keys.Filter{NamePrefix: "k"}, 7}, {keys.Filter{Algorithm: backend.Ed25519}, 1}, {keys.Filter{State: keys.StateDestroyed}, 0}, {keys.Filter{Label: "odd=1"}, 3}} {
		page, _, err := e.List(ctx, e.c, keys.ListRequest{Filter: f.f})
		if err != nil || len(page) != f.n {
			t.Errorf("%+v: %d keys, %v", f.f, len(page), err)
		}
	}
	for what, r := range map[string]struct {
		r    keys.ListRequest
		code fault.Code
	}{
		"cursor": {keys.ListRequest{Cursor: "k1!"}, fault.BadCursor}, "limit": {keys.ListRequest{Limit: 1001}, fault.BadField},
		"state": {keys.ListRequest{Filter: keys.Filter{State: "lost"}}, fault.BadField}, "algorithm": {keys.ListRequest{Filter: keys.Filter{Algorithm: "x"}}, fault.BadAlgorithm},
	} {
		_, _, err := e.List(ctx, e.c, r.r)
		wantCode(t, err, r.code, what)
	}
}

// TestInternalSigner signs the checkpoint of the real log.
func TestInternalSigner(t *testing.T) {
	e := newEnv(t, nil)
	ctx := context.Background()
	a, err := e.InternalSigner(ctx, "audit")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := a.Sign(ctx, []byte("head"))
	if err != nil || len(sig) != 64 {
		t.Fatal(err)
	}
	var _ audit.CheckpointSigner = a
	n := len(e.entries())
	e.reopen()
	b, err := e.InternalSigner(ctx, "audit")
	if err != nil || string(b.Public()) != string(a.Public()) {
		t.Errorf("another key after a restart: %v", err)
	}
	if len(e.entries()) != n || n != 1 || e.entries()[0].Principal != "system" {
		t.Errorf("%d entries", len(e.entries()))
	}
	if other, err := e.InternalSigner(ctx, "other"); err != nil || string(other.Public()) == string(a.Public()) {
		t.Errorf("two names, one key: %v", err)
	}
}

// TestMetrics: one observation for a request, an item for each of its items, and no label that a caller chooses.
func TestMetrics(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	e.create("k", backend.AES256GCM)
	items := make([]keys.EncryptItem, 5)
	items[4].Plaintext = make([]byte, keys.MaxPlaintext+1)
	if _, err := e.Encrypt(ctx, e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, items, false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.decrypt(keys.Target{Key: "k"}, []byte("broken")); err == nil {
		t.Fatal("garbage opens")
	}
	got, err := e.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range got {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			if h := m.GetHistogram(); h != nil {
				found[key] = float64(h.GetSampleCount())
				if len(h.Bucket) < 15 || h.GetSchema() == 0 && h.ZeroThreshold == nil {
					t.Errorf("%s has no classic or no native buckets", key)
				}
			} else {
				found[key] = m.GetCounter().GetValue()
			}
		}
	}
	for key, want := range map[string]float64{
		"keywright_crypto_operation_seconds AES-256-GCM soft encrypt ok":                     1,
		"keywright_crypto_items_total AES-256-GCM soft encrypt ok":                           4,
		"keywright_crypto_items_total AES-256-GCM soft encrypt failed":                       1,
		"keywright_crypto_operation_seconds AES-256-GCM soft decrypt ERR_INVALID_CIPHERTEXT": 1,
	} {
		if found[key] != want {
			// labels come in the order of their names: algorithm, backend, operation, outcome
			t.Errorf("%s is %v, want %v: %v", key, found[key], want, found)
		}
	}
}

func TestBackends(t *testing.T) {
	e := newEnv(t, nil)
	all := e.Backends(t.Context())
	if len(all) != 1 || !all[0].Default || !all[0].Healthy || all[0].Info.Name != "soft" {
		t.Errorf("%+v", all)
	}
	if _, err := e.Backend(t.Context(), "absent"); !fault.Has(err, fault.BackendNotFound) {
		t.Error(err)
	}
	if err := e.soft.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err := e.Backend(t.Context(), "soft"); err != nil || st.Healthy || st.Error != string(fault.BackendUnavailable) {
		t.Errorf("a closed backend: %+v %v", st, err)
	}
	if e.BackendName(all[0].Info.ID) != "soft" || e.BackendName("elsewhere") != "elsewhere" {
		t.Error("names of backends")
	}
}

// TestSuspensionIsImmediate: nothing that begins after the answer to a suspension succeeds, however busy the key is.
func TestSuspensionIsImmediate(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM)
	var wg sync.WaitGroup
	var mu sync.RWMutex // guards suspended: an encryption holds it from before its start to its end
	suspended := false
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.RLock()
				before := suspended
				_, err := e.encrypt(keys.Target{Key: "k"}, "x")
				mu.RUnlock()
				if before && err == nil {
					t.Error("a suspended key works")
					return
				}
				if err != nil && !fault.Has(err, fault.BadState) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		if _, err := e.SetVersionState(t.Context(), e.c, "k", 1, keys.StateSuspended); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		suspended = true
		mu.Unlock()
		if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); !fault.Has(err, fault.BadState) {
			t.Errorf("just after the answer: %v", err)
		}
		mu.Lock()
		suspended = false
		mu.Unlock()
		if _, err := e.SetVersionState(t.Context(), e.c, "k", 1, keys.StateActive); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestInvalidate: what another node has changed is read again once this one is told.
func TestInvalidate(t *testing.T) {
	e := newEnv(t, nil)
	k := e.create("k", backend.AES256GCM)
	other, err := keys.New(keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{e.soft}, Now: e.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := e.encrypt(keys.Target{Key: "k"}, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.SetVersionState(t.Context(), e.c, "k", 1, keys.StateSuspended); err != nil {
		t.Fatal(err)
	}
	e.Invalidate(k.ID)
	_, err = e.encrypt(keys.Target{Key: "k"}, "x")
	wantCode(t, err, fault.BadState, "after Invalidate")
}
