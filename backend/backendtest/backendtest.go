// Package backendtest is the one conformance suite of all backends. It holds an implementation to every promise of the comments
// in package backend, in both directions: what is advertised works and is judged by the standard library (circl for Ed448 and
// X448), and what is not advertised answers fault.Unsupported.
//
// It trusts no result of the backend under test: keys are brought along by import wherever the backend takes them, signatures are
// checked by the public key, exports are unwrapped and compared. It is imported by tests alone.
package backendtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// Harness is what the test of an implementation gives to the suite.
type Harness struct {
	// Open opens the device under test under a configured name. Called again after the backend that it gave was closed, it opens
	// the same device again: refs made before load. The suite has at most one backend of the device open, but for a Foreign beside it.
	Open func(t testing.TB, name string) backend.Backend
	// Foreign opens another device of the same kind, with another root.
	Foreign func(t testing.TB, name string) backend.Backend
	// Requires says what must be there, so that a capability that got lost fails instead of passing as "not advertised".
	Requires Requirements
	// Replace replaces the key that protects the material of the backend's keys by another, so that all that was made before is stale. nil: the backend
	// is no backend.Resealer. Wrapped says that keys in device custody are under it too.
	Replace func(t testing.TB, b backend.Backend)
	Wrapped bool
	// Untold says that the device's evidence need not call a key generated on it that was.
	Untold bool
	// Workers is how many goroutines use the backend at once; 0: 8.
	Workers int
	// Only names the parts of the suite to run, for a second run of an implementation with other options; nil: all.
	Only []string
}

// Requirements are the least that an implementation must advertise. Everything else that it advertises is tested too.
type Requirements struct {
	Algorithms []backend.Algorithm
	Import     bool // backend.Importer, and Import in the capability of each of Algorithms
	Export     bool // OpExport in the capability of each of Algorithms
	Attest     bool // OpAttest in the capability of each of Algorithms
	Sealer     bool
	Randomer   bool
	Pinger     bool
}

// Run runs the suite. It closes every backend that it opens. It counts goroutines, so no other test may run beside it.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Workers == 0 {
		h.Workers = 8
	}
	s := &suite{h: h, refs: map[refKey]backend.Ref{}, tenant: uuid.New()}
	t.Run("device", func(t *testing.T) {
		s.b = h.Open(t, "conformance")
		defer func() {
			if err := s.b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}()
		s.info = s.b.Info()
		s.parts(t, []part{
			{"info", s.testInfo},
			{"unsupported", s.testUnsupported},
			{"handles", s.testHandles},
			{"aead", s.testAEAD},
			{"kwp", s.testKWP},
			{"mac", s.testMAC},
			{"sign", s.testSign},
			{"oaep", s.testOAEP},
			{"agree", s.testAgree},
			{"decapsulate", s.testDecapsulate},
			{"batch", s.testBatch},
			{"import", s.testImport},
			{"import-wrapped", s.testImportWrapped},
			{"export", s.testExport},
			{"reveal", s.testReveal},
			{"recover", s.testRecover},
			{"attest", s.testAttest},
			{"wycheproof", s.testWycheproof},
			{"refs", s.testRefs},
			{"destroy", s.testDestroy},
			{"concurrent", s.testConcurrent},
			{"contexts", s.testContexts},
			{"sealer", s.testSealer},
			{"reseal", s.testReseal},
			{"random", s.testRandom},
			{"ping", s.testPing},
		})
	})
	s.parts(t, []part{
		{"reopen", s.testReopen},
		{"close", s.testClose},
		{"close-in-use", s.testCloseInUse},
	})
	for _, name := range h.Only {
		if !slices.Contains(s.ran, name) {
			t.Errorf("the suite has no part %q", name)
		}
	}
}

type part struct {
	name string
	test func(*testing.T)
}

// parts runs those that the harness wants.
func (s *suite) parts(t *testing.T, all []part) {
	for _, p := range all {
		if s.h.Only == nil || slices.Contains(s.h.Only, p.name) {
			s.ran = append(s.ran, p.name)
			t.Run(p.name, p.test)
		}
	}
}

// suite is one run. Its tests run one after another, so nothing in it is locked.
type suite struct {
	h      Harness
	b      backend.Backend
	info   backend.Info
	tenant uuid.UUID
	ran    []string               // names of parts
	refs   map[refKey]backend.Ref // one key of each kind, made once: RSA keys take seconds
}

type refKey struct {
	alg     backend.Algorithm
	purpose backend.Purpose
}

// kind is a capability seen through one purpose.
type kind struct {
	backend.Capability
	Info    backend.AlgorithmInfo
	Purpose backend.Purpose
}

func (k kind) String() string { return string(k.Algorithm) + "/" + string(k.Purpose) }

// has reports whether the capability lists an operation that this purpose has.
func (k kind) has(op backend.Operation) bool {
	return slices.Contains(k.Operations, op) && (op == backend.OpExport || op == backend.OpAttest || slices.Contains(backend.OperationsOf(k.Info, k.Purpose), op))
}

// every lists every advertised pair of algorithm and purpose.
func (s *suite) every() []kind { return kindsOf(s.info) }

// kinds is every without the parameter sets of SLH-DSA but one: each of their signatures takes tenths of a second, and around the
// signing itself, which testSign has for all, they are one.
func (s *suite) kinds() []kind {
	return slices.DeleteFunc(s.every(), func(k kind) bool {
		return k.Info.Family == backend.FamilySLHDSA && k.Algorithm != backend.SLHDSASHA2128f
	})
}

func kindsOf(info backend.Info) []kind {
	var out []kind
	for _, c := range info.Capabilities {
		a, ok := backend.Lookup(c.Algorithm)
		if !ok {
			continue // testInfo fails on it
		}
		for _, p := range a.Purposes {
			k := kind{c, a, p}
			if slices.ContainsFunc(backend.OperationsOf(a, p), k.has) {
				out = append(out, k)
			}
		}
	}
	return out
}

// of lists the kinds of a family and purpose.
func (s *suite) of(f backend.Family, p backend.Purpose) []kind {
	return slices.DeleteFunc(s.kinds(), func(k kind) bool { return k.Info.Family != f || k.Purpose != p })
}

// spec is for a key that has not been before.
func (s *suite) spec(k kind) backend.Spec {
	return backend.Spec{Tenant: s.tenant, KeyID: uuid.New(), Version: 1, Algorithm: k.Algorithm, Purpose: k.Purpose}
}

// generate makes a new key.
func (s *suite) generate(t testing.TB, spec backend.Spec) backend.Ref {
	t.Helper()
	ref, err := s.b.Generate(t.Context(), spec)
	if err != nil {
		t.Fatalf("Generate %s for %s: %v", spec.Algorithm, spec.Purpose, err)
	}
	return ref
}

// temporary is generate, and the device does not keep the key after the test.
func (s *suite) temporary(t testing.TB, spec backend.Spec) backend.Ref {
	t.Helper()
	ref := s.generate(t, spec)
	s.destroyLater(t, ref)
	return ref
}

func (s *suite) destroyLater(t testing.TB, ref backend.Ref) {
	t.Helper()
	b := s.b
	t.Cleanup(func() {
		if err := b.Destroy(context.WithoutCancel(t.Context()), ref); err != nil && !fault.Has(err, fault.BackendUnavailable) {
			t.Errorf("Destroy: %v", err)
		}
	})
}

// ref gives the one shared key of a kind.
func (s *suite) ref(t testing.TB, k kind) backend.Ref {
	t.Helper()
	at := refKey{k.Algorithm, k.Purpose}
	if _, ok := s.refs[at]; !ok {
		s.refs[at] = s.generate(t, s.spec(k))
	}
	return clone(s.refs[at])
}

// load gives a handle that is closed at the end of the test.
func load(t testing.TB, b backend.Backend, r backend.Ref) backend.Key {
	t.Helper()
	key, err := b.Load(t.Context(), r)
	if err != nil {
		t.Fatalf("Load %s for %s: %v", r.Spec.Algorithm, r.Spec.Purpose, err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Errorf("closing a handle of %s: %v", r.Spec.Algorithm, err)
		}
	})
	return key
}

// key loads the shared key of a kind.
func (s *suite) key(t testing.TB, k kind) backend.Key {
	t.Helper()
	return load(t, s.b, s.ref(t, k))
}

// imported brings a known key into the backend and loads it; it reports false where the backend does not import the algorithm.
func (s *suite) imported(t testing.TB, k kind, material []byte) (backend.Key, bool) {
	t.Helper()
	imp, ok := s.b.(backend.Importer)
	if !ok || !k.Import {
		return nil, false
	}
	ref, err := imp.Import(t.Context(), s.spec(k), material)
	if err != nil {
		t.Fatalf("Import %s for %s: %v", k.Algorithm, k.Purpose, err)
	}
	s.destroyLater(t, ref)
	return load(t, s.b, ref), true
}

func clone(r backend.Ref) backend.Ref {
	r.Public, r.Blob = slices.Clone(r.Public), slices.Clone(r.Blob)
	return r
}

// bounded gives a context for what must not hang.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
