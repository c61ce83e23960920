package client

import (
	"context"
	"net/http"

	"github.com/keywright/keywright/api/wire"
)

// AttestKey asks for evidence of where a version of a key lives (0: the primary one). nonce is the caller's own, 16 to 64 random bytes. What
// the answer claims is for reading only: whoever relies on it verifies its Evidence, offline, by package attest or `keywright attest verify`.
func (c *Client) AttestKey(ctx context.Context, key string, nonce []byte, version uint32) (*wire.Attestation, error) {
	return onKey[wire.Attestation](ctx, c, http.MethodPost, key, "/attestation", nil, wire.Attest{Nonce: nonce, Version: version}, idempotent)
}

// AttestationKey gives the public key of the service's statements in evidence, for verifiers to keep.
func (c *Client) AttestationKey(ctx context.Context) (*wire.AttestationKey, error) {
	return do[wire.AttestationKey](ctx, c, call{method: http.MethodGet, path: "/attestation-key", repeat: idempotent})
}
