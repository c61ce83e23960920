package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/keywright/keywright/api/wire"
)

func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

func page[T any](ctx context.Context, c *Client, path string, q url.Values, cursor string, limit int) (*wire.List[T], error) {
	if q == nil {
		q = make(url.Values)
	}
	set(q, "cursor", cursor)
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return do[wire.List[T]](ctx, c, call{method: http.MethodGet, path: path, query: q, repeat: idempotent})
}

// all goes through the pages. A cursor that stands still would loop forever: it is an error of the service.
func all[T any](next func(cursor string) (*wire.List[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			p, err := next(cursor)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, v := range p.Items {
				if !yield(v, nil) {
					return
				}
			}
			if p.NextCursor == "" {
				return
			}
			if p.NextCursor == cursor {
				var zero T
				yield(zero, fmt.Errorf("%w: the list's cursor does not move", ErrResponse))
				return
			}
			cursor = p.NextCursor
		}
	}
}
