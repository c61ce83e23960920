package api

import (
	"context"
	"encoding/pem"
	"fmt"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
)

func (s *Server) importParameters(ctx context.Context, c *call, _ *wire.Empty) (wire.ImportParameters, error) {
	p, err := s.keys.ImportParameters(ctx, c.caller(), c.query.Get("backend"))
	if err != nil {
		return wire.ImportParameters{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: p.PublicKey})
	return wire.ImportParameters{ImportToken: p.Token, PublicKey: string(text), WrappingAlgorithm: p.Wrapping,
		ExpiresAt: p.ExpiresAt.UTC()}, nil
}

func (s *Server) importKey(ctx context.Context, c *call, r *wire.ImportKey) (wire.Key, error) {
	who, err := c.creator()
	if err != nil {
		return wire.Key{}, err
	}
	in := keys.ImportRequest{Key: r.Key, Token: r.ImportToken, Wrapped: r.WrappedKey}
	another := r.Name != "" || r.Algorithm != "" || r.Purpose != "" || r.Backend != "" || r.Custody != "" ||
		r.Labels != nil || r.Policy != nil
	switch {
	case r.Key != "" && another:
		return wire.Key{}, fault.New(fault.MissingField, "send key, or the fields of a new key, not both")
	case r.Key == "":
		if err := fresh(r.Name, r.Algorithm); err != nil {
			return wire.Key{}, err
		}
		p, err := policy(r.Policy)
		if err != nil {
			return wire.Key{}, err
		}
		in.Create = keys.CreateRequest{Name: r.Name, Algorithm: backend.Algorithm(r.Algorithm), Purpose: backend.Purpose(r.Purpose),
			Backend: r.Backend, Custody: backend.Custody(r.Custody), Labels: r.Labels, Policy: p}
	}
	switch {
	case r.PublicKey != "" && (r.WrappedKey != nil || r.ImportToken != ""):
		return wire.Key{}, fault.New(fault.MissingField, "send import_token with wrapped_key, or public_key, not both")
	case r.PublicKey != "":
		if in.Public, err = spki("public_key", r.PublicKey); err != nil {
			return wire.Key{}, err
		}
	case r.WrappedKey == nil:
		return wire.Key{}, fault.New(fault.MissingField, "the field wrapped_key (or public_key) is missing")
	default:
		if err := required("import_token", r.ImportToken); err != nil {
			return wire.Key{}, err
		}
	}
	return s.shown(s.keys.Import(ctx, who, in))
}

func (s *Server) exportKey(ctx context.Context, c *call, r *wire.ExportKey) (wire.ExportedKey, error) {
	var none wire.ExportedKey
	name, err := c.param("key")
	if err != nil {
		return none, err
	}
	in := keys.ExportRequest{Key: name, Version: r.Version, To: r.To}
	if in.Hash, err = hash(r.Hash); err != nil {
		return none, err
	}
	switch {
	case (r.To == "") == (r.PublicKey == ""):
		return none, fault.New(fault.MissingField, "send exactly one of the fields to and public_key")
	case r.PublicKey != "":
		if in.Public, err = spki("public_key", r.PublicKey); err != nil {
			return none, err
		}
	}
	wrapped, used, err := s.keys.Export(ctx, c.caller(), in)
	if err != nil {
		return none, err
	}
	return wire.ExportedKey{WrappedKey: wrapped, WrappingAlgorithm: wrappingName(in), KeyID: used.KeyID.String(),
		KeyVersion: used.Version}, nil
}

// wrappingName names the form of an export: CKM_RSA_AES_KEY_WRAP with the hash of its OAEP part.
func wrappingName(in keys.ExportRequest) string {
	switch name := keyenc.HashName(in.Hash); name {
	case "SHA-1":
		return "RSA_AES_KEY_WRAP_SHA_1"
	case "", "SHA-256":
		return "RSA_AES_KEY_WRAP_SHA_256"
	default:
		return fmt.Sprintf("RSA_AES_KEY_WRAP_SHA_%s", name[len("SHA-"):])
	}
}
