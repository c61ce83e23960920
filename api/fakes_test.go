package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
)

// The fakes answer what the pipeline asks; the integration test runs the same routes over the real services.

var (
	keyID  = uuid.MustParse("0195f3a2-7b1c-7def-8123-456789abcdef")
	tenant = uuid.MustParse("00000000-0000-7000-8000-000000000001")
	moment = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// fakeKeys turns bytes around instead of encrypting them. What a test does not need panics as nil.
type fakeKeys struct {
	keys.API
	mu      sync.Mutex
	created keys.CreateRequest
	caller  keys.Caller
	target  keys.Target
	name    string
	waiting time.Duration
	list    keys.ListRequest
	slow    time.Duration
	fail    error
	calls   atomic.Int64
	kept    []byte // what encrypt was given, to see whether it is wiped
}

func (f *fakeKeys) key() *keys.Key {
	return &keys.Key{ID: keyID, Tenant: tenant, Name: "team/one", Algorithm: backend.AES256GCM, Purpose: backend.PurposeEncryption,
		Origin: keys.OriginGenerated, BackendID: "soft-1", Custody: backend.CustodySoftware, PrimaryVersion: 1, LatestVersion: 1,
		State: keys.StateActive, CreatedAt: moment, UpdatedAt: moment,
		Policy: keys.Policy{RotationPeriod: 720 * time.Hour, Operations: []backend.Operation{backend.OpEncrypt}}}
}

func (f *fakeKeys) called(c keys.Caller, name string) {
	f.calls.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caller, f.name = c, name
}

func (f *fakeKeys) IsDefault(context.Context, *keys.Key) (bool, error)             { return true, nil }
func (f *fakeKeys) Told(context.Context, keys.Caller, keys.Happened) (bool, error) { return true, nil }
func (f *fakeKeys) BackendName(string) string                                      { return "default" }
func (f *fakeKeys) CustodyCaveat(string) string                                    { return "" }
func (f *fakeKeys) Create(_ context.Context, c keys.Caller, r keys.CreateRequest) (*keys.Key, error) {
	f.called(c, r.Name)
	f.created = r
	return f.key(), f.fail
}
func (f *fakeKeys) Get(_ context.Context, c keys.Caller, key string) (*keys.Key, error) {
	f.called(c, key)
	return f.key(), f.fail
}
func (f *fakeKeys) Delete(_ context.Context, c keys.Caller, key string, waiting time.Duration) (*keys.Key, error) {
	f.called(c, key)
	f.waiting = waiting
	return f.key(), f.fail
}
func (f *fakeKeys) Rotate(_ context.Context, c keys.Caller, key string) (*keys.Key, error) {
	f.called(c, key)
	return f.key(), f.fail
}
func (f *fakeKeys) Attest(_ context.Context, c keys.Caller, r keys.AttestRequest) (*keys.Attestation, error) {
	f.called(c, r.Key)
	return &keys.Attestation{Document: &attest.Document{Format: attest.Format, Kind: attest.KindNone},
		Claims: &attest.Claims{Assurance: attest.AssuranceStatement, KeyID: keyID.String(), Custody: "software", State: "active"}}, f.fail
}
func (f *fakeKeys) AttestationKey(_ context.Context, c keys.Caller) ([]byte, error) {
	f.called(c, "")
	return []byte{0x30, 0}, f.fail
}
func (f *fakeKeys) List(_ context.Context, c keys.Caller, r keys.ListRequest) ([]*keys.Key, string, error) {
	f.called(c, "")
	f.list = r
	return []*keys.Key{f.key()}, "bmV4dA", f.fail
}
func (f *fakeKeys) Encrypt(ctx context.Context, c keys.Caller, t keys.Target, _ keys.EncryptOpts, items []keys.EncryptItem, single bool) ([]keys.BytesResult, error) {
	f.calls.Add(1)
	if f.slow > 0 {
		select {
		case <-time.After(f.slow):
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Timeout, "too slow", ctx.Err())
		}
	}
	if f.fail != nil {
		return nil, f.fail
	}
	out := make([]keys.BytesResult, len(items))
	for i := range items {
		if string(items[i].Plaintext) == "fail" {
			out[i].Err = fault.New(fault.DecryptionFailed, "does not open")
			continue
		}
		if string(items[i].Plaintext) == "panic" {
			panic("secret text")
		}
		out[i] = keys.BytesResult{Bytes: turned(items[i].Plaintext), Used: keys.Used{KeyID: keyID, Version: 3}}
	}
	f.mu.Lock()
	f.target, f.caller, f.kept = t, c, items[0].Plaintext
	f.mu.Unlock()
	if single && out[0].Err != nil {
		return nil, out[0].Err
	}
	return out, nil
}
func (f *fakeKeys) Decrypt(_ context.Context, c keys.Caller, t keys.Target, _ keys.EncryptOpts, items []keys.CiphertextItem, _ bool) ([]keys.BytesResult, error) {
	f.mu.Lock()
	f.target, f.caller = t, c
	f.mu.Unlock()
	out := make([]keys.BytesResult, len(items))
	for i := range items {
		out[i] = keys.BytesResult{Bytes: turned(items[i].Ciphertext), Used: keys.Used{KeyID: keyID, Version: 3, Compromised: true}}
	}
	return out, f.fail
}
func (f *fakeKeys) Verify(_ context.Context, _ keys.Caller, _ keys.Target, _ keys.SignOpts, items []keys.VerifyItem, _ bool) ([]keys.VerifyResult, error) {
	out := make([]keys.VerifyResult, len(items))
	for i := range items {
		out[i] = keys.VerifyResult{Valid: i%2 == 0, Used: keys.Used{KeyID: keyID, Version: 1}}
	}
	return out, f.fail
}
func (f *fakeKeys) Random(_ context.Context, _ keys.Caller, _ string, n int) ([]byte, error) {
	return bytes.Repeat([]byte{7}, n), f.fail
}

func turned(b []byte) []byte {
	out := make([]byte, len(b))
	for i, c := range b {
		out[len(b)-1-i] = c
	}
	return out
}

type fakeAuth struct {
	Auth
	scopes       []auth.Scope
	from         atomic.Pointer[netip.Addr]
	restrictions *auth.Restrictions
	kind         auth.Kind // of the credential; "": an API key's
}

// Authenticate knows good, and weak, which has no scope.
func (a *fakeAuth) Authenticate(_ context.Context, presented string, from netip.Addr) (*auth.Principal, auth.Decision, error) {
	p := &auth.Principal{ID: "api-key:1", Tenant: tenant, Name: "tester", Scopes: a.scopes, Restrictions: a.restrictions}
	if p.Kind = auth.KindAPIKey; a.kind != "" {
		p.Kind, p.Role = a.kind, auth.RoleAdmin
	}
	switch presented {
	case "good":
	case "weak":
		p.Scopes = nil
	default:
		return nil, auth.Decision{}, fault.New(fault.Unauthenticated, "the credential is not valid")
	}
	a.from.Store(&from)
	d := auth.Decide(&auth.Request{Principal: p, Now: time.Now(), Door: true, Address: from})
	return p, d, d.Err()
}

// AuthenticateConnection knows one user and the certificate of CN=good.
func (a *fakeAuth) AuthenticateConnection(ctx context.Context, c *auth.Connection) (*auth.Principal, auth.Decision, error) {
	if c.Peer != nil && c.Peer.UID == 7 || len(c.Chain) > 0 && c.Chain[0].Subject.CommonName == "good" {
		p, d, err := a.Authenticate(ctx, "good", c.Address)
		if err == nil {
			p.ID, p.Name = "connection:1", "connection"
		}
		return p, d, err
	}
	return nil, auth.Decision{}, fault.New(fault.Unauthenticated, "nobody")
}

type fakeRoot struct {
	Root
	locked atomic.Bool
	phrase string
}

func (r *fakeRoot) Locked() bool { return r.locked.Load() }
func (r *fakeRoot) UnlockPassphrase(_ context.Context, _ root.Caller, p secret.Bytes) error {
	if string(p) != r.phrase {
		return fault.New(fault.WrongSecret, "no root slot opens with what was given")
	}
	r.locked.Store(false)
	return nil
}
func (r *fakeRoot) UnlockShares(context.Context, root.Caller, []string) (int, error) { return 2, nil }

type fakeAudit struct {
	Audit
	mu      sync.Mutex
	entries []audit.Entry
	filter  audit.Filter
	found   audit.Found
	export  func(io.Writer) error
}

func (a *fakeAudit) Record(_ context.Context, e *audit.Entry, _ ...audit.Change) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entries = append(a.entries, *e)
	return uint64(len(a.entries)), nil
}
func (a *fakeAudit) ListTold(_ context.Context, f audit.Filter, _ func(*audit.Entry) (bool, error), _ string, _ int) ([]audit.Found, string, error) {
	a.filter = f
	return []audit.Found{a.found}, "", nil
}
func (a *fakeAudit) Get(context.Context, uint64) (audit.Found, error) { return a.found, nil }
func (a *fakeAudit) Export(_ context.Context, w io.Writer, _ func(uint64)) (audit.Checkpoint, error) {
	return audit.Checkpoint{}, a.export(w)
}

type counted struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counted) Add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[reason]++
}

// bench is a server over fakes.
type rig struct {
	*Server
	keys    *fakeKeys
	auth    *fakeAuth
	root    *fakeRoot
	audit   *fakeAudit
	jobs    *fakeJobs
	rekey   *fakeRekey
	denials *counted
	log     *bytes.Buffer
}

func newRig(t testing.TB, limits Limits) *rig {
	t.Helper()
	r := &rig{keys: &fakeKeys{}, auth: &fakeAuth{scopes: auth.Scopes()}, root: &fakeRoot{phrase: "open sesame"},
		audit: &fakeAudit{}, jobs: &fakeJobs{}, rekey: &fakeRekey{}, denials: &counted{}, log: &bytes.Buffer{}}
	s, err := New(Options{Keys: r.keys, Auth: r.auth, Root: r.root, Audit: r.audit, Jobs: r.jobs, Rekey: r.rekey, Denials: r.denials, Version: "test",
		Limits: limits, Log: slog.New(slog.NewTextHandler(&lockedWriter{w: r.log}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	return r
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// do sends a request with the good credential, unless headers say otherwise ("" removes one).
func (r *rig) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("X-API-Key", "good")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	return w
}

// refused checks that an answer is an error with this status and code, in the one form.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, code fault.Code) {
	t.Helper()
	refusedAs(t, w, status, string(code))
}

// refused is refused for an answer of a route, which may have codes of its own.
func (r *route) refused(t *testing.T, w *httptest.ResponseRecorder, status int, code fault.Code) {
	t.Helper()
	native, name := r.shown(code)
	if r.Qpher != "" {
		status = native // what it is, the tests of that API say
	}
	refusedAs(t, w, status, name)
}

func refusedAs(t testing.TB, w *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status is %d, want %d: %s", w.Code, status, w.Body)
	}
	want := fmt.Sprintf(`{"error":{"error_code":%q,"message":"`, code)
	if got := w.Body.String(); !strings.HasPrefix(got, want) {
		t.Errorf("body is %s, want it to begin with %s", got, want)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("content type is %q", ct)
	}
	if id := w.Header().Get("X-Request-Id"); !wellFormedID(id) || !strings.Contains(w.Body.String(), `"request_id":"`+id+`"`) {
		t.Errorf("request id %q is not in the body %s", id, w.Body)
	}
	if status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		t.Error("401 without WWW-Authenticate")
	}
}
