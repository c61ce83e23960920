package keys_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/cluster"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// otherNode is a second service on the same store.
func otherNode(t *testing.T, e *env, change func(*keys.Options)) *keys.Service {
	t.Helper()
	o := keys.Options{Store: e.store, Idempotency: e.store, Recorder: e.recorder, Backends: []backend.Backend{e.soft}, Now: e.clock.now}
	if change != nil {
		change(&o)
	}
	other, err := keys.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	return other
}

// TestFresh: what is cached is used while the node knows of changes, and not when it does not; each way of forgetting makes it read again.
func TestFresh(t *testing.T) {
	for _, test := range []struct {
		name   string
		forget func(e *env, fresh *atomic.Bool, k *keys.Key)
	}{
		{"not fresh", func(_ *env, fresh *atomic.Bool, _ *keys.Key) { fresh.Store(false) }},
		{"news of the key", func(e *env, _ *atomic.Bool, k *keys.Key) { e.Heard(cluster.News{Kind: cluster.KindKey, ID: k.ID}) }},
		{"all forgotten", func(e *env, _ *atomic.Bool, _ *keys.Key) { e.InvalidateAll() }},
	} {
		for _, target := range []keys.Target{{Key: "k"}, {}} { // by name and as the default
			var fresh atomic.Bool
			fresh.Store(true)
			e := newEnv(t, func(o *keys.Options) { o.Fresh = fresh.Load })
			k := e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Default = true })
			other := otherNode(t, e, nil)
			use := func() error { _, err := e.encrypt(target, "x"); return err }
			if err := use(); err != nil {
				t.Fatal(err)
			}
			if _, err := other.SetVersionState(t.Context(), e.c, "k", 1, keys.StateSuspended); err != nil {
				t.Fatal(err)
			}
			for _, news := range []cluster.News{{Kind: cluster.KindAPIKey, ID: k.ID}, {Kind: cluster.KindKey, ID: uuid.New()}} {
				e.Heard(news)
			}
			if err := use(); err != nil { // or else it was not cached, and this test proves nothing
				t.Errorf("%s: %v before it is told", test.name, err)
			}
			test.forget(e, &fresh, k)
			wantCode(t, use(), fault.BadState, test.name)
		}
	}
}

// TestFreshDefault: which key is the default is cached in the same way.
func TestFreshDefault(t *testing.T) {
	var fresh atomic.Bool
	fresh.Store(true)
	e := newEnv(t, func(o *keys.Options) { o.Fresh = fresh.Load })
	first := e.create("first", backend.AES256GCM, func(r *keys.CreateRequest) { r.Default = true })
	second := e.create("second", backend.AES256GCM)
	other := otherNode(t, e, nil)
	used := func() uuid.UUID {
		t.Helper()
		r, err := e.encrypt(keys.Target{}, "x")
		if err != nil {
			t.Fatal(err)
		}
		return r.Used.KeyID
	}
	choose := func(name string) {
		t.Helper()
		yes := true
		if _, err := other.Update(t.Context(), e.c, name, keys.UpdateRequest{Default: &yes}); err != nil {
			t.Fatal(err)
		}
	}
	used()
	choose("second")
	if used() != first.ID {
		t.Error("the default was not cached: this test proves nothing")
	}
	e.Heard(cluster.News{Kind: cluster.KindKey})
	if used() != second.ID {
		t.Error("news of the defaults change nothing")
	}
	choose("first")
	if used() != second.ID {
		t.Error("the default was not cached again")
	}
	fresh.Store(false)
	if used() != first.ID {
		t.Error("a cached default is used by a node that knows nothing")
	}
}

// TestElsewhere: a key whose backend another node has says where, and one that nobody has does not.
func TestElsewhere(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM)
	for _, c := range []struct {
		nodes []string
		want  string
	}{
		{nil, ""},
		{[]string{"node-2"}, "vault is open on node-2"},
		{strings.Fields("a b c d e f g h i j"), "vault is open on a, b, c, d, e, f, g, h and others"},
	} {
		asked := ""
		other := otherNode(t, e, func(o *keys.Options) {
			o.Backends = []backend.Backend{renamed{e.soft}}
			o.Elsewhere = func(id string) (string, []string) { asked = id; return "vault", c.nodes }
		})
		_, err := other.Encrypt(t.Context(), e.c, keys.Target{Key: "k"}, keys.EncryptOpts{}, []keys.EncryptItem{{Plaintext: []byte("x")}}, true)
		wantCode(t, err, fault.BackendUnavailable, "a backend that is not here")
		if !strings.HasSuffix(err.Error(), "not open on this node"+map[bool]string{true: ": " + c.want}[c.want != ""]) {
			t.Errorf("%d nodes: %v", len(c.nodes), err)
		}
		if asked != e.soft.Info().ID {
			t.Errorf("asked for %q", asked)
		}
		if other.Has(e.soft.Info().ID) || !other.Has("another") {
			t.Error("Has says otherwise")
		}
	}
}

// renamed is a backend with another identity.
type renamed struct{ backend.Backend }

func (r renamed) Info() backend.Info {
	info := r.Backend.Info()
	info.ID = "another"
	return info
}

// TestMaintainKeysOfOthers: work on keys of other backends is left to their nodes.
func TestMaintainKeysOfOthers(t *testing.T) {
	e := newEnv(t, nil)
	e.create("k", backend.AES256GCM, func(r *keys.CreateRequest) { r.Policy.RotationPeriod = 24 * time.Hour })
	e.clock.advance(48 * time.Hour)
	version := func() uint32 {
		t.Helper()
		k, err := e.Get(t.Context(), e.c, "k")
		if err != nil {
			t.Fatal(err)
		}
		return k.PrimaryVersion
	}
	id := e.soft.Info().ID
	if err := e.MaintainKeys(t.Context(), func(b string) bool { return b != id }); err != nil || version() != 1 {
		t.Errorf("version %d, %v", version(), err)
	}
	if err := e.MaintainKeys(t.Context(), func(b string) bool { return b == id }); err != nil || version() != 2 {
		t.Errorf("version %d, %v", version(), err)
	}
}
