package client

import (
	"context"
	"iter"
	"net/http"

	"github.com/keywright/keywright/api/wire"
)

// InventoryPage reads one page of the keys of the filter with their readiness for quantum computers.
func (c *Client) InventoryPage(ctx context.Context, f KeyFilter, cursor string, limit int) (*wire.List[wire.InventoryKey], error) {
	return page[wire.InventoryKey](ctx, c, "/keys/inventory", f.query(), cursor, limit)
}

// Inventory goes through all keys of the filter, by name, reading pages as it goes. After an error it ends.
func (c *Client) Inventory(ctx context.Context, f KeyFilter) iter.Seq2[wire.InventoryKey, error] {
	return all(func(cursor string) (*wire.List[wire.InventoryKey], error) {
		return c.InventoryPage(ctx, f, cursor, 1000)
	})
}

// KeySettings gives what the tenant has settled for new keys.
func (c *Client) KeySettings(ctx context.Context) (*wire.KeySettings, error) {
	return do[wire.KeySettings](ctx, c, call{method: http.MethodGet, path: "/settings/keys", repeat: idempotent})
}

// SetKeySettings settles it. Existing keys stay as they are.
func (c *Client) SetKeySettings(ctx context.Context, s wire.KeySettings) (*wire.KeySettings, error) {
	return do[wire.KeySettings](ctx, c, call{method: http.MethodPut, path: "/settings/keys", body: s, repeat: idempotent})
}
