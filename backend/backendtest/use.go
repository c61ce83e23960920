package backendtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"slices"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/verify"
)

var errWrongResult = errors.New("the result is wrong")

// operate does one operation of the kind and checks its result. It is used where the failing of calls is the question, so it
// gives the error back instead of failing a test.
func operate(ctx context.Context, k kind, key backend.Key) error {
	message := []byte("one message of a size like many others")
	switch h := key.(type) {
	case backend.AEAD:
		ct, err := h.Seal(ctx, nil, message, nil)
		if err != nil {
			return err
		}
		back, err := h.Open(ctx, nil, ct, nil)
		return result(err, string(back) == string(message))
	case backend.Wrapper:
		wrapped, err := h.Wrap(ctx, message)
		if err != nil {
			return err
		}
		back, err := h.Unwrap(ctx, wrapped)
		return result(err, string(back) == string(message))
	case backend.MACer:
		tag, err := h.MAC(ctx, message)
		return result(err, len(tag) == k.Info.TagSize)
	case backend.Signer:
		o := variants(k)[0]
		if o.Hash != 0 {
			message = make([]byte, o.Hash.Size())
		}
		sig, err := h.Sign(ctx, message, o)
		return result(err, len(sig) > 0)
	case backend.Decrypter:
		pub := h.Public().(*rsa.PublicKey)
		ct, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, pub, message, nil)
		if err != nil {
			return err
		}
		back, err := h.Decrypt(ctx, ct, backend.OAEPOpts{Hash: crypto.SHA256})
		return result(err, string(back) == string(message))
	case backend.Decapsulator:
		ct, right, err := verify.Encapsulate(h.Public(), k.Algorithm)
		if err != nil {
			return err
		}
		shared, err := h.Decapsulate(ctx, ct)
		return result(err, bytes.Equal(shared, right))
	case backend.Agreer:
		// With its own public key: every curve takes it, and no second key is needed.
		der, err := keySPKI(h.Public())
		if err != nil {
			return err
		}
		secret, err := h.Agree(ctx, der)
		return result(err, len(secret) > 0)
	}
	return errors.New("a handle without operations")
}

func result(err error, right bool) error {
	if err == nil && !right {
		return errWrongResult
	}
	return err
}

// use wants an operation to work, or to fail with one of the codes; without codes it has to work.
func use(t testing.TB, k kind, key backend.Key, what string, codes ...fault.Code) {
	t.Helper()
	err := operate(t.Context(), k, key)
	switch {
	case err == nil:
	case len(codes) == 0:
		t.Errorf("%s (%s): %v", what, k.Algorithm, err)
	default:
		want(t, what, err, codes...)
	}
}

// calls lists every way into the backend that takes a context, with one argument each that is good.
func (s *suite) calls(t testing.TB, b backend.Backend) map[string]func(context.Context) error {
	t.Helper()
	out := map[string]func(context.Context) error{}
	for _, k := range s.kinds() {
		ref := s.ref(t, k)
		out["load "+k.String()] = func(ctx context.Context) error {
			key, err := b.Load(ctx, ref)
			if err == nil {
				err = key.Close()
			}
			return err
		}
		if k.Info.Family != backend.FamilyRSA {
			spec := s.spec(k)
			out["generate "+k.String()] = func(ctx context.Context) error {
				_, err := b.Generate(ctx, spec)
				return err
			}
		}
		if imp, ok := b.(backend.Importer); ok && k.Import {
			spec, m := s.spec(k), fresh(t, k.Info)
			out["import "+k.String()] = func(ctx context.Context) error {
				_, err := imp.Import(ctx, spec, m.bytes)
				return err
			}
		}
	}
	if call := s.wrappedImport(t, b); call != nil {
		out["import-wrapped"] = call
	}
	// A ref of what is gone already: to destroy it again is no error.
	gone := s.generate(t, s.spec(s.kinds()[0]))
	if err := b.Destroy(t.Context(), gone); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	out["destroy"] = func(ctx context.Context) error { return b.Destroy(ctx, gone) }
	if sealer, ok := b.(backend.Sealer); ok {
		out["seal"] = func(ctx context.Context) error {
			_, err := sealer.Seal(ctx, []byte("plaintext"), nil)
			return err
		}
		out["open"] = func(ctx context.Context) error {
			_, err := sealer.Open(ctx, make([]byte, 64), nil)
			return err
		}
	}
	if r, ok := b.(backend.Randomer); ok {
		out["random"] = func(ctx context.Context) error { return r.Random(ctx, make([]byte, 32)) }
	}
	if p, ok := b.(backend.Pinger); ok {
		out["ping"] = p.Ping
	}
	return out
}

// wrappedImport is a good call of ImportWrapped, or nil where the backend has none.
func (s *suite) wrappedImport(t testing.TB, b backend.Backend) func(context.Context) error {
	t.Helper()
	imp, ok := b.(backend.Importer)
	rsaKinds := s.of(backend.FamilyRSA, backend.PurposeEncryption)
	i := slices.IndexFunc(s.kinds(), func(k kind) bool { return k.Import && k.Info.Symmetric() })
	if !ok || i < 0 || len(rsaKinds) == 0 {
		return nil
	}
	by, k := s.ref(t, rsaKinds[0]), s.kinds()[i]
	spec, to := s.spec(k), load(t, b, by).Public().(*rsa.PublicKey)
	wrapped := rsaAESWrap(t, to, crypto.SHA256, fresh(t, k.Info).bytes)
	return func(ctx context.Context) error {
		_, err := imp.ImportWrapped(ctx, spec, by, crypto.SHA256, wrapped)
		return err
	}
}

// operations lists every operation of every kind by itself, with input that it takes.
func (s *suite) operations(t testing.TB) map[string]func(context.Context) error {
	t.Helper()
	out := map[string]func(context.Context) error{}
	for _, k := range s.kinds() {
		for what, op := range operationsOf(t, k, s.key(t, k)) {
			out[what+" by "+k.String()] = op
		}
		if k.has(backend.OpExport) && k.Info.Family != backend.FamilyRSA {
			spec, to := s.spec(k), testKey(t, 2048)
			spec.Exportable = true
			e := load(t, s.b, s.temporary(t, spec)).(backend.Exporter)
			out["export of "+k.String()] = func(ctx context.Context) error {
				return second(e.Export(ctx, &to.PublicKey, crypto.SHA256))
			}
		}
	}
	return out
}

// operationsOf lists the operations of one handle, each with 32 bytes of input where the size is to choose.
func operationsOf(t testing.TB, k kind, key backend.Key) map[string]func(context.Context) error {
	t.Helper()
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	message := make([]byte, 32)
	type ops = map[string]func(context.Context) error
	switch h := key.(type) {
	case backend.AEAD:
		ct := must(h.Seal(t.Context(), nil, message, nil))
		return ops{
			"seal": func(ctx context.Context) error { return second(h.Seal(ctx, nil, message, nil)) },
			"open": func(ctx context.Context) error { return second(h.Open(ctx, nil, ct, nil)) },
		}
	case backend.Wrapper:
		wrapped := must(h.Wrap(t.Context(), message))
		return ops{
			"wrap":   func(ctx context.Context) error { return second(h.Wrap(ctx, message)) },
			"unwrap": func(ctx context.Context) error { return second(h.Unwrap(ctx, wrapped)) },
		}
	case backend.MACer:
		return ops{"mac": func(ctx context.Context) error { return second(h.MAC(ctx, message)) }}
	case backend.Signer:
		o := variants(k)[0]
		if o.Hash != 0 {
			message = make([]byte, o.Hash.Size())
		}
		return ops{"sign": func(ctx context.Context) error { return second(h.Sign(ctx, message, o)) }}
	case backend.Decrypter:
		ct := oaep(t, h.Public(), crypto.SHA256, nil, message)
		return ops{"decrypt": func(ctx context.Context) error {
			return second(h.Decrypt(ctx, ct, backend.OAEPOpts{Hash: crypto.SHA256}))
		}}
	case backend.Decapsulator:
		ct, _ := encapsulate(t, k.Info, h.Public())
		return ops{"decapsulate": func(ctx context.Context) error { return second(h.Decapsulate(ctx, ct)) }}
	case backend.Agreer:
		peer := spki(t, h.Public())
		return ops{"agree": func(ctx context.Context) error { return second(h.Agree(ctx, peer)) }}
	}
	t.Fatalf("%s for %s: a handle without operations", k.Algorithm, k.Purpose)
	return nil
}

func second[T any](_ T, err error) error { return err }
