package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/events"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
)

// everything is a whole service, every route of which has its real service behind it, over SQLite and the software backend.
type everything struct {
	*Server
	t       *testing.T
	owner   string // of the tenant default, with all scopes of the deployment
	work    *jobs.Service
	ways    map[string]way // by the name under which ask knows them
	clients *clients
	issuer  *issuer
	known   *auth.Service // of the server
}

type namesOf struct{ store *sqlite.Store }

func (n namesOf) EventKey(ctx context.Context, tenant, id uuid.UUID) (string, map[string]string, error) {
	k, err := n.store.KeyByID(ctx, tenant, id)
	if err != nil {
		return "", nil, err
	}
	return k.Name, k.Labels, nil
}

func newEverything(t *testing.T) *everything {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "keywright.db"), sqlite.Options{})
	must(err)
	t.Cleanup(func() { must(store.Close()) })
	var service1 *keys.Service
	log, err := audit.Open(ctx, store, audit.Options{Origin: "keywright/" + store.Deployment().String(),
		Signer: func(ctx context.Context) (audit.CheckpointSigner, error) {
			return service1.InternalSigner(ctx, "audit-checkpoints")
		}})
	must(err)
	t.Cleanup(func() { must(log.Close(ctx)) })
	keeper := root.New(store, log, root.Options{Argon2: root.Cost{MemoryKiB: 8 << 10, Time: 1, Parallelism: 2}, Carry: []string{auth.LabelPepper}})
	t.Cleanup(keeper.Close)
	soft, err := software.Open(ctx, software.Options{Name: "default", DeriveAt: keeper.DeriveAt, Generation: keeper.Generation})
	must(err)
	t.Cleanup(func() { must(soft.Close()) })
	work := jobs.New(store, log, jobs.Options{Idempotency: store}) // nobody runs its jobs: they stay as they were made
	service1, err = keys.New(keys.Options{Store: store, Idempotency: store, Recorder: log, Backends: []backend.Backend{soft}, Jobs: work})
	must(err)
	t.Cleanup(func() { must(service1.Close()) })
	_, err = keeper.Init(ctx, root.Caller{Principal: "system"}, root.NewSlot{Kind: root.KindKeyFile, KeyFile: make(secret.Bytes, root.KeyFileSize)})
	must(err)
	people := auth.Options{Derive: keeper.Derive, DeriveAt: keeper.DeriveAt, Generation: keeper.Generation, Idempotency: store}
	e := &everything{t: t, work: work, ways: map[string]way{}, clients: newClients(t), issuer: newIssuer(t)}
	all := people
	all.Certificates, all.Tokens = certificateRules(), e.issuer.verifier()
	known := auth.New(store, log, all)
	e.known = known
	_, e.owner, err = known.Bootstrap(ctx, uuid.MustParse("0195f3a2-0000-7000-8000-00000000000a"), nil)
	must(err)
	replacing, err := rekey.New(rekey.Options{Root: keeper, Keys: service1, Jobs: work, Recorder: log, Backends: []backend.Backend{soft}, Share: 1, Settle: time.Millisecond})
	must(err)
	feed := events.NewFeed(store, namesOf{store}, nil)
	t.Cleanup(feed.Close)
	streams, err := events.NewStreams(feed, events.StreamOptions{})
	must(err)
	hooks, err := events.New(events.Options{Store: store, Recorder: log, Feed: feed, Derive: keeper.Derive,
		Reach: events.Reach{Allow: []string{"127.0.0.1"}, PlainHTTP: true}})
	must(err)
	backups := backup.New(backup.Options{Source: store, Audit: log, DeriveAt: keeper.DeriveAt, Release: "test",
		Signer: func(ctx context.Context) (backup.Signer, error) { return service1.InternalSigner(ctx, "backups") }})
	options := Options{Keys: service1, Auth: known, Root: keeper, Audit: log, Jobs: work, Rekey: replacing, Events: streams, Webhooks: hooks,
		Backups: backups, Version: "test", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	e.Server, err = New(options)
	must(err)
	e.peers(options, func(rule auth.PeerRule) *auth.Service {
		one := people
		one.Peers = []auth.PeerRule{rule}
		return auth.New(store, log, one)
	})
	return e
}

// ask sends a request with an API key, a token, or by one of the ways. Its id is always the same, so that answers can be compared.
func (e *everything) ask(method, path, body, credential string, header ...string) *httptest.ResponseRecorder {
	ctx, cancel := context.WithCancel(e.t.Context())
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, method, prefix+path, strings.NewReader(body))
	req.Header.Set("X-Request-ID", "matrix")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	handler := e.Handler()
	if w, other := e.ways[credential]; other {
		w.prepare(req)
		if w.handler != nil {
			handler = w.handler
		}
	} else if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if strings.HasPrefix(path, "/events") {
		handler.ServeHTTP(untilFirst{w, cancel}, req)
		return w
	}
	handler.ServeHTTP(w, req)
	return w
}

// untilFirst is a client who leaves with the first bytes: a stream that has nothing to tell never ends.
type untilFirst struct {
	*httptest.ResponseRecorder
	leave func()
}

func (u untilFirst) Write(b []byte) (int, error) {
	defer u.leave()
	return u.ResponseRecorder.Write(b)
}

// made sends a request that must succeed, and gives its data.
func made[T any](e *everything, credential, method, path, body string, header ...string) T {
	e.t.Helper()
	w := e.ask(method, path, body, credential, header...)
	var r wire.Response[T]
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code > 299 {
		e.t.Fatalf("%s %s: %d %s %v", method, path, w.Code, w.Body, err)
	}
	return r.Data
}

func (e *everything) newAPIKey(credential, body string) wire.APIKey {
	e.t.Helper()
	return made[wire.APIKey](e, credential, http.MethodPost, "/api-keys", body)
}
