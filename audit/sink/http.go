package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/audit"
)

// receiver is a place: batches of lines by POST. A batch is repeated until the answer is 2xx; its receiver knows a repeated one by the index.
type receiver struct {
	remote
	url, tokenFile string
	http           *http.Client
	body           bytes.Buffer
}

// Headers of a batch: the index of its first entry, and how many there are.
const (
	HeaderFirst = "Keywright-Audit-First"
	HeaderCount = "Keywright-Audit-Count"
)

// callTime bounds one batch, to the end of its answer.
const callTime = 30 * time.Second

// NewHTTP hands on to an HTTP receiver: application/x-ndjson, up to 500 lines and 512 KiB a batch. tokenFile, when not empty, holds a bearer token in its
// first line and is read for each batch. Plain HTTP is for loopback only. Redirects are not followed.
func NewHTTP(name, target, tokenFile string, config *tls.Config, o Options) (*Sink, error) {
	u, err := url.Parse(target)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("the address of an HTTP sink is https://HOST[:PORT]/PATH")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	inside := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !inside) {
		return nil, errors.New("an HTTP sink is reached by https://; http:// is for loopback only")
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if config != nil {
		t.RootCAs = config.RootCAs
	}
	p := &receiver{remote: remote{name, o.Cursors}, url: target, tokenFile: tokenFile, http: &http.Client{
		Timeout:       callTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{TLSClientConfig: t, TLSHandshakeTimeout: dialTime, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 16 << 10, IdleConnTimeout: time.Minute},
	}}
	return &Sink{name: name, place: p, o: o}, nil
}

func (p *receiver) write(ctx context.Context, entries []audit.Stored) error {
	p.body.Reset()
	for _, e := range entries {
		p.body.Write(e.Leaf)
		p.body.WriteByte('\n')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body.Bytes()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set(HeaderFirst, strconv.FormatUint(entries[0].Index, 10))
	req.Header.Set(HeaderCount, strconv.Itoa(len(entries)))
	if p.tokenFile != "" {
		b, err := os.ReadFile(p.tokenFile)
		if err != nil {
			return fmt.Errorf("reading the token: %w", err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(line))
		clear(b)
	}
	resp, err := p.http.Do(req)
	var whole *url.Error
	if errors.As(err, &whole) {
		return whole.Err // without the address, whose query may be a token
	}
	if err != nil {
		return err
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
		_ = resp.Body.Close()                         // the status is there
	}()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the receiver answers %d", resp.StatusCode)
	}
	return nil
}

func (p *receiver) end() { p.http.CloseIdleConnections() }
