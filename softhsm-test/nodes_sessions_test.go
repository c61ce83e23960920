package softhsmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// ownPeer is for the configuration of nodes: the user of the test administers the default tenant, on the socket of each.
func ownPeer() string {
	return fmt.Sprintf("credentials: {peers: [{uid: %d, role: admin}]}\n", os.Getuid())
}

// inSession is what a session is presented by.
type inSession struct{ id, cookie, csrf string }

// RoundTrip puts it in the place of the API key.
func (x *inSession) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	r.Header.Set("Cookie", x.cookie)
	r.Header.Set("X-CSRF-Token", x.csrf)
	return http.DefaultTransport.RoundTrip(r)
}

// signIn opens a session as the user of a node's socket.
func (c *nodesOn) signIn(t *testing.T, node int) *inSession {
	t.Helper()
	local := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.socket(node))
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://local/api/v1/session", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := local.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	var made struct {
		Data struct {
			ID        string
			CSRFToken string `json:"csrf_token"`
		}
	}
	if err := json.Unmarshal(b.Bytes(), &made); err != nil || resp.StatusCode != http.StatusCreated || len(resp.Cookies()) != 1 {
		t.Fatalf("%d %s, %v", resp.StatusCode, b.Bytes(), err)
	}
	cookie, _, _ := strings.Cut(resp.Header.Get("Set-Cookie"), ";")
	return &inSession{made.Data.ID, cookie, made.Data.CSRFToken}
}

// sessionEnded: a session works on all nodes, and when it is ended on one, by its holder or by another, on none.
func (c *nodesOn) sessionEnded(t *testing.T) {
	for name, end := range map[string]func(x *inSession){
		"ByItsHolder": func(x *inSession) { c.within(c.all[1], x).must(200, "DELETE", "/session", nil) },
		"ByAnother":   func(x *inSession) { c.all[2].must(200, "DELETE", "/sessions/"+x.id, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			x := c.signIn(t, 0)
			c.stopsWithin(t, func(s *service) (answer, error) { return encryptWith("shared")(c.within(s, x)) },
				func(a answer) bool { return a.status == 401 }, func() { end(x) })
		})
	}
}

// within is a node as somebody in a session uses it.
func (c *nodesOn) within(s *service, x *inSession) *service {
	other := *s //nolint:govet // the copy is for its client alone
	other.http = &http.Client{Transport: x, Timeout: s.http.Timeout}
	return &other
}
