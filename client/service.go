package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keywright/keywright/api/wire"
)

// Backends lists the backends that the node has open.
func (c *Client) Backends(ctx context.Context) iter.Seq2[wire.Backend, error] {
	return all(func(cursor string) (*wire.List[wire.Backend], error) {
		return page[wire.Backend](ctx, c, "/backends", nil, cursor, 0)
	})
}

// Backend shows what a backend can do, and how it is.
func (c *Client) Backend(ctx context.Context, name string) (*wire.Backend, error) {
	if name == "" {
		return nil, errors.New("client: no backend is named")
	}
	return do[wire.Backend](ctx, c, call{method: http.MethodGet, path: "/backends/" + url.PathEscape(name), repeat: idempotent})
}

// Nodes lists the nodes that run on the service's store, by name.
func (c *Client) Nodes(ctx context.Context) iter.Seq2[wire.Node, error] {
	return all(func(cursor string) (*wire.List[wire.Node], error) {
		return page[wire.Node](ctx, c, "/nodes", nil, cursor, 0)
	})
}

// CreateAPIKey makes an API key; the answer is the only time that its Key is shown. Repeated under one Idempotency-Key.
func (c *Client) CreateAPIKey(ctx context.Context, r wire.CreateAPIKey) (*wire.APIKey, error) {
	return do[wire.APIKey](ctx, c, call{method: http.MethodPost, path: "/api-keys", body: r, repeat: keyed})
}

// APIKeys goes through the tenant's API keys.
func (c *Client) APIKeys(ctx context.Context) iter.Seq2[wire.APIKey, error] {
	return all(func(cursor string) (*wire.List[wire.APIKey], error) {
		return page[wire.APIKey](ctx, c, "/api-keys", nil, cursor, 0)
	})
}

// APIKey shows an API key by id, without its secret.
func (c *Client) APIKey(ctx context.Context, id string) (*wire.APIKey, error) {
	if id == "" {
		return nil, errors.New("client: no API key is named")
	}
	return do[wire.APIKey](ctx, c, call{method: http.MethodGet, path: "/api-keys/" + url.PathEscape(id), repeat: idempotent})
}

// RotateAPIKey gives an API key a new secret, shown this once; the old one stays good for the overlap. Repeated under one Idempotency-Key.
func (c *Client) RotateAPIKey(ctx context.Context, id string, overlap time.Duration) (*wire.APIKey, error) {
	if id == "" {
		return nil, errors.New("client: no API key is named")
	}
	var r wire.RotateAPIKey
	if overlap != 0 {
		r.Overlap = overlap.String()
	}
	return do[wire.APIKey](ctx, c, call{method: http.MethodPost, path: "/api-keys/" + url.PathEscape(id) + "/rotate", body: r, repeat: keyed})
}

// RevokeAPIKey ends an API key at once, by id.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) (*wire.APIKey, error) {
	if id == "" {
		return nil, errors.New("client: no API key is named")
	}
	return do[wire.APIKey](ctx, c, call{method: http.MethodDelete, path: "/api-keys/" + url.PathEscape(id), repeat: idempotent})
}

// Me says who the service takes the caller for.
func (c *Client) Me(ctx context.Context) (*wire.Me, error) {
	return do[wire.Me](ctx, c, call{method: http.MethodGet, path: "/me", repeat: idempotent})
}

// AuditFilter selects entries; zero fields select all. From ≤ time < To.
type AuditFilter struct {
	Key       string // id or name
	Principal string
	Action    string
	Outcome   string
	From, To  time.Time
}

// AuditPage gives one page of entries, newest first. A page may be empty and still have a cursor: the service looks at a
// bounded number of entries a call.
func (c *Client) AuditPage(ctx context.Context, f AuditFilter, cursor string, limit int) (*wire.List[wire.AuditEntry], error) {
	q := make(url.Values)
	set(q, "key", f.Key)
	set(q, "principal", f.Principal)
	set(q, "action", f.Action)
	set(q, "outcome", f.Outcome)
	if !f.From.IsZero() {
		q.Set("from", f.From.UTC().Format(time.RFC3339Nano))
	}
	if !f.To.IsZero() {
		q.Set("to", f.To.UTC().Format(time.RFC3339Nano))
	}
	return page[wire.AuditEntry](ctx, c, "/audit", q, cursor, limit)
}

// Audit goes through the entries of the filter, newest first.
func (c *Client) Audit(ctx context.Context, f AuditFilter) iter.Seq2[wire.AuditEntry, error] {
	return all(func(cursor string) (*wire.List[wire.AuditEntry], error) { return c.AuditPage(ctx, f, cursor, 1000) })
}

// AuditCheckpoint gives a signed checkpoint of the log as it is now.
func (c *Client) AuditCheckpoint(ctx context.Context) (*wire.Checkpoint, error) {
	return do[wire.Checkpoint](ctx, c, call{method: http.MethodGet, path: "/audit/checkpoint", repeat: idempotent})
}

// AuditCosigned gives the newest checkpoint that witnesses have cosigned.
func (c *Client) AuditCosigned(ctx context.Context) (*wire.Checkpoint, error) {
	return do[wire.Checkpoint](ctx, c, call{method: http.MethodGet, path: "/audit/checkpoint", query: url.Values{"cosigned": {"true"}}, repeat: idempotent})
}

// AuditEntry gives an entry of the log. One that was pruned is the error ERR_AUDIT_ENTRY_PRUNED.
func (c *Client) AuditEntry(ctx context.Context, index uint64) (*wire.AuditEntry, error) {
	return do[wire.AuditEntry](ctx, c, call{method: http.MethodGet, path: "/audit/entries/" + strconv.FormatUint(index, 10), repeat: idempotent})
}

// AuditProof gives an entry with the proof that it is in the log (RFC 6962 section 2.1.1). Of one that was pruned there is no leaf.
func (c *Client) AuditProof(ctx context.Context, index uint64) (*wire.Proof, error) {
	return do[wire.Proof](ctx, c, call{method: http.MethodGet, path: "/audit/entries/" + strconv.FormatUint(index, 10) + "/proof", repeat: idempotent})
}

// AuditProofIn gives the same in the log of the first size entries, of which the caller has a checkpoint: none comes with it.
func (c *Client) AuditProofIn(ctx context.Context, index, size uint64) (*wire.Proof, error) {
	return do[wire.Proof](ctx, c, call{method: http.MethodGet, path: "/audit/entries/" + strconv.FormatUint(index, 10) + "/proof",
		query: url.Values{"size": {strconv.FormatUint(size, 10)}}, repeat: idempotent})
}

// AuditConsistency gives the proof that the log of the first from entries is the beginning of that of the newest checkpoint, which comes
// with it (RFC 6962 section 2.1.2).
func (c *Client) AuditConsistency(ctx context.Context, from uint64) (*wire.Consistency, error) {
	return do[wire.Consistency](ctx, c, call{method: http.MethodGet, path: "/audit/consistency", query: url.Values{"from": {strconv.FormatUint(from, 10)}}, repeat: idempotent})
}

// AuditExport writes the whole log with its checkpoint to w, in the form that `keywright audit verify` checks offline. It may
// take long, so only ctx bounds it, and it is not repeated: after an error w holds a part that does not verify.
func (c *Client) AuditExport(ctx context.Context, w io.Writer) error {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: "/audit/export"}, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConnection, err)
		}
		return failure(resp, answer)
	}
	if _, err := io.Copy(w, lost{resp.Body}); err != nil {
		return fmt.Errorf("client: exporting the audit log: %w", err)
	}
	return nil
}

// Backup makes a backup of the whole deployment and writes it to w as it comes. It may take long, so only ctx bounds it, and it is not repeated: after
// an error w holds a part that does not verify.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	resp, err := c.open(ctx, call{method: http.MethodPost, path: "/backup"}, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConnection, err)
		}
		return failure(resp, answer)
	}
	if _, err := io.Copy(w, lost{resp.Body}); err != nil {
		return fmt.Errorf("client: taking the backup: %w", err)
	}
	return nil
}

// lost marks the errors of reading as those of the connection, so that they differ from those of writing.
type lost struct{ r io.Reader }

func (l lost) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrConnection, err)
	}
	return n, err
}

// Health says whether the process answers and whether it is locked: a locked service is no error here.
func (c *Client) Health(ctx context.Context) (*wire.Health, error) {
	return do[wire.Health](ctx, c, call{method: http.MethodGet, path: "/health"})
}

// Ready says whether an operation would be carried out now. The error says why not.
func (c *Client) Ready(ctx context.Context) (*wire.Health, error) {
	return do[wire.Health](ctx, c, call{method: http.MethodGet, path: "/ready"})
}

// Unlock brings what opens the root. It needs no API key: what it carries is a credential. Shares may come one call at a time.
func (c *Client) Unlock(ctx context.Context, r wire.Unlock) (*wire.Unlocked, error) {
	return do[wire.Unlocked](ctx, c, call{method: http.MethodPost, path: "/unlock", body: r, repeat: never})
}

// RootSlots lists the ways to open the root.
func (c *Client) RootSlots(ctx context.Context) iter.Seq2[wire.Slot, error] {
	return all(func(cursor string) (*wire.List[wire.Slot], error) {
		return page[wire.Slot](ctx, c, "/root/slots", nil, cursor, 0)
	})
}

// AddRootSlot adds a way to open the root. The shares of a Shamir slot are shown in this answer only, so that it is never
// repeated by itself.
func (c *Client) AddRootSlot(ctx context.Context, r wire.AddSlot) (*wire.AddedSlot, error) {
	return do[wire.AddedSlot](ctx, c, call{method: http.MethodPost, path: "/root/slots", body: r, repeat: never})
}

// RemoveRootSlot takes a way away. The last one stays.
func (c *Client) RemoveRootSlot(ctx context.Context, id string) error {
	if id == "" {
		return errors.New("client: no slot is named")
	}
	_, err := do[wire.Empty](ctx, c, call{method: http.MethodDelete, path: "/root/slots/" + url.PathEscape(id), repeat: never})
	return err
}
