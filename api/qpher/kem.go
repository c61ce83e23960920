package qpher

import (
	"context"
	"slices"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// modes of encryption.
const (
	modeStandard      = "standard"
	modeDeterministic = "deterministic"
)

// minSalt is the least salt of deterministic mode, in bytes. The format says so again.
const minSalt = 32

// kem finds the version that a request is for.
func kem(name string, version int64) (algorithm, keys.Target, error) {
	a, err := find(name, kems())
	if err != nil {
		return a, keys.Target{}, err
	}
	t, err := a.target(version)
	return a, t, err
}

// Encrypt is POST /kem/encrypt.
func (q *API) Encrypt(ctx context.Context, c keys.Caller, r *Encrypt) (*Answer, error) {
	if r.Plaintext == nil {
		return nil, missing("plaintext")
	}
	a, t, err := kem(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	item := keys.EncryptItem{Plaintext: r.Plaintext}
	switch r.Mode {
	case "", modeStandard:
		if len(r.Salt) > 0 {
			return nil, fault.New(fault.BadField, "a salt goes with the mode deterministic only")
		}
	case modeDeterministic:
		if r.Salt == nil {
			return nil, fault.New(fault.MissingField, "the mode deterministic needs the field salt")
		}
		if len(r.Salt) < minSalt {
			return nil, fault.New(fault.BadSize, "the salt of deterministic encryption has at least 32 bytes")
		}
		item.Salt = r.Salt
	default:
		return nil, fault.New(fault.BadField, "the mode is standard or deterministic")
	}
	out, err := q.keys.Encrypt(ctx, c, t, keys.EncryptOpts{Format: keys.FormatKEMDEM}, []keys.EncryptItem{item}, true)
	return answer(a, "ciphertext", false, out, err)
}

// Decrypt is POST /kem/decrypt.
func (q *API) Decrypt(ctx context.Context, c keys.Caller, r *Decrypt) (*Answer, error) {
	if r.Ciphertext == nil {
		return nil, missing("ciphertext")
	}
	a, t, err := kem(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Decrypt(ctx, c, t, keys.EncryptOpts{Format: keys.FormatKEMDEM}, []keys.CiphertextItem{{Ciphertext: r.Ciphertext}}, true)
	return answer(a, "plaintext", true, out, alike(err))
}

// Encapsulate is POST /kem/encapsulate.
func (q *API) Encapsulate(ctx context.Context, c keys.Caller, r *Encapsulate) (*Answer, error) {
	a, t, err := kem(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Encapsulate(ctx, c, t, make([]keys.EncapsulateItem, 1), true)
	if err != nil {
		return nil, err
	}
	return &Answer{algorithm: a.name, used: out[0].Used,
		parts: [2]part{{"kem_ciphertext", out[0].Ciphertext, false}, {"shared_secret", out[0].Secret, true}}}, nil
}

// Decapsulate is POST /kem/decapsulate.
func (q *API) Decapsulate(ctx context.Context, c keys.Caller, r *Decapsulate) (*Answer, error) {
	if r.KEMCiphertext == nil {
		return nil, missing("kem_ciphertext")
	}
	a, t, err := kem(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.Decapsulate(ctx, c, t, []keys.DecapsulateItem{{Ciphertext: r.KEMCiphertext}}, true)
	return answer(a, "shared_secret", true, out, alike(err))
}

// wrappable reports whether a symmetric key can have this size.
func wrappable(n int) bool { return slices.Contains([]int{16, 24, 32, 48, 64}, n) }

// Wrap is POST /kem/key/wrap.
func (q *API) Wrap(ctx context.Context, c keys.Caller, r *Wrap) (*Answer, error) {
	if r.SymmetricKey == nil {
		return nil, missing("symmetric_key")
	}
	a, t, err := kem(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	if !wrappable(len(r.SymmetricKey)) {
		return nil, fault.New(fault.BadSize, "a symmetric key to wrap has 16, 24, 32, 48 or 64 bytes")
	}
	out, err := q.keys.WrapKEMDEM(ctx, c, t, []keys.EncryptItem{{Plaintext: r.SymmetricKey}}, true)
	w, err := answer(a, "wrapped_key", false, out, err)
	if err == nil {
		w.tail = `,"wrapping_method":"KEM-DEM"`
	}
	return w, err
}

// Unwrap is POST /kem/key/unwrap. What opens and has not the size of a symmetric key was not wrapped, and is as if it did not open.
func (q *API) Unwrap(ctx context.Context, c keys.Caller, r *Unwrap) (*Answer, error) {
	if r.WrappedKey == nil {
		return nil, missing("wrapped_key")
	}
	a, t, err := kem(r.Algorithm, r.KeyVersion)
	if err != nil {
		return nil, err
	}
	out, err := q.keys.UnwrapKEMDEM(ctx, c, t, []keys.CiphertextItem{{Ciphertext: r.WrappedKey}}, true)
	if err == nil && !wrappable(len(out[0].Bytes)) {
		clear(out[0].Bytes)
		err = doesNotOpen()
	}
	return answer(a, "symmetric_key", true, out, alike(err))
}

// answer makes the answer of an operation with one binary member.
func answer(a algorithm, name string, secret bool, out []keys.BytesResult, err error) (*Answer, error) {
	if err != nil {
		return nil, err
	}
	return &Answer{algorithm: a.name, used: out[0].Used, parts: [2]part{{name, out[0].Bytes, secret}}}, nil
}

// alike makes a ciphertext that cannot be one of its size look as any other that does not open.
func alike(err error) error {
	if fault.Has(err, fault.BadSize) || fault.Has(err, fault.BadEnvelope) || fault.Has(err, fault.DecryptionFailed) {
		return doesNotOpen()
	}
	return err
}

func doesNotOpen() error { return fault.New(fault.DecryptionFailed, "the ciphertext does not open") }
