package software

import (
	"bytes"
	"context"
	"encoding/hex"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
)

// errSick is the answer of a failed self-test: a processor, memory or build that cannot be trusted with keys.
var errSick = fault.New(fault.BackendUnavailable, "the software backend failed its self-test")

// A sealed blob made by another implementation of the format (docs/formats/sealed-blob.md): XChaCha20-Poly1305 of
// "keywright self-test" under the key 00…1f and the nonce 40…57, binding "self-test".
const (
	knownBlob  = "4b5753420100011800000023404142434445464748494a4b4c4d4e4f5051525354555657bf5c7c07a2891e7efbd4f4dbc3fa48e6f7c9d965302b6712ccf98c669ebd6ab3887c80"
	knownPlain = "keywright self-test"
)

// Ping opens a known blob under a fixed key, and seals and opens a value under the real one: it fails with fault.Locked
// while the root is not open.
func (b *Backend) Ping(ctx context.Context) error {
	blob, err := hex.DecodeString(knownBlob)
	if err != nil {
		return errSick
	}
	key := make([]byte, keySize)
	for i := range key {
		key[i] = byte(i)
	}
	if got, err := envelope.OpenSoftware(key, blob, []byte("self-test")); err != nil || string(got) != knownPlain {
		return errSick
	}
	value := make([]byte, 32)
	if err := b.Random(ctx, value); err != nil {
		return err
	}
	binding := []byte("ping")
	sealed, err := b.Seal(ctx, value, binding)
	if err != nil {
		return err
	}
	got, err := b.Open(ctx, sealed, binding)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, value) {
		return errSick
	}
	return nil
}
