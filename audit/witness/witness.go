// Package witness shows checkpoints of the audit log to witnesses over HTTP (C2SP tlog-witness) and brings their cosignatures.
//
// It trusts no answer: package audit verifies each cosignature under the witness's key. What goes out is what anybody may see of the
// log: its checkpoint and hashes.
package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/audit"
)

const (
	maxAnswer = 64 << 10 // bytes of an answer that are read
	maxProof  = 63       // hashes, by the protocol
	timeout   = 10 * time.Second
)

// Client speaks to one witness. It is safe for concurrent use. It implements audit.Witness.
type Client struct {
	key  string
	url  string
	http *http.Client
}

var _ audit.Witness = (*Client)(nil)

// New makes a client of the witness with the verifier key and the submission prefix, an http or https URL. transport is
// http.DefaultTransport when nil. Nothing is sent before AddCheckpoint.
func New(key, prefix string, transport http.RoundTripper) (*Client, error) {
	u, err := url.Parse(prefix)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, errors.New("witness: the submission prefix is not an http or https URL without query, fragment and user")
	}
	return &Client{key: key, url: strings.TrimSuffix(prefix, "/") + "/add-checkpoint", http: &http.Client{
		Transport: transport, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a witness does not redirect") },
	}}, nil
}

// VerifierKey is the witness's key in note form.
func (c *Client) VerifierKey() string { return c.key }

// AddCheckpoint is the protocol's add-checkpoint; see audit.Witness.
func (c *Client) AddCheckpoint(ctx context.Context, old uint64, proof [][32]byte, checkpoint []byte) (lines []byte, err error) {
	if len(proof) > maxProof {
		return nil, errors.New("the consistency proof is longer than the protocol allows")
	}
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, h := range proof {
		fmt.Fprintln(&body, base64.StdEncoding.EncodeToString(h[:]))
	}
	body.WriteByte('\n')
	body.Write(checkpoint)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, &body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the witness: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the witness: %w", err)
	}
	if len(answer) > maxAnswer {
		return nil, errors.New("the answer of the witness is too long")
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return answer, nil
	case http.StatusConflict:
		if size, ok := newest(resp.Header.Get("Content-Type"), answer); ok {
			return nil, &audit.WitnessSize{Size: size}
		}
		return nil, fmt.Errorf("%w: another of this name and size", audit.ErrContradicted)
	case http.StatusNotFound:
		return nil, errors.New("the witness does not know this log: give its operator the log's verifier key")
	case http.StatusForbidden:
		return nil, errors.New("the witness does not take the log's signature: it knows another verifier key")
	case http.StatusUnprocessableEntity:
		return nil, fmt.Errorf("%w: it does not go on from there", audit.ErrContradicted)
	}
	return nil, fmt.Errorf("the witness answered with status %d", resp.StatusCode)
}

// newest reads the size that a witness gives with 409.
func newest(contentType string, answer []byte) (uint64, bool) {
	line, ok := strings.CutSuffix(string(answer), "\n")
	if !ok || contentType != "text/x.tlog.size" {
		return 0, false
	}
	n, err := strconv.ParseUint(line, 10, 63)
	return n, err == nil && strconv.FormatUint(n, 10) == line
}
