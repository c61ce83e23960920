package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/wire"
)

// EventFilter selects events; zero fields select all.
type EventFilter struct {
	Since *uint64  // the id of the last event that is known; nil: what comes from now on
	Types []string // a type, or what it begins with and a star: "key.*"
	Key   string   // id or name
	Label string   // "name" or "name=value", of the key
}

const (
	maxEvent    = 256 << 10        // bytes of a line of a stream
	eventSilent = 45 * time.Second // the service gives a sign of life every 15 s
	longestGap  = 5 * time.Second  // between two tries to come back
)

// Events gives the tenant's changes as they come, each once, until ctx ends. When the connection is lost it comes back and goes on behind what
// it has given, as long as the service refuses nothing; the error of a first try that fails is given at once. ERR_EVENTS_GONE says that too
// much time has passed since the event with the id Since: what came after it stands in the audit log.
func (c *Client) Events(ctx context.Context, f EventFilter) iter.Seq2[wire.Event, error] {
	return func(yield func(wire.Event, error) bool) {
		s := eventStream{c: c, filter: f, last: f.Since}
		for failures, ever := 0, false; ; {
			before := s.opened
			more, err := s.follow(ctx, yield)
			if !more {
				return
			}
			if ctx.Err() != nil {
				yield(wire.Event{}, ctx.Err())
				return
			}
			if s.opened > before {
				ever, failures = true, 0
			}
			var e *Error
			busy := errors.As(err, &e) && (e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests)
			if err != nil && (!ever || e != nil && !busy) {
				yield(wire.Event{}, err)
				return
			}
			wait := min(firstWait<<min(failures, 8), longestGap)
			wait = wait/2 + time.Duration(randomBelow(int64(wait/2)))
			if busy {
				wait = max(wait, min(e.RetryAfter, maxWait))
			}
			failures++
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				yield(wire.Event{}, ctx.Err())
				return
			case <-t.C:
			}
		}
	}
}

// eventStream is one sequence over as many connections as it takes.
type eventStream struct {
	c      *Client
	filter EventFilter
	last   *uint64 // id behind which to go on
	opened int     // connections that the service took
}

// follow reads one connection to its end. more is false when the caller wants no more.
func (s *eventStream) follow(ctx context.Context, yield func(wire.Event, error) bool) (more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(eventSilent, cancel)
	defer silent.Stop()
	q := make(url.Values)
	set(q, "types", strings.Join(s.filter.Types, ","))
	set(q, "key", s.filter.Key)
	set(q, "label", s.filter.Label)
	header := make(http.Header)
	if s.last != nil {
		header.Set("Last-Event-ID", strconv.FormatUint(*s.last, 10))
	}
	resp, err := s.c.open(ctx, call{method: http.MethodGet, path: "/events", query: q}, header, nil)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
		if err != nil {
			return true, fmt.Errorf("%w: %w", ErrConnection, err)
		}
		return true, failure(resp, answer)
	}
	s.opened++
	p := eventParser{in: bufio.NewReaderSize(resp.Body, 4<<10), heard: func() { silent.Reset(eventSilent) }}
	for {
		b, err := p.next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return true, err
		}
		if b.data != nil {
			var e wire.Event
			if err := json.Unmarshal(b.data, &e); err != nil {
				yield(wire.Event{}, fmt.Errorf("%w: %w", ErrResponse, err))
				return false, nil
			}
			if !yield(e, nil) {
				return false, nil
			}
		}
		if b.id != nil {
			s.last = b.id
		}
	}
}

// block is what stands between two empty lines of a stream: an event, or an id alone.
type block struct {
	id   *uint64
	data []byte
}

// eventParser reads server-sent events (HTML Living Standard section 9.2.6), as far as this service sends them: one line of data, an id that is
// a number.
type eventParser struct {
	in    *bufio.Reader
	heard func()
	line  []byte
}

func (p *eventParser) next() (block, error) {
	var b block
	for {
		line, err := p.read()
		if err != nil {
			return block{}, err // a block that was cut is none
		}
		if len(line) == 0 {
			if b.id == nil && b.data == nil {
				continue
			}
			return b, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil {
				return block{}, fmt.Errorf("%w: an event without a proper id", ErrResponse)
			}
			b.id = &n
		case "data":
			if b.data != nil {
				return block{}, fmt.Errorf("%w: an event of several lines", ErrResponse)
			}
			b.data = bytes.Clone(value)
		}
	}
}

// read gives a line without its end, valid until the next call.
func (p *eventParser) read() ([]byte, error) {
	p.line = p.line[:0]
	for {
		part, err := p.in.ReadSlice('\n')
		p.heard()
		p.line = append(p.line, part...)
		if len(p.line) > maxEvent {
			return nil, fmt.Errorf("%w: a line of an event stream is too long", ErrResponse)
		}
		switch {
		case err == nil:
			return bytes.TrimSuffix(p.line[:len(p.line)-1], []byte("\r")), nil
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("%w: %w", ErrConnection, err)
		}
	}
}

// AddWebhook names a receiver of events. The answer is the only time that its Secret is shown, so it is never repeated by itself.
func (c *Client) AddWebhook(ctx context.Context, r wire.CreateWebhook) (*wire.Webhook, error) {
	return do[wire.Webhook](ctx, c, call{method: http.MethodPost, path: "/webhooks", body: r, repeat: never})
}

// Webhooks goes through the tenant's webhooks.
func (c *Client) Webhooks(ctx context.Context) iter.Seq2[wire.Webhook, error] {
	return all(func(cursor string) (*wire.List[wire.Webhook], error) {
		return page[wire.Webhook](ctx, c, "/webhooks", nil, cursor, 0)
	})
}

// Webhook shows a webhook, and how its deliveries go.
func (c *Client) Webhook(ctx context.Context, id string) (*wire.Webhook, error) {
	return onWebhook[wire.Webhook](ctx, c, http.MethodGet, id, "", nil, idempotent)
}

// RemoveWebhook ends a webhook for good.
func (c *Client) RemoveWebhook(ctx context.Context, id string) error {
	_, err := onWebhook[wire.Empty](ctx, c, http.MethodDelete, id, "", nil, never)
	return err
}

// TestWebhook sends a ping and says what became of it: a receiver that does not take it is no error.
func (c *Client) TestWebhook(ctx context.Context, id string) (*wire.WebhookTest, error) {
	return onWebhook[wire.WebhookTest](ctx, c, http.MethodPost, id, "/test", nil, never)
}

// EnableWebhook goes on with deliveries where they stopped.
func (c *Client) EnableWebhook(ctx context.Context, id string) (*wire.Webhook, error) {
	return onWebhook[wire.Webhook](ctx, c, http.MethodPost, id, "/enable", nil, idempotent)
}

// DisableWebhook stops deliveries. What comes meanwhile is delivered once it is enabled again.
func (c *Client) DisableWebhook(ctx context.Context, id string) (*wire.Webhook, error) {
	return onWebhook[wire.Webhook](ctx, c, http.MethodPost, id, "/disable", nil, idempotent)
}

// RotateWebhookSecret gives a webhook a new secret, shown in this answer only. For so many hours (nil: 24) calls are signed with the one before
// as well.
func (c *Client) RotateWebhookSecret(ctx context.Context, id string, overlapHours *int) (*wire.Webhook, error) {
	return onWebhook[wire.Webhook](ctx, c, http.MethodPost, id, "/rotate-secret", wire.RotateWebhookSecret{OverlapHours: overlapHours}, never)
}

func onWebhook[T any](ctx context.Context, c *Client, method, id, below string, body any, r repeat) (*T, error) {
	if id == "" {
		return nil, errors.New("client: no webhook is named")
	}
	return do[T](ctx, c, call{method: method, path: "/webhooks/" + url.PathEscape(id) + below, body: body, repeat: r})
}
