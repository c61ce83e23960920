package client

import (
	"context"

	"github.com/keywright/keywright/api/wire"
)

// Encapsulate makes a fresh shared secret and the ciphertext that carries it to the key; the secret is the caller's to wipe.
func (c *Client) Encapsulate(ctx context.Context, r wire.Encapsulate) (*wire.Encapsulation, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.Encapsulation](ctx, c, "encapsulate", key, false, never, r)
}

// EncapsulateBatch is Encapsulate for many items.
func (c *Client) EncapsulateBatch(ctx context.Context, o BatchOptions, items []wire.EncapsulateItem) ([]wire.Encapsulation, error) {
	return many[wire.EncapsulateItem, wire.Encapsulation](ctx, c, "encapsulate", false, never, o, items)
}

// Decapsulate recovers a shared secret, which is the caller's to wipe. A ciphertext that was changed on its way gives another
// secret and no error.
func (c *Client) Decapsulate(ctx context.Context, r wire.Decapsulate) (*wire.SharedSecret, error) {
	key := r.Key
	r.Key, r.Items = "", nil
	return operation[wire.SharedSecret](ctx, c, "decapsulate", key, false, idempotent, r)
}

// DecapsulateBatch is Decapsulate for many items.
func (c *Client) DecapsulateBatch(ctx context.Context, o BatchOptions, items []wire.DecapsulateItem) ([]wire.SharedSecret, error) {
	return many[wire.DecapsulateItem, wire.SharedSecret](ctx, c, "decapsulate", false, idempotent, o, items)
}
