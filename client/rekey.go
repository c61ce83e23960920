package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"

	"github.com/keywright/keywright/api/wire"
)

// Root gives the generation of the root, and what hangs on earlier ones.
func (c *Client) Root(ctx context.Context) (*wire.Root, error) {
	return do[wire.Root](ctx, c, call{method: http.MethodGet, path: "/root"})
}

// RotateRoot replaces the root and all its slots. New shares are shown in this answer only, so that it is never repeated by itself.
func (c *Client) RotateRoot(ctx context.Context, r wire.RotateRoot) (*wire.RotatedRoot, error) {
	return do[wire.RotatedRoot](ctx, c, call{method: http.MethodPost, path: "/root/rotate", body: r, repeat: never})
}

// RetireRoot gives up the earlier roots, and lose key versions with them.
func (c *Client) RetireRoot(ctx context.Context, lose int64) error {
	_, err := do[wire.Empty](ctx, c, call{method: http.MethodPost, path: "/root/retire", body: wire.RetireRoot{Lose: lose}, repeat: never})
	return err
}

// Reseal begins a job that seals anew what is under a key that was replaced: of a backend, or "" of all.
func (c *Client) Reseal(ctx context.Context, backend string) (*wire.Job, error) {
	return do[wire.Job](ctx, c, call{method: http.MethodPost, path: "/keys/reseal", body: wire.Reseal{Backend: backend}, repeat: never})
}

func backendPath(name, rest string) (string, error) {
	if name == "" {
		return "", errors.New("client: no backend is named")
	}
	return "/backends/" + url.PathEscape(name) + rest, nil
}

// KEKs lists the keys of a device over the keys of a backend.
func (c *Client) KEKs(ctx context.Context, backend string) iter.Seq2[wire.KEK, error] {
	return all(func(cursor string) (*wire.List[wire.KEK], error) {
		path, err := backendPath(backend, "/keks")
		if err != nil {
			return nil, err
		}
		return page[wire.KEK](ctx, c, path, nil, cursor, 0)
	})
}

// RotateKEK makes the next key over keys on a device.
func (c *Client) RotateKEK(ctx context.Context, backend string) (*wire.RotatedKEK, error) {
	path, err := backendPath(backend, "/rotate-kek")
	if err != nil {
		return nil, err
	}
	return do[wire.RotatedKEK](ctx, c, call{method: http.MethodPost, path: path, repeat: never})
}

// RetireKEK destroys an earlier key over keys on a device.
func (c *Client) RetireKEK(ctx context.Context, backend string, generation uint32) error {
	path, err := backendPath(backend, "/retire-kek")
	if err != nil {
		return err
	}
	_, err = do[wire.Empty](ctx, c, call{method: http.MethodPost, path: path, body: wire.RetireKEK{Generation: generation}, repeat: never})
	return err
}
