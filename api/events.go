package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// eventMedia is the form of a stream: server-sent events (HTML Living Standard section 9.2).
const eventMedia = "text/event-stream"

// credentials is how often a stream asks whether its credential is still good.
const credentials = time.Second

var errNoEvents = fault.New(fault.Unavailable, "this node gives no events")

// streamEvents tells the tenant's changes until the client leaves, its credential ends, or the service stops.
func (s *Server) streamEvents(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	if s.events == nil {
		return wire.Empty{}, errNoEvents
	}
	after, err := c.lastEvent()
	if err != nil {
		return wire.Empty{}, err
	}
	filter, err := s.eventFilter(ctx, c)
	if err != nil {
		return wire.Empty{}, err
	}
	stream, err := s.events.Open(ctx, c.principal.Tenant, after, filter)
	if err != nil {
		return wire.Empty{}, err
	}
	c.answer.stream = func(http.ResponseWriter) error {
		defer stream.Close()
		s.tell(ctx, c, stream)
		return nil // how a stream ends says nothing: its client goes on behind the last id that it has
	}
	return wire.Empty{}, nil
}

// lastEvent gives the id of the last event that the client has: what it sends by itself when it comes back stands above the address that it
// began with.
func (c *call) lastEvent() (*uint64, error) {
	if v, ok := c.gin.Request.Header["Last-Event-Id"]; ok {
		if n, good := events.ParseID(v[0]); good && len(v) == 1 {
			return &n, nil
		}
		return nil, fault.New(fault.BadField, "the header Last-Event-ID must be the id of an event")
	}
	v, ok := c.query["since"]
	if !ok {
		return nil, nil
	}
	n, good := events.ParseID(v[0])
	if !good {
		return nil, badQuery("since", "must be the id of an event")
	}
	return &n, nil
}

func (s *Server) eventFilter(ctx context.Context, c *call) (events.Filter, error) {
	f := events.Filter{Label: c.query.Get("label")}
	if types := c.query.Get("types"); types != "" {
		f.Types = strings.Split(types, ",")
	}
	id, err := s.keyID(ctx, c, c.query.Get("key"))
	if err != nil {
		return f, err
	}
	if id != nil {
		f.Keys = []uuid.UUID{*id}
	}
	return f, nil
}

// tell writes the stream.
func (s *Server) tell(ctx context.Context, c *call, stream *events.Stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.events.Over():
			cancel()
		case <-ctx.Done():
		}
	}()
	out := newTeller(c.gin.Writer, s.limits.EventStall)
	h := c.gin.Writer.Header()
	h["Content-Type"] = []string{eventMedia}
	h["X-Accel-Buffering"] = []string{"no"} // a proxy of nginx would hold events back
	last, known := stream.Position()
	b := append(c.out.AvailableBuffer(), "retry: 1000\n"...)
	if err := out.write(appendPosition(b, last, known)); err != nil {
		return
	}
	said, checked := time.Now(), time.Now()
	for {
		wait := min(time.Until(said.Add(s.limits.EventBeat)), time.Until(checked.Add(credentials)))
		list, last, known, err := stream.Next(ctx, max(wait, 0))
		if err != nil {
			if ctx.Err() == nil {
				s.log.Debug("an event stream ends", "request_id", c.id, "error", err)
			}
			return
		}
		// Before anything is told: what a credential may not know any more, it is not told.
		if time.Since(checked) >= credentials {
			if !s.still(ctx, c) {
				return
			}
			checked = time.Now()
		}
		b = b[:0]
		told := 0
		for _, e := range list {
			if ok, err := s.keys.Told(ctx, keys.Caller{Principal: c.principal, RequestID: c.id}, keys.Happened{Action: e.Action, Principal: e.Principal, Key: e.Key}); err != nil {
				s.log.Debug("an event stream ends", "request_id", c.id, "error", err)
				return // its client goes on where it was
			} else if !ok {
				continue
			}
			told++
			b = append(b, "id: "...)
			b = strconv.AppendUint(b, e.Index, 10)
			b = append(b, "\nevent: "...)
			b = append(b, e.Type...)
			b = append(b, "\ndata: "...)
			b = append(b, e.JSON...) // one line: JSON escapes line ends
			b = append(b, "\n\n"...)
		}
		if told == 0 {
			if time.Since(said) < s.limits.EventBeat {
				continue
			}
			b = appendPosition(append(b, ": nothing new\n"...), last, known)
		}
		if err := out.write(b); err != nil {
			s.log.Debug("an event stream is not read", "request_id", c.id, "error", err)
			return
		}
		said = time.Now()
	}
}

// appendPosition ends a block without data: it is no event to a client, but sets the id behind which it goes on.
func appendPosition(b []byte, last uint64, known bool) []byte {
	if known {
		b = append(b, "id: "...)
		b = strconv.AppendUint(b, last, 10)
		b = append(b, '\n')
	}
	return append(b, '\n')
}

// still reports whether the credential of a stream is as good as when it began. What cannot be said ends the stream too.
func (s *Server) still(ctx context.Context, c *call) bool {
	if s.root.Locked() {
		return false
	}
	c.watching = true
	p, _, _, err := c.identify(ctx)
	if err != nil || p.Tenant != c.principal.Tenant {
		return false
	}
	d := c.route.permits(p, time.Now())
	return d.Allowed
}

// teller writes to a client who must take each write in time, and sends it on at once.
type teller struct {
	w     gin.ResponseWriter
	rc    *http.ResponseController
	stall time.Duration
}

func newTeller(w gin.ResponseWriter, stall time.Duration) *teller {
	// Past gin, whose Flush says nothing of a failure.
	inner := http.ResponseWriter(w)
	if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		inner = u.Unwrap()
	}
	return &teller{w: w, rc: http.NewResponseController(inner), stall: stall}
}

func (t *teller) write(b []byte) error {
	if err := t.rc.SetWriteDeadline(time.Now().Add(t.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := t.w.Write(b); err != nil {
		return err
	}
	if err := t.rc.Flush(); err != nil {
		return err
	}
	// None between two writes: HTTP/2 would take one that passes for a stream that hangs.
	if err := t.rc.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// eventRows are the routes of events and webhooks.
func (s *Server) eventRows() []route {
	const ar, sw = auth.ScopeAuditRead, auth.ScopeSettingsWrite
	const tag = "events"
	stream := read("/events", ar, tag, "The tenant's changes as they come, as server-sent events", media(eventMedia, handle(s.streamEvents)),
		param{"since", "integer", "the id of the last event that is known; what comes from now on when absent. The header Last-Event-ID stands above it"},
		param{"types", "string", "types of events, separated by commas; key.* is all that begin so"},
		param{"key", "string", "a key's name or id"},
		param{"label", "string", "name, or name=value: of the key"})
	stream.Timeout = 0
	add := write(http.MethodPost, "/webhooks", sw, tag, "Name a receiver of events; its secret is shown this once", handle(s.addWebhook))
	add.Status = http.StatusCreated
	remove := write(http.MethodDelete, "/webhooks/{id}", sw, tag, "Remove a webhook", handle(s.removeWebhook))
	remove.BodyLimit = 0
	return []route{
		stream,
		add,
		read("/webhooks", sw, tag, "List webhooks, with how their deliveries go", handle(s.listWebhooks), page()...),
		read("/webhooks/{id}", sw, tag, "Show a webhook, with how its deliveries go", handle(s.showWebhook)),
		remove,
		act("/webhooks/{id}/test", sw, tag, "Send a ping now, once", handle(s.testWebhook)),
		act("/webhooks/{id}/enable", sw, tag, "Go on with deliveries where they stopped", handle(s.enableWebhook)),
		act("/webhooks/{id}/disable", sw, tag, "Stop deliveries", handle(s.disableWebhook)),
		act("/webhooks/{id}/rotate-secret", sw, tag, "Make a new secret; the one before signs as well for some time", handle(s.rotateWebhookSecret)),
	}
}
