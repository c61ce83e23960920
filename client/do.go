package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/keywright/keywright/api/wire"
)

// repeat says what happens to a call whose answer did not arrive or was "not now".
type repeat int

const (
	never      repeat = iota // it may have been done: the caller decides
	idempotent               // reads, and operations that give the same answer and change nothing
	keyed                    // creating calls: made safe to repeat by an Idempotency-Key
)

// call is one request of the API.
type call struct {
	method string
	path   string // below /api/v1, escaped
	query  url.Values
	body   any // nil: none
	repeat repeat
	bare   bool // the answer is the value itself, without the envelope
}

type idempotencyKey struct{}

// WithIdempotencyKey sets the Idempotency-Key of the creating calls made with the context (1 to 255 visible ASCII
// characters), so that a caller that was itself restarted can repeat one. Without it each such call makes its own.
// Use a context for one call only: the key stands for one request.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey{}, key)
}

// do carries out a call and decodes the data of its answer.
func do[T any](ctx context.Context, c *Client, k call) (*T, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	answer, err := c.send(ctx, k)
	if err != nil {
		return nil, err
	}
	if k.bare {
		v := new(T)
		if err := json.Unmarshal(answer, v); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrResponse, err)
		}
		return v, nil
	}
	var r wire.Response[*T]
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResponse, err)
	}
	if r.Data == nil {
		return nil, fmt.Errorf("%w: no data", ErrResponse)
	}
	return r.Data, nil
}

// send makes the request, again where that is safe, and gives the body of the successful answer.
func (c *Client) send(ctx context.Context, k call) ([]byte, error) {
	var body []byte
	if k.body != nil {
		var err error
		// The wire types' omitempty is meant as encoding/json means it: a false or a zero is left out.
		if body, err = json.Marshal(k.body, jsonv1.OmitEmptyWithLegacySemantics(true)); err != nil {
			return nil, fmt.Errorf("client: encoding the request: %w", err)
		}
		defer clear(body) // it may hold a plaintext or a passphrase
	}
	header := make(http.Header)
	if id, _ := ctx.Value(approvalID{}).(string); id != "" {
		if !headerSafe(id) {
			return nil, errors.New("client: the id of an approval is malformed")
		}
		header.Set("X-Approval", id)
	}
	if k.repeat == keyed {
		key, given := ctx.Value(idempotencyKey{}).(string)
		if !given {
			key = rand.Text()
		}
		if key == "" || len(key) > 255 || !headerSafe(key) {
			return nil, errors.New("client: an idempotency key has 1 to 255 visible ASCII characters")
		}
		header.Set("Idempotency-Key", key)
	}
	var refused *Error // by the attempt before
	for attempt := 0; ; attempt++ {
		answer, err := c.once(ctx, k, header, body)
		if err == nil {
			return answer, nil
		}
		if refused != nil && k.repeat == keyed && HasCode(err, "ERR_CONFLICT") {
			return nil, refused // what was begun under the key has failed, and this says why
		}
		refused = nil
		errors.As(err, &refused)
		wait, again := c.again(k, attempt, err)
		if !again {
			return nil, err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return nil, err // the failure says more than "deadline exceeded" would
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, errors.Join(ctx.Err(), err)
		case <-t.C:
		}
	}
}

const (
	firstWait = 100 * time.Millisecond
	maxWait   = 30 * time.Second
)

// again decides whether to repeat a failed attempt, and after how long. The waits double and are jittered over their upper
// half, so that callers that failed together do not come back together.
func (c *Client) again(k call, attempt int, err error) (time.Duration, bool) {
	if k.repeat == never || attempt >= c.retries {
		return 0, false
	}
	wait := firstWait << min(attempt, 8)
	wait = min(wait/2+time.Duration(randomBelow(int64(wait/2))), maxWait)
	var e *Error
	switch {
	case errors.As(err, &e):
		// A locked service waits for a person: only its own Retry-After makes it worth waiting for.
		if e.Status != http.StatusServiceUnavailable || e.Code == "ERR_LOCKED" && e.RetryAfter == 0 {
			return 0, false
		}
		if e.RetryAfter > maxWait {
			return 0, false
		}
		return max(wait, e.RetryAfter), true
	case errors.Is(err, ErrConnection):
		return wait, !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
	}
	return 0, false
}

func randomBelow(n int64) int64 {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return int64(v>>1) % max(n, 1)
}

// once makes one attempt.
func (c *Client) once(ctx context.Context, k call, header http.Header, body []byte) ([]byte, error) {
	resp, err := c.open(ctx, k, header, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnection, err)
	}
	if len(answer) > maxResponse {
		return nil, fmt.Errorf("%w: it is too large", ErrResponse)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, failure(resp, answer)
	}
	return answer, nil
}

// open sends the request and gives the answer, whatever its status.
func (c *Client) open(ctx context.Context, k call, header http.Header, body []byte) (*http.Response, error) {
	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, reader)
	if err != nil {
		return nil, fmt.Errorf("client: making the request: %w", err)
	}
	for name, v := range header {
		req.Header[name] = v
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if c.session != nil {
		c.session.present(req)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnection, err)
	}
	return resp, nil
}

// failure makes the Error of an answer. What is not an error of the service (a proxy's page, say) gets the bare status:
// its text is nobody's to interpret.
func failure(resp *http.Response, answer []byte) *Error {
	e := &Error{Status: resp.StatusCode, RequestID: visible(resp.Header.Get("X-Request-ID"), 128), RetryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	var r wire.ErrorResponse
	if isJSON(resp) && json.Unmarshal(answer, &r, jsontext.AllowDuplicateNames(true)) == nil && r.Error.Code != "" {
		e.Code, e.Message = visible(r.Error.Code, 64), visible(r.Error.Message, 1024)
		if r.RequestID != "" {
			e.RequestID = visible(r.RequestID, 128)
		}
		return e
	}
	e.Message = http.StatusText(resp.StatusCode)
	if e.Message == "" {
		e.Message = "unexpected answer"
	}
	return e
}

func isJSON(resp *http.Response) bool {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && media == "application/json"
}

// visible bounds a text from outside and takes what could steer a terminal out of it.
func visible(s string, limit int) string {
	b := make([]rune, 0, min(len(s), limit))
	for _, r := range s {
		if len(b) == limit {
			break
		}
		if !strconv.IsPrint(r) {
			r = '?'
		}
		b = append(b, r)
	}
	return string(b)
}

// retryAfter reads both forms of RFC 9110 section 10.2.3; what is neither counts as absent.
func retryAfter(s string) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}
