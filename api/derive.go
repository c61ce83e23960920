package api

import (
	"context"
	"encoding/pem"
	"strings"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

func badField(message string) error { return fault.New(fault.BadField, message) }

// spki gives the DER of a PEM public key, alone in its text.
func spki(field, text string) ([]byte, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || len(block.Headers) != 0 || strings.TrimSpace(string(rest)) != "" ||
		!strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN") {
		return nil, fault.New(fault.BadEncoding, "the field "+field+" must be one PEM block of the type PUBLIC KEY")
	}
	return block.Bytes, nil
}

// peer reads a peer's public key: PEM, or base64 of SPKI DER or of the raw value.
func peer(text string) ([]byte, error) {
	if strings.Contains(text, "-----BEGIN") {
		return spki("peer_public_key", text)
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, fault.New(fault.BadEncoding, "the field peer_public_key must be PEM or standard padded base64")
	}
	b, err := strictBase64.DecodeString(text)
	if err != nil {
		return nil, fault.New(fault.BadEncoding, "the field peer_public_key must be PEM or standard padded base64")
	}
	return b, nil
}

func (s *Server) derive(ctx context.Context, c *call, r *wire.Derive) (appender, error) {
	t, err := c.target(r.Target)
	if err != nil {
		return nil, err
	}
	w := &r.DeriveItem
	given := w.PeerPublicKey != "" || w.Salt != nil || w.Info != nil || w.Hash != "" || w.Length != 0 || w.Context != nil
	var bad error
	list, single, err := gather(nil, r.Items, w, given, func(w *wire.DeriveItem) (keys.DeriveItem, string) {
		if w.PeerPublicKey == "" {
			return keys.DeriveItem{}, "peer_public_key"
		}
		h, err := hash(w.Hash)
		if err != nil && bad == nil {
			bad = err
		}
		p, err := peer(w.PeerPublicKey)
		if err != nil && bad == nil {
			bad = err
		}
		return keys.DeriveItem{Peer: p, Salt: w.Salt, Info: w.Info, Hash: h, Length: w.Length, Context: w.Context}, ""
	})
	if err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, bad
	}
	out, err := s.keys.Derive(ctx, c.caller(), t, list, single)
	return c.results("derived_key", true, single, len(list), out, err)
}
