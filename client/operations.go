package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/keywright/keywright/api/wire"
)

// BatchOptions are what the items of a batch have in common, as far as its operation has them; the same as the fields of the single requests.
type BatchOptions struct {
	Key        string
	KeyVersion uint32
	Hash       string
	Format     string
	Padding    string
	Encoding   string
	// SignatureContext and Deterministic are for ML-DSA, SLH-DSA and composites.
	SignatureContext []byte
	Deterministic    bool
}

// batch is the request of every operation with items. The single requests cannot serve: an item's required field would go
// out empty beside the items.
type batch[I any] struct {
	Key              string `json:"key,omitempty"`
	KeyVersion       uint32 `json:"key_version,omitempty"`
	Hash             string `json:"hash,omitempty"`
	Format           string `json:"format,omitempty"`
	Padding          string `json:"padding,omitempty"`
	Encoding         string `json:"encoding,omitempty"`
	SignatureContext []byte `json:"signature_context,omitempty"`
	Deterministic    bool   `json:"deterministic,omitempty"`
	Items            []I    `json:"items"`
}

// operation carries out an operation on the named key, or on the route without one. body is called with the key's name
// taken out where the path holds it.
func operation[T any](ctx context.Context, c *Client, name, key string, keyless bool, r repeat, body any) (*T, error) {
	path := "/" + name
	if key != "" {
		path = "/keys/" + url.PathEscape(key) + path
	} else if !keyless {
		return nil, errors.New("client: no key is named")
	}
	return do[T](ctx, c, call{method: http.MethodPost, path: path, body: body, repeat: r})
}

func many[I, R any](ctx context.Context, c *Client, name string, keyless bool, r repeat, o BatchOptions, items []I) ([]R, error) {
	b := batch[I]{KeyVersion: o.KeyVersion, Hash: o.Hash, Format: o.Format, Padding: o.Padding, Encoding: o.Encoding,
		SignatureContext: o.SignatureContext, Deterministic: o.Deterministic, Items: items}
	answer, err := operation[wire.Batch[R]](ctx, c, name, o.Key, keyless, r, b)
	if err != nil {
		return nil, err
	}
	if len(answer.Items) != len(items) {
		return nil, fmt.Errorf("%w: %d results for %d items", ErrResponse, len(answer.Items), len(items))
	}
	return answer.Items, nil
}

// The operations. A request's Key is an id or a name; without it the tenant's default key is used (encrypt, data-key, sign, verify),
// or the key that the ciphertext names (decrypt). The Items field of a single request is ignored: the Batch methods take
// up to 1,000 items and give one result each, in order, with its own error.

// Encrypt encrypts up to 1 MiB.
func (c *Client) Encrypt(ctx context.Context, r wire.Encrypt) (*wire.Ciphertext, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.Ciphertext](ctx, c, "encrypt", key, true, never, r)
}

// EncryptBatch is Encrypt for many items.
func (c *Client) EncryptBatch(ctx context.Context, o BatchOptions, items []wire.EncryptItem) ([]wire.Ciphertext, error) {
	return many[wire.EncryptItem, wire.Ciphertext](ctx, c, "encrypt", true, never, o, items)
}

// Decrypt opens what Encrypt, Rewrap and DataKey gave.
func (c *Client) Decrypt(ctx context.Context, r wire.Decrypt) (*wire.Plaintext, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.Plaintext](ctx, c, "decrypt", key, true, idempotent, r)
}

// DecryptBatch is Decrypt for many items.
func (c *Client) DecryptBatch(ctx context.Context, o BatchOptions, items []wire.DecryptItem) ([]wire.Plaintext, error) {
	return many[wire.DecryptItem, wire.Plaintext](ctx, c, "decrypt", true, idempotent, o, items)
}

// Rewrap encrypts a ciphertext anew under the key's primary version; the plaintext does not leave the service.
func (c *Client) Rewrap(ctx context.Context, r wire.Decrypt) (*wire.Ciphertext, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.Ciphertext](ctx, c, "rewrap", key, false, never, r)
}

// RewrapBatch is Rewrap for many items.
func (c *Client) RewrapBatch(ctx context.Context, o BatchOptions, items []wire.DecryptItem) ([]wire.Ciphertext, error) {
	return many[wire.DecryptItem, wire.Ciphertext](ctx, c, "rewrap", false, never, o, items)
}

// DataKey gives a fresh key, in clear and encrypted; the clear one is the caller's to wipe.
func (c *Client) DataKey(ctx context.Context, r wire.DataKey) (*wire.DataKeyResult, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.DataKeyResult](ctx, c, "data-key", key, true, never, r)
}

// DataKeyBatch is DataKey for many items.
func (c *Client) DataKeyBatch(ctx context.Context, o BatchOptions, items []wire.DataKeyItem) ([]wire.DataKeyResult, error) {
	return many[wire.DataKeyItem, wire.DataKeyResult](ctx, c, "data-key", true, never, o, items)
}

// Wrap wraps key material, 8 to 4096 bytes for AES-KWP keys.
func (c *Client) Wrap(ctx context.Context, r wire.Wrap) (*wire.WrappedKey, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.WrappedKey](ctx, c, "wrap", key, false, never, r)
}

// WrapBatch is Wrap for many items.
func (c *Client) WrapBatch(ctx context.Context, o BatchOptions, items []wire.WrapItem) ([]wire.WrappedKey, error) {
	return many[wire.WrapItem, wire.WrappedKey](ctx, c, "wrap", false, never, o, items)
}

// Unwrap opens what Wrap gave; the material is the caller's to wipe.
func (c *Client) Unwrap(ctx context.Context, r wire.Unwrap) (*wire.Plaintext, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.Plaintext](ctx, c, "unwrap", key, false, idempotent, r)
}

// UnwrapBatch is Unwrap for many items.
func (c *Client) UnwrapBatch(ctx context.Context, o BatchOptions, items []wire.UnwrapItem) ([]wire.Plaintext, error) {
	return many[wire.UnwrapItem, wire.Plaintext](ctx, c, "unwrap", false, idempotent, o, items)
}

// Sign signs a message of up to 1 MiB, or a digest.
func (c *Client) Sign(ctx context.Context, r wire.Sign) (*wire.Signature, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.Signature](ctx, c, "sign", key, true, never, r)
}

// SignBatch is Sign for many items.
func (c *Client) SignBatch(ctx context.Context, o BatchOptions, items []wire.SignItem) ([]wire.Signature, error) {
	return many[wire.SignItem, wire.Signature](ctx, c, "sign", true, never, o, items)
}

// Verify says whether a signature is valid; a wrong one is Valid false and no error.
func (c *Client) Verify(ctx context.Context, r wire.Verify) (*wire.Validity, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return validity(operation[wire.Validity](ctx, c, "verify", key, true, idempotent, r))
}

// VerifyBatch is Verify for many items.
func (c *Client) VerifyBatch(ctx context.Context, o BatchOptions, items []wire.VerifyItem) ([]wire.Validity, error) {
	return many[wire.VerifyItem, wire.Validity](ctx, c, "verify", true, idempotent, o, items)
}

// validity makes sure that an answer without a verdict is never taken for one.
func validity(v *wire.Validity, err error) (*wire.Validity, error) {
	if err == nil && v.Valid == nil {
		return nil, fmt.Errorf("%w: no verdict", ErrResponse)
	}
	return v, err
}

// MAC computes a message authentication code.
func (c *Client) MAC(ctx context.Context, r wire.MAC) (*wire.MACResult, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.MACResult](ctx, c, "mac", key, false, idempotent, r)
}

// MACBatch is MAC for many items.
func (c *Client) MACBatch(ctx context.Context, o BatchOptions, items []wire.MACItem) ([]wire.MACResult, error) {
	return many[wire.MACItem, wire.MACResult](ctx, c, "mac", false, idempotent, o, items)
}

// VerifyMAC says whether a tag is valid; a wrong one is Valid false and no error.
func (c *Client) VerifyMAC(ctx context.Context, r wire.MAC) (*wire.Validity, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return validity(operation[wire.Validity](ctx, c, "verify-mac", key, false, idempotent, r))
}

// VerifyMACBatch is VerifyMAC for many items.
func (c *Client) VerifyMACBatch(ctx context.Context, o BatchOptions, items []wire.MACItem) ([]wire.Validity, error) {
	return many[wire.MACItem, wire.Validity](ctx, c, "verify-mac", false, idempotent, o, items)
}

// Derive agrees on a secret with a peer's public key and gives HKDF (RFC 5869) over it.
func (c *Client) Derive(ctx context.Context, r wire.Derive) (*wire.DerivedKey, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.DerivedKey](ctx, c, "derive", key, false, idempotent, r)
}

// DeriveBatch is Derive for many items.
func (c *Client) DeriveBatch(ctx context.Context, o BatchOptions, items []wire.DeriveItem) ([]wire.DerivedKey, error) {
	return many[wire.DeriveItem, wire.DerivedKey](ctx, c, "derive", false, idempotent, o, items)
}

// Random gives 1 byte to 1 MiB. Backend "": the default one.
func (c *Client) Random(ctx context.Context, bytes int, backend string) ([]byte, error) {
	v, err := do[wire.RandomResult](ctx, c, call{method: http.MethodPost, path: "/random", body: wire.RandomRequest{Bytes: bytes, Backend: backend}, repeat: never})
	if err != nil {
		return nil, err
	}
	if len(v.Random) != bytes {
		return nil, fmt.Errorf("%w: %d bytes where %d were asked for", ErrResponse, len(v.Random), bytes)
	}
	return v.Random, nil
}
