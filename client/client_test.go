package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/api/wire"
)

// request is what a server saw.
type request struct {
	Method, Path, Query, Body, Key string
}

// recorder answers every request with the same data, and keeps what it saw.
type recorder struct {
	got    []request
	header []http.Header
}

func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	c, err := New(Options{Address: s.URL, Key: "kw_abc_secret", Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (r *recorder) handler(t *testing.T, data string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		r.got = append(r.got, request{q.Method, q.URL.EscapedPath(), q.URL.RawQuery, string(b), q.Header.Get("Idempotency-Key")})
		r.header = append(r.header, q.Header.Clone())
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"data":%s,"request_id":"r","timestamp":"2026-01-02T03:04:05Z","new_in_a_later_version":1}`, data)
	}
}

// TestRoutes calls every method and looks at what goes out.
func TestRoutes(t *testing.T) {
	yes, name := true, "n"
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tc := range []struct {
		name string
		data string
		call func(context.Context, *Client) error
		want request
	}{
		{"create", `{"id":"i"}`, func(ctx context.Context, c *Client) error {
			_, err := c.CreateKey(ctx, wire.CreateKey{Name: "a", Algorithm: "AES-256-GCM"})
			return err
		}, request{"POST", "/api/v1/keys", "", `{"name":"a","algorithm":"AES-256-GCM"}`, "*"}},
		{"show", `{"id":"i"}`, func(ctx context.Context, c *Client) error { _, err := c.Key(ctx, "a/b+c"); return err },
			request{"GET", "/api/v1/keys/a%2Fb+c", "", "", ""}},
		{"list", `{"items":[],"next_cursor":""}`, func(ctx context.Context, c *Client) error {
			_, err := c.KeysPage(ctx, KeyFilter{NamePrefix: "a&b", Algorithm: "x", State: "active", Label: "n=v"}, "cur", 5)
			return err
		}, request{"GET", "/api/v1/keys", "algorithm=x&cursor=cur&label=n%3Dv&limit=5&name_prefix=a%26b&state=active", "", ""}},
		{"update", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.UpdateKey(ctx, "k", wire.UpdateKey{Name: &name, Default: &yes, Labels: map[string]*string{"gone": nil}})
			return err
		}, request{"PATCH", "/api/v1/keys/k", "", `{"name":"n","labels":{"gone":null},"default":true}`, ""}},
		{"delete", `{}`, func(ctx context.Context, c *Client) error { _, err := c.DeleteKey(ctx, "k", 9); return err },
			request{"DELETE", "/api/v1/keys/k", "", `{"waiting_period_days":9}`, ""}},
		{"cancel", `{}`, func(ctx context.Context, c *Client) error { _, err := c.CancelDeletion(ctx, "k"); return err },
			request{"POST", "/api/v1/keys/k/cancel-deletion", "", "", ""}},
		{"rotate", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.RotateKey(WithIdempotencyKey(ctx, "mine"), "k")
			return err
		}, request{"POST", "/api/v1/keys/k/rotate", "", "", "mine"}},
		{"versions", `{"items":[],"next_cursor":""}`, func(ctx context.Context, c *Client) error { _, err := c.KeyVersionsPage(ctx, "k", "", 0); return err },
			request{"GET", "/api/v1/keys/k/versions", "", "", ""}},
		{"state", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.SetVersionState(ctx, "k", 3, "active")
			return err
		},
			request{"POST", "/api/v1/keys/k/versions/3/state", "", `{"state":"active"}`, ""}},
		{"public", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.PublicKey(ctx, "k", 2, "pem", "name", "labels")
			return err
		},
			request{"GET", "/api/v1/keys/k/public", "format=pem&include=name&include=labels&version=2", "", ""}},
		{"move", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.MoveKey(ctx, "a/b", wire.MoveKey{Backend: "hsm", Mode: "new-version"})
			return err
		}, request{"POST", "/api/v1/keys/a%2Fb/move", "", `{"backend":"hsm","mode":"new-version"}`, "*"}},
		{"move many", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.MoveKeys(ctx, wire.MoveKeys{MoveKey: wire.MoveKey{Backend: "hsm", AllowWeaker: true}, Label: "a=b"})
			return err
		}, request{"POST", "/api/v1/keys/move", "", `{"backend":"hsm","allow_weaker":true,"label":"a=b"}`, "*"}},
		{"jobs", `{"items":[],"next_cursor":""}`, func(ctx context.Context, c *Client) error {
			_, err := c.JobsPage(ctx, JobFilter{Kind: "move", State: "done"}, "cur", 5)
			return err
		}, request{"GET", "/api/v1/jobs", "cursor=cur&kind=move&limit=5&state=done", "", ""}},
		{"job, ended", `{"ended_at":"2026-01-02T03:04:05Z"}`, func(ctx context.Context, c *Client) error {
			seen := 0
			_, err := c.WaitJob(ctx, "j", func(*wire.Job) { seen++ })
			if seen != 1 {
				t.Errorf("seen %d times", seen)
			}
			return err
		}, request{"GET", "/api/v1/jobs/j", "", "", ""}},
		{"cancel a job", `{}`, func(ctx context.Context, c *Client) error { _, err := c.CancelJob(ctx, "j"); return err },
			request{"POST", "/api/v1/jobs/j/cancel", "", "", ""}},
		{"import parameters", `{}`, func(ctx context.Context, c *Client) error { _, err := c.ImportParameters(ctx, "b"); return err },
			request{"GET", "/api/v1/keys/import-parameters", "backend=b", "", ""}},
		{"import", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.ImportKey(ctx, wire.ImportKey{Key: "k", ImportToken: "t", WrappedKey: []byte("w")})
			return err
		},
			request{"POST", "/api/v1/keys/import", "", `{"key":"k","import_token":"t","wrapped_key":"` + b64("w") + `"}`, "*"}},
		{"attest key", `{"format":"f","evidence":{"kind":"none"},"claims":{"assurance":"a"}}`, func(ctx context.Context, c *Client) error {
			a, err := c.AttestKey(ctx, "a/b", []byte("sixteen bytes !!"), 2)
			if err == nil && (a.Evidence.Kind != "none" || a.Claims.Assurance != "a") {
				t.Errorf("%+v", a)
			}
			return err
		}, request{"POST", "/api/v1/keys/a%2Fb/attestation", "", `{"nonce":"` + b64("sixteen bytes !!") + `","version":2}`, ""}},
		{"attestation key", `{"algorithm":"Ed25519","public_key":"p"}`, func(ctx context.Context, c *Client) error {
			_, err := c.AttestationKey(ctx)
			return err
		}, request{"GET", "/api/v1/attestation-key", "", "", ""}},
		{"export", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.ExportKey(ctx, "k", wire.ExportKey{To: "r"})
			return err
		},
			request{"POST", "/api/v1/keys/k/export", "", `{"to":"r"}`, ""}},
		{"encrypt nothing", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.Encrypt(ctx, wire.Encrypt{Target: wire.Target{Key: "k", KeyVersion: 2}})
			return err
		}, request{"POST", "/api/v1/keys/k/encrypt", "", `{"key_version":2,"plaintext":""}`, ""}},
		{"encrypt by default", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.Encrypt(ctx, wire.Encrypt{EncryptItem: wire.EncryptItem{Plaintext: []byte("p"), AAD: []byte("a"), Context: map[string]string{"c": "d"}}})
			return err
		}, request{"POST", "/api/v1/encrypt", "", `{"plaintext":"` + b64("p") + `","aad":"` + b64("a") + `","context":{"c":"d"}}`, ""}},
		{"encrypt many", `{"items":[{"ciphertext":"AA=="}]}`, func(ctx context.Context, c *Client) error {
			_, err := c.EncryptBatch(ctx, BatchOptions{Key: "k"}, []wire.EncryptItem{{Plaintext: []byte("p")}})
			return err
		}, request{"POST", "/api/v1/keys/k/encrypt", "", `{"items":[{"plaintext":"` + b64("p") + `"}]}`, ""}},
		{"decrypt", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.Decrypt(ctx, wire.Decrypt{DecryptItem: wire.DecryptItem{Ciphertext: []byte("c")}})
			return err
		}, request{"POST", "/api/v1/decrypt", "", `{"ciphertext":"` + b64("c") + `"}`, ""}},
		{"rewrap many", `{"items":[{}]}`, func(ctx context.Context, c *Client) error {
			_, err := c.RewrapBatch(ctx, BatchOptions{Key: "k"}, []wire.DecryptItem{{Ciphertext: []byte("c")}})
			return err
		}, request{"POST", "/api/v1/keys/k/rewrap", "", `{"items":[{"ciphertext":"` + b64("c") + `"}]}`, ""}},
		{"data key", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.DataKey(ctx, wire.DataKey{Target: wire.Target{Key: "k"}, DataKeyItem: wire.DataKeyItem{Bytes: 16}})
			return err
		}, request{"POST", "/api/v1/keys/k/data-key", "", `{"bytes":16}`, ""}},
		{"data key of the default key", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.DataKey(ctx, wire.DataKey{})
			return err
		}, request{"POST", "/api/v1/data-key", "", `{}`, ""}},
		{"verify", `{"valid":false}`, func(ctx context.Context, c *Client) error {
			v, err := c.Verify(ctx, wire.Verify{Target: wire.Target{Key: "k"}, VerifyItem: wire.VerifyItem{Message: []byte("m"), Signature: []byte("s")}, Hash: "SHA-256"})
			if err == nil && *v.Valid {
				return errors.New("valid")
			}
			return err
		}, request{"POST", "/api/v1/keys/k/verify", "", `{"message":"` + b64("m") + `","signature":"` + b64("s") + `","hash":"SHA-256"}`, ""}},
		{"random", `{"random":"AAAA"}`, func(ctx context.Context, c *Client) error { _, err := c.Random(ctx, 3, ""); return err },
			request{"POST", "/api/v1/random", "", `{"bytes":3}`, ""}},
		{"backend", `{}`, func(ctx context.Context, c *Client) error { _, err := c.Backend(ctx, "b"); return err },
			request{"GET", "/api/v1/backends/b", "", "", ""}},
		{"api key", `{"key":"kw_x_y"}`, func(ctx context.Context, c *Client) error {
			_, err := c.CreateAPIKey(ctx, wire.CreateAPIKey{Name: "n", Scopes: []string{"keys:read"}})
			return err
		}, request{"POST", "/api/v1/api-keys", "", `{"name":"n","scopes":["keys:read"]}`, "*"}},
		{"revoke", `{}`, func(ctx context.Context, c *Client) error { _, err := c.RevokeAPIKey(ctx, "i"); return err },
			request{"DELETE", "/api/v1/api-keys/i", "", "", ""}},
		{"audit", `{"items":[],"next_cursor":""}`, func(ctx context.Context, c *Client) error {
			_, err := c.AuditPage(ctx, AuditFilter{Key: "k", Principal: "p", Action: "a", Outcome: "ok", From: from, To: from.Add(time.Second)}, "", 0)
			return err
		}, request{"GET", "/api/v1/audit", "action=a&from=2026-01-02T03%3A04%3A05Z&key=k&outcome=ok&principal=p&to=2026-01-02T03%3A04%3A06Z", "", ""}},
		{"entry", `{}`, func(ctx context.Context, c *Client) error { _, err := c.AuditEntry(ctx, 7); return err },
			request{"GET", "/api/v1/audit/entries/7", "", "", ""}},
		{"proof", `{}`, func(ctx context.Context, c *Client) error { _, err := c.AuditProof(ctx, 7); return err },
			request{"GET", "/api/v1/audit/entries/7/proof", "", "", ""}},
		{"proof in a kept checkpoint", `{}`, func(ctx context.Context, c *Client) error { _, err := c.AuditProofIn(ctx, 7, 9); return err },
			request{"GET", "/api/v1/audit/entries/7/proof", "size=9", "", ""}},
		{"cosigned", `{}`, func(ctx context.Context, c *Client) error { _, err := c.AuditCosigned(ctx); return err },
			request{"GET", "/api/v1/audit/checkpoint", "cosigned=true", "", ""}},
		{"consistency", `{}`, func(ctx context.Context, c *Client) error { _, err := c.AuditConsistency(ctx, 7); return err },
			request{"GET", "/api/v1/audit/consistency", "from=7", "", ""}},
		{"unlock", `{"locked":true,"shares_missing":1}`, func(ctx context.Context, c *Client) error {
			u, err := c.Unlock(ctx, wire.Unlock{Shares: []string{"s"}})
			if err == nil && (!u.Locked || u.SharesMissing != 1) {
				return errors.New("not as answered")
			}
			return err
		}, request{"POST", "/api/v1/unlock", "", `{"shares":["s"]}`, ""}},
		{"add slot", `{}`, func(ctx context.Context, c *Client) error {
			_, err := c.AddRootSlot(ctx, wire.AddSlot{Kind: "passphrase", Passphrase: "p"})
			return err
		}, request{"POST", "/api/v1/root/slots", "", `{"kind":"passphrase","passphrase":"p"}`, ""}},
		{"remove slot", `{}`, func(ctx context.Context, c *Client) error { return c.RemoveRootSlot(ctx, "i") },
			request{"DELETE", "/api/v1/root/slots/i", "", "", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r recorder
			c := serve(t, r.handler(t, tc.data))
			if err := tc.call(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if len(r.got) != 1 {
				t.Fatalf("%d requests", len(r.got))
			}
			got := r.got[0]
			if tc.want.Key == "*" && got.Key != "" {
				got.Key = "*"
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if h := r.header[0]; h.Get("Authorization") != "Bearer kw_abc_secret" || (got.Body != "") != (h.Get("Content-Type") == "application/json") {
				t.Errorf("header %v", h)
			}
		})
	}
}

func TestNamesAreRequired(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request went out") })
	for name, f := range map[string]func() error{
		"key":     func() error { _, err := c.Key(t.Context(), ""); return err },
		"mac":     func() error { _, err := c.MAC(t.Context(), wire.MAC{}); return err },
		"backend": func() error { _, err := c.Backend(t.Context(), ""); return err },
		"job":     func() error { _, err := c.CancelJob(t.Context(), ""); return err },
		"slot":    func() error { return c.RemoveRootSlot(t.Context(), "") },
		"api key": func() error { _, err := c.RevokeAPIKey(t.Context(), ""); return err },
		"jwk":     func() error { _, err := c.PublicKey(t.Context(), "k", 0, "jwk"); return err },
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLists(t *testing.T) {
	pages := map[string]string{
		"": `{"items":[{"name":"a"},{"name":"b"}],"next_cursor":"1"}`, "1": `{"items":[],"next_cursor":"2"}`, "2": `{"items":[{"name":"c"}],"next_cursor":""}`,
	}
	var asked atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		fmt.Fprintf(w, `{"data":%s}`, pages[r.URL.Query().Get("cursor")])
	})
	var names []string
	for k, err := range c.Keys(t.Context(), KeyFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, k.Name)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" {
		t.Error(diff)
	}
	asked.Store(0)
	for range c.Keys(t.Context(), KeyFilter{}) {
		break
	}
	if asked.Load() != 1 {
		t.Errorf("%d pages were read for one element", asked.Load())
	}
	pages["2"] = `{"items":[],"next_cursor":"2"}`
	var last error
	for _, err := range c.Keys(t.Context(), KeyFilter{}) {
		last = err
	}
	if !errors.Is(last, ErrResponse) {
		t.Errorf("a cursor that stands still: %v", last)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, body := range map[string]string{"no JSON": "<html>", "no data": `{"request_id":"r"}`, "cut": `{"data":{"id":"`, "wrong type": `{"data":{"id":7}}`, "twice": `{"data":{},"data":{}}`} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
		if _, err := c.Key(t.Context(), "k"); !errors.Is(err, ErrResponse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"data":{}}`) })
	if v, err := c.Verify(t.Context(), wire.Verify{}); !errors.Is(err, ErrResponse) {
		t.Errorf("no verdict: %v, %v", v, err)
	}
	if _, err := c.EncryptBatch(t.Context(), BatchOptions{}, make([]wire.EncryptItem, 2)); !errors.Is(err, ErrResponse) {
		t.Errorf("no results: %v", err)
	}
	if _, err := c.Random(t.Context(), 5, ""); !errors.Is(err, ErrResponse) {
		t.Errorf("too few bytes: %v", err)
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"data":{}}`) })
	c.retries = -1
	if _, err := c.PublicJWK(t.Context(), "k", 0); err != nil {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"https://kms.example":       "https://kms.example/api/v1",
		"kms.example:8443":          "https://kms.example:8443/api/v1",
		"https://example/kms/":      "https://example/kms/api/v1",
		"http://127.0.0.1:8200":     "http://127.0.0.1:8200/api/v1",
		"http://[::1]:8200/":        "http://[::1]:8200/api/v1",
		"http://localhost:8200":     "http://localhost:8200/api/v1",
		"http://10.0.0.1:8200":      "",
		"http://127.0.0.1.evil.com": "",
		"http://localhost.evil.com": "",
		"http://user:pass@[::1]/":   "",
		"https://kms.example/?a=b":  "",
		"ftp://kms.example":         "",
		"https://":                  "",
		"unix://host/path":          "",
		"https://a b":               "",
		"":                          "",
	} {
		c, err := New(Options{Address: address})
		if (err == nil) != (want != "") || err == nil && c.base != want {
			t.Errorf("%q: %v, %v", address, c, err)
		}
		if err != nil && strings.Contains(err.Error(), "pass") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
	if _, err := New(Options{Address: "http://10.0.0.1:8200", AllowPlainHTTP: true}); err != nil {
		t.Error(err)
	}
	if _, err := New(Options{Address: "https://a", Key: "a\r\nb: c"}); err == nil || strings.Contains(err.Error(), "b: c") {
		t.Errorf("a key with a line break: %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"data":{"name":%q}}`, r.URL.Path)
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	defer s.Close()
	c, err := New(Options{Address: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Me(t.Context()); err != nil || m.Name != "/api/v1/me" {
		t.Fatal(m, err)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"data":{"name":"n"}}`) }))
	defer s.Close()
	s.Config.ErrorLog = nil
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Address: s.URL, CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Me(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger, err := New(Options{Address: s.URL, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Me(t.Context()); !errors.Is(err, ErrConnection) {
		t.Errorf("an unknown authority: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Address: s.URL, CAFile: empty}); err == nil {
		t.Error("a CA file without certificates")
	}
}

func TestExport(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/audit/export" {
			t.Error(r.URL.Path)
		}
		io.WriteString(w, "line 1\n")
		w.(http.Flusher).Flush()
		if r.Header.Get("User-Agent") == "cut" {
			panic(http.ErrAbortHandler)
		}
	})
	var out strings.Builder
	if err := c.AuditExport(t.Context(), &out); err != nil || out.String() != "line 1\n" {
		t.Fatal(out.String(), err)
	}
	c.userAgent = "cut"
	if err := c.AuditExport(t.Context(), io.Discard); !errors.Is(err, ErrConnection) {
		t.Errorf("a connection that breaks: %v", err)
	}
	c = serve(t, refuse(http.StatusForbidden, "ERR_INSUFFICIENT_SCOPE", ""))
	if err := c.AuditExport(t.Context(), io.Discard); !HasCode(err, "ERR_INSUFFICIENT_SCOPE") {
		t.Errorf("got %v", err)
	}
}

func TestBackup(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v1/backup" || r.ContentLength != 0 {
			t.Error(r.Method, r.URL.Path, r.ContentLength)
		}
		io.WriteString(w, "bytes")
		w.(http.Flusher).Flush()
		if r.Header.Get("User-Agent") == "cut" {
			panic(http.ErrAbortHandler)
		}
	})
	var out strings.Builder
	if err := c.Backup(t.Context(), &out); err != nil || out.String() != "bytes" {
		t.Fatal(out.String(), err)
	}
	c.userAgent = "cut"
	if err := c.Backup(t.Context(), io.Discard); !errors.Is(err, ErrConnection) {
		t.Errorf("a connection that breaks: %v", err)
	}
	c = serve(t, refuse(http.StatusConflict, "ERR_CONFLICT", ""))
	if err := c.Backup(t.Context(), io.Discard); !HasCode(err, "ERR_CONFLICT") {
		t.Errorf("got %v", err)
	}
}

func refuse(status int, code, after string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		b, _ := json.Marshal(wire.ErrorResponse{Error: wire.Error{Code: code, Message: "No."}, RequestID: "r-1"}) // a struct of strings
		w.Write(b)
	}
}
