package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
)

// includeTokens are the words of include=, in the order of the documentation; metadata and all stand for all the others.
func includeTokens() []string {
	return []string{"name", "description", "keyType", "isPostQuantum", "isActive", "isDefault", "isFavorite", "createdAt",
		"expiresAt", "lastRotatedAt", "labels", "state", "scheduledDeletionDate", "metadata", "all"}
}

// projection is the set of additional fields that a caller asked for.
type projection map[string]bool

func (c *call) projection() (projection, error) {
	known := includeTokens()
	p := make(projection)
	for _, t := range c.includes() {
		if !slices.Contains(known, t) {
			return nil, badQuery("include", "has a word that is not known")
		}
		p[t] = true
	}
	return p, nil
}

func (p projection) has(token string) bool { return p[token] || p["metadata"] || p["all"] }

// descriptionLabel is the label that is shown as a key's description.
const descriptionLabel = "description"

func (s *Server) publicKey(ctx context.Context, c *call, _ *wire.Empty) (wire.PublicKey, error) {
	var none wire.PublicKey
	name, err := c.param("key")
	if err != nil {
		return none, err
	}
	n, err := c.number("version", 1, math.MaxUint32, 0)
	if err != nil {
		return none, err
	}
	format := c.query.Get("format")
	switch format {
	case "":
		format = "pem"
	case "pem", "jwk", "raw":
	default:
		return none, badQuery("format", "must be pem, jwk or raw")
	}
	var include projection
	if format != "jwk" { // whose members RFC 7517 fixes
		if include, err = c.projection(); err != nil {
			return none, err
		}
	}
	k, err := s.keys.Get(ctx, c.caller(), name)
	if err != nil {
		return none, err
	}
	v, err := s.keys.Version(ctx, c.caller(), k.ID.String(), uint32(n))
	if err != nil {
		return none, err
	}
	if len(v.Public) == 0 {
		return none, fault.New(fault.OperationNotAllowed, "this key has no public part")
	}
	pub, err := keyenc.ParseSPKI(v.Public)
	if err != nil {
		return none, fmt.Errorf("stored public key: %w", err)
	}
	out := wire.PublicKey{ID: k.ID.String(), Algorithm: string(k.Algorithm), KeyVersion: v.Version, Format: format}
	switch format {
	case "jwk":
		text, err := jwk(k, v)
		if err != nil {
			return none, err
		}
		c.answer.raw, c.answer.contentType = text, "application/jwk+json"
		return none, nil
	case "raw":
		raw, err := keyenc.MarshalRaw(pub)
		if err != nil {
			return none, fmt.Errorf("encoding public key: %w", err)
		}
		out.PublicKey = base64.StdEncoding.EncodeToString(raw)
	case "pem":
		text, err := keyenc.MarshalPublicPEM(pub)
		if err != nil {
			return none, fmt.Errorf("encoding public key: %w", err)
		}
		out.PublicKey = string(text)
	}
	s.include(&out, k, v, include)
	if include.has("isDefault") {
		is, err := s.keys.IsDefault(ctx, k)
		if err != nil {
			return none, err
		}
		out.IsDefault = &is
	}
	return out, nil
}

// jwk gives the bare JWK of a version. Its kid names key and version, so that those of one key can stand in one set.
func jwk(k *keys.Key, v *keys.Version) ([]byte, error) {
	pub, err := keyenc.ParseSPKI(v.Public)
	if err != nil {
		return nil, fmt.Errorf("stored public key: %w", err)
	}
	j, err := keyenc.PublicJWK(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	j.KeyID = k.ID.String() + "." + strconv.FormatUint(uint64(v.Version), 10)
	switch k.Purpose {
	case backend.PurposeSigning:
		j.Use = "sig"
	case backend.PurposeEncryption, backend.PurposeAgreement, backend.PurposeEncapsulation:
		j.Use = "enc"
	}
	text, err := json.Marshal(j, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	return text, nil
}

// include adds what was asked for. isFavorite is a word that clients send: keys have no such property, so that it adds nothing.
func (s *Server) include(w *wire.PublicKey, k *keys.Key, v *keys.Version, p projection) {
	set := func(token string, dst **string, value string) {
		if p.has(token) {
			*dst = &value
		}
	}
	flag := func(token string, dst **bool, value bool) {
		if p.has(token) {
			*dst = &value
		}
	}
	when := func(token string, dst **time.Time, value time.Time) {
		if p.has(token) {
			*dst = optional(value)
		}
	}
	info, _ := backend.Lookup(k.Algorithm) // an algorithm that is not in the table is not post-quantum
	set("name", &w.Name, k.Name)
	set("description", &w.Description, k.Labels[descriptionLabel])
	set("keyType", &w.KeyType, string(k.Purpose))
	set("state", &w.State, shownState(v.State))
	flag("isPostQuantum", &w.IsPostQuantum, info.PostQuantum)
	flag("isActive", &w.IsActive, v.State == keys.StateActive)
	when("createdAt", &w.CreatedAt, v.CreatedAt)
	when("lastRotatedAt", &w.LastRotatedAt, rotatedAt(k))
	when("expiresAt", &w.ExpiresAt, k.Policy.ExpiresAt)
	when("scheduledDeletionDate", &w.ScheduledAt, k.DeletionAt)
	if p.has("labels") {
		w.Labels = k.Labels
	}
}
