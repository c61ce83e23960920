package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/api/wire"
)

// keyPath is the path of a key, by id or name. A name may hold a slash, which is escaped.
func keyPath(key, rest string) (string, error) {
	if key == "" {
		return "", errors.New("client: no key is named")
	}
	return "/keys/" + url.PathEscape(key) + rest, nil
}

func onKey[T any](ctx context.Context, c *Client, method, key, rest string, query url.Values, body any, r repeat) (*T, error) {
	path, err := keyPath(key, rest)
	if err != nil {
		return nil, err
	}
	return do[T](ctx, c, call{method: method, path: path, query: query, body: body, repeat: r})
}

// CreateKey makes a key. Lost answers are asked for again under one Idempotency-Key, so that there is never a second key.
func (c *Client) CreateKey(ctx context.Context, r wire.CreateKey) (*wire.Key, error) {
	return do[wire.Key](ctx, c, call{method: http.MethodPost, path: "/keys", body: r, repeat: keyed})
}

// Key shows a key by id or name.
func (c *Client) Key(ctx context.Context, key string) (*wire.Key, error) {
	return onKey[wire.Key](ctx, c, http.MethodGet, key, "", nil, nil, idempotent)
}

// KeyFilter selects keys of a list; zero fields select all.
type KeyFilter struct {
	NamePrefix string
	Algorithm  string
	State      string
	Label      string // "name" or "name=value"
}

func (f KeyFilter) query() url.Values {
	q := make(url.Values)
	set(q, "name_prefix", f.NamePrefix)
	set(q, "algorithm", f.Algorithm)
	set(q, "state", f.State)
	set(q, "label", f.Label)
	return q
}

// KeysPage gives one page of the list, by name. Limit 0: the service's default.
func (c *Client) KeysPage(ctx context.Context, f KeyFilter, cursor string, limit int) (*wire.List[wire.Key], error) {
	return page[wire.Key](ctx, c, "/keys", f.query(), cursor, limit)
}

// Keys goes through all keys of the filter, by name, reading pages as it goes. After an error it ends.
func (c *Client) Keys(ctx context.Context, f KeyFilter) iter.Seq2[wire.Key, error] {
	return all(func(cursor string) (*wire.List[wire.Key], error) { return c.KeysPage(ctx, f, cursor, 1000) })
}

// UpdateKey renames, labels, changes policy and minimum versions. What is nil stays.
func (c *Client) UpdateKey(ctx context.Context, key string, r wire.UpdateKey) (*wire.Key, error) {
	return onKey[wire.Key](ctx, c, http.MethodPatch, key, "", nil, r, never)
}

// DeleteKey schedules the end of a key after 7 to 30 days (0: 30).
func (c *Client) DeleteKey(ctx context.Context, key string, days int) (*wire.Key, error) {
	return onKey[wire.Key](ctx, c, http.MethodDelete, key, "", nil, wire.DeleteKey{WaitingPeriodDays: days}, never)
}

// CancelDeletion takes a scheduled deletion back.
func (c *Client) CancelDeletion(ctx context.Context, key string) (*wire.Key, error) {
	return onKey[wire.Key](ctx, c, http.MethodPost, key, "/cancel-deletion", nil, nil, never)
}

// RotateKey makes a new version and makes it the primary one. Repeated under one Idempotency-Key.
func (c *Client) RotateKey(ctx context.Context, key string) (*wire.Key, error) {
	return onKey[wire.Key](ctx, c, http.MethodPost, key, "/rotate", nil, nil, keyed)
}

// KeyVersionsPage gives one page of a key's versions, by number.
func (c *Client) KeyVersionsPage(ctx context.Context, key, cursor string, limit int) (*wire.List[wire.KeyVersion], error) {
	path, err := keyPath(key, "/versions")
	if err != nil {
		return nil, err
	}
	return page[wire.KeyVersion](ctx, c, path, nil, cursor, limit)
}

// KeyVersions goes through all versions of a key.
func (c *Client) KeyVersions(ctx context.Context, key string) iter.Seq2[wire.KeyVersion, error] {
	return all(func(cursor string) (*wire.List[wire.KeyVersion], error) {
		return c.KeyVersionsPage(ctx, key, cursor, 1000)
	})
}

// SetVersionState changes the state of a version by the transition table.
func (c *Client) SetVersionState(ctx context.Context, key string, version uint32, state string) (*wire.KeyVersion, error) {
	return onKey[wire.KeyVersion](ctx, c, http.MethodPost, key, "/versions/"+strconv.FormatUint(uint64(version), 10)+"/state", nil, wire.SetState{State: state}, never)
}

// PublicKey gives the public part of a version (0: the primary) as "pem" or "raw", with the additional fields of include.
func (c *Client) PublicKey(ctx context.Context, key string, version uint32, format string, include ...string) (*wire.PublicKey, error) {
	if format == "jwk" {
		return nil, errors.New("client: PublicJWK gives the JWK")
	}
	q := publicQuery(version, format)
	for _, f := range include {
		q.Add("include", f)
	}
	return onKey[wire.PublicKey](ctx, c, http.MethodGet, key, "/public", q, nil, idempotent)
}

// PublicJWK gives the public part of a version (0: the primary) as a JWK (RFC 7517), as the service wrote it.
func (c *Client) PublicJWK(ctx context.Context, key string, version uint32) (jsontext.Value, error) {
	path, err := keyPath(key, "/public")
	if err != nil {
		return nil, err
	}
	v, err := do[jsontext.Value](ctx, c, call{method: http.MethodGet, path: path, query: publicQuery(version, "jwk"), repeat: idempotent, bare: true})
	if err != nil {
		return nil, err
	}
	return *v, nil
}

func publicQuery(version uint32, format string) url.Values {
	q := make(url.Values)
	set(q, "format", format)
	if version != 0 {
		q.Set("version", strconv.FormatUint(uint64(version), 10))
	}
	return q
}

// ImportParameters gives a public key to wrap material to, and the token that names it. Backend "": the default one.
func (c *Client) ImportParameters(ctx context.Context, backend string) (*wire.ImportParameters, error) {
	q := make(url.Values)
	set(q, "backend", backend)
	return do[wire.ImportParameters](ctx, c, call{method: http.MethodGet, path: "/keys/import-parameters", query: q, repeat: idempotent})
}

// ImportKey brings material that was wrapped by the import parameters, or a public key. Repeated under one Idempotency-Key.
func (c *Client) ImportKey(ctx context.Context, r wire.ImportKey) (*wire.Key, error) {
	return do[wire.Key](ctx, c, call{method: http.MethodPost, path: "/keys/import", body: r, repeat: keyed})
}

// ExportKey gives a version's material wrapped to a key that the caller names. Only where the policy allows it.
func (c *Client) ExportKey(ctx context.Context, key string, r wire.ExportKey) (*wire.ExportedKey, error) {
	return onKey[wire.ExportedKey](ctx, c, http.MethodPost, key, "/export", nil, r, never)
}
