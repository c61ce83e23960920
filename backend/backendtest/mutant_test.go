package backendtest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// mutantEnv names the mutant that a child process of TestMutants is to be.
const mutantEnv = "KEYWRIGHT_TEST_MUTANT"

// mutant is a backend with one promise broken, and the part of the suite that must notice.
type mutant struct {
	part   string
	breach func(*small)
}

// mutants are the ways to be wrong that the suite is known to notice. The one without a breach is the control: it passes.
var mutants = map[string]mutant{
	"control":               {"", func(*small) {}},
	"ignores-spec":          {"refs", func(s *small) { s.load = func(r, made backend.Ref) backend.Ref { r.Spec = made.Spec; return r } }},
	"ignores-public":        {"refs", func(s *small) { s.load = func(r, made backend.Ref) backend.Ref { r.Public = made.Public; return r } }},
	"ignores-context":       {"contexts", func(s *small) { s.deaf = true }},
	"works-after-close":     {"close", func(s *small) { s.unclosed = true }},
	"leaks-goroutine":       {"close", func(s *small) { go func() { select {} }() }},
	"advertises-too-much":   {"handles", func(s *small) { s.claim(backend.ECDSAP384, backend.OpSign, backend.OpVerify) }},
	"does-more-than-told":   {"unsupported", func(s *small) { s.allow = append(s.allow, backend.ECDSAP384) }},
	"two-purposes":          {"handles", func(s *small) { s.key = both }},
	"repeats-nonces":        {"concurrent", func(s *small) { s.key = s.repeating }},
	"tells-why":             {"aead", func(s *small) { s.key = talking }},
	"der-signatures":        {"sign", func(s *small) { s.key = derSigner }},
	"takes-any-digest":      {"sign", func(s *small) { s.key = trimming }},
	"short-tags":            {"mac", func(s *small) { s.key = shortTag }},
	"wipes-what-is-lent":    {"import", func(s *small) { s.wipes = true }},
	"leaves-a-gap":          {"random", func(s *small) { s.gap = true }},
	"ignores-binding":       {"sealer", func(s *small) { s.unbound = true }},
	"another-name-is-other": {"reopen", func(s *small) { s.idFromName = true }},
	"wraps-nothing":         {"kwp", func(s *small) { s.key = wrapsNothing }},
	"ignores-labels":        {"oaep", func(s *small) { s.key = unlabelled }},
	"agrees-with-anyone":    {"agree", func(s *small) { s.key = agreeable }},
	"keeps-no-objects":      {"destroy", func(s *small) { s.keeps = true }},
	"exports-with-one-hash": {"export", func(s *small) { s.key = oneHash }},
	"takes-any-wrapping":    {"import-wrapped", func(s *small) { s.anyWrapping = true }},
}

// TestMutants: a suite that notices nothing is worth nothing.
func TestMutants(t *testing.T) {
	if name := os.Getenv(mutantEnv); name != "" {
		m := mutants[name]
		backendtest.Run(t, m.harness(t))
		return
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMutants$", "-rapid.nofailfile")
			cmd.Env = append(os.Environ(), mutantEnv+"="+name)
			out, err := cmd.CombinedOutput()
			if m.part == "" {
				if err != nil {
					t.Errorf("the sound backend fails: %v\n%s", err, out)
				}
				return
			}
			// The part that must notice fails, and by a failed check, not by falling over.
			failed := bytes.Contains(out, []byte("--- FAIL: TestMutants/"+m.part+" ")) ||
				bytes.Contains(out, []byte("--- FAIL: TestMutants/device/"+m.part+" "))
			if err == nil || !failed || bytes.Contains(out, []byte("panic:")) {
				t.Errorf("the suite does not notice in part %s (%v):\n%s", m.part, err, out)
			}
		})
	}
}

func (m mutant) harness(t *testing.T) backendtest.Harness {
	t.Helper()
	device := func(id string) func(testing.TB, string) backend.Backend {
		root := make([]byte, 32)
		if _, err := rand.Read(root); err != nil {
			t.Fatal(err)
		}
		made := &sync.Map{}
		return func(t testing.TB, name string) backend.Backend {
			b, err := software.Open(t.Context(), software.Options{
				Name: name, ID: id, Derive: func(string) (secret.Bytes, error) { return slices.Clone(root), nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			s := &small{Backend: b, made: made, allow: []backend.Algorithm{
				backend.AES256GCM, backend.AES256KWP, backend.HMACSHA256, backend.RSA2048, backend.ECDSAP256, backend.Ed25519, backend.X25519,
			}}
			m.breach(s)
			return s
		}
	}
	h := backendtest.Harness{Open: device("one"), Foreign: device("two"), Workers: 3}
	h.Only = []string{m.part}
	switch m.part {
	case "":
		h.Only = nil
		for name, other := range mutants {
			if name != "control" {
				h.Only = append(h.Only, other.part)
			}
		}
	case "reopen":
		h.Only = []string{"aead", "reopen"}
	case "close":
		h.Only = []string{"aead", m.part}
	}
	return h
}

// small is the software backend with few algorithms, so that a run is quick, and with switches for its breaches.
type small struct {
	*software.Backend
	made        *sync.Map // blob to the Ref that was given out with it
	allow       []backend.Algorithm
	claims      []backend.Capability
	load        func(r, made backend.Ref) backend.Ref
	key         func(backend.Key) backend.Key
	deaf        bool
	unclosed    bool
	wipes       bool
	gap         bool
	unbound     bool
	idFromName  bool
	keeps       bool
	anyWrapping bool
}

func (s *small) claim(a backend.Algorithm, ops ...backend.Operation) {
	s.claims = append(s.claims, backend.Capability{Algorithm: a, Custody: backend.CustodySoftware, Operations: ops})
}

func (s *small) Info() backend.Info {
	i := s.Backend.Info()
	i.Capabilities = slices.DeleteFunc(slices.Clone(i.Capabilities), func(c backend.Capability) bool {
		return !slices.Contains(s.allow[:7], c.Algorithm)
	})
	i.Capabilities = append(i.Capabilities, s.claims...)
	i.KeepsObjects = s.keeps
	if s.idFromName {
		i.ID += i.Name
	}
	return i
}

func (s *small) context(ctx context.Context) context.Context {
	if s.deaf {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (s *small) refuse(ctx context.Context, a backend.Algorithm) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Timeout, "too late", err)
	}
	if !slices.Contains(s.allow, a) {
		return fault.New(fault.Unsupported, "not among the few")
	}
	return nil
}

func (s *small) keep(ref backend.Ref, err error) (backend.Ref, error) {
	if err == nil {
		s.made.Store(string(ref.Blob), ref)
	}
	return ref, err
}

func (s *small) Generate(ctx context.Context, spec backend.Spec) (backend.Ref, error) {
	ctx = s.context(ctx)
	if err := s.refuse(ctx, spec.Algorithm); err != nil {
		return backend.Ref{}, err
	}
	return s.keep(s.Backend.Generate(ctx, spec))
}

func (s *small) Import(ctx context.Context, spec backend.Spec, material []byte) (backend.Ref, error) {
	ctx = s.context(ctx)
	if err := s.refuse(ctx, spec.Algorithm); err != nil {
		return backend.Ref{}, err
	}
	ref, err := s.keep(s.Backend.Import(ctx, spec, material))
	if s.wipes {
		clear(material)
	}
	return ref, err
}

func (s *small) ImportWrapped(ctx context.Context, spec backend.Spec, with backend.Ref, h crypto.Hash, wrapped []byte) (backend.Ref, error) {
	if s.anyWrapping {
		made, _ := s.made.Load(string(with.Blob))
		if r, ok := made.(backend.Ref); ok {
			with.Spec = r.Spec
		}
	}
	return s.keep(s.Backend.ImportWrapped(s.context(ctx), spec, with, h, wrapped))
}

func (s *small) Load(ctx context.Context, r backend.Ref) (backend.Key, error) {
	if made, ok := s.made.Load(string(r.Blob)); ok && s.load != nil {
		r = s.load(r, made.(backend.Ref))
	}
	key, err := s.Backend.Load(s.context(ctx), r)
	if err == nil && s.key != nil {
		key = s.key(key)
	}
	return key, err
}

func (s *small) Close() error {
	if s.unclosed {
		return nil
	}
	return s.Backend.Close()
}

func (s *small) Random(ctx context.Context, p []byte) error {
	if s.gap && len(p) > 100 {
		p = p[:len(p)-16]
	}
	return s.Backend.Random(ctx, p)
}

func (s *small) Seal(ctx context.Context, plaintext, binding []byte) ([]byte, error) {
	if s.unbound {
		binding = nil
	}
	return s.Backend.Seal(ctx, plaintext, binding)
}

func (s *small) Open(ctx context.Context, sealed, binding []byte) (secret.Bytes, error) {
	if s.unbound {
		binding = nil
	}
	return s.Backend.Open(ctx, sealed, binding)
}

// both makes a signing key of RSA a decrypting one too.
func both(k backend.Key) backend.Key {
	if s, ok := k.(backend.Signer); ok {
		return struct {
			backend.Signer
			decrypts
		}{Signer: s}
	}
	return k
}

type decrypts struct{}

func (decrypts) Decrypt(context.Context, []byte, backend.OAEPOpts) (secret.Bytes, error) {
	return nil, fault.New(fault.Unsupported, "a stub")
}

// repeating gives the same ciphertext for the same plaintext.
func (s *small) repeating(k backend.Key) backend.Key {
	if a, ok := k.(backend.AEAD); ok {
		return &repeatingAEAD{AEAD: a, seen: s.made}
	}
	return k
}

type repeatingAEAD struct {
	backend.AEAD
	seen *sync.Map
}

func (a *repeatingAEAD) Seal(ctx context.Context, dst, plaintext, aad []byte) ([]byte, error) {
	at := "seal" + string(plaintext) + string(aad)
	if ct, ok := a.seen.Load(at); ok {
		return append(dst, ct.([]byte)...), nil
	}
	ct, err := a.AEAD.Seal(ctx, nil, plaintext, aad)
	if err == nil {
		a.seen.Store(at, ct)
	}
	return append(dst, ct...), err
}

// talking says when a ciphertext is too short.
func talking(k backend.Key) backend.Key {
	if a, ok := k.(backend.AEAD); ok {
		return talkingAEAD{a}
	}
	return k
}

type talkingAEAD struct{ backend.AEAD }

func (a talkingAEAD) Open(ctx context.Context, dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < 28 {
		return nil, fault.New(fault.DecryptionFailed, "the ciphertext is too short")
	}
	return a.AEAD.Open(ctx, dst, sealed, aad)
}

// derSigner encodes ECDSA signatures as certificates have them.
func derSigner(k backend.Key) backend.Key {
	if s, ok := k.(backend.Signer); ok {
		return derKey{s}
	}
	return k
}

type derKey struct{ backend.Signer }

func (k derKey) Sign(ctx context.Context, input []byte, o backend.SignOpts) ([]byte, error) {
	sig, err := k.Signer.Sign(ctx, input, o)
	if err != nil || o.Hash == 0 || o.Padding != "" {
		return sig, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(sig[:len(sig)/2]))
		b.AddASN1BigInt(new(big.Int).SetBytes(sig[len(sig)/2:]))
	})
	return b.Bytes()
}

// trimming cuts what is too long to be a digest.
func trimming(k backend.Key) backend.Key {
	if s, ok := k.(backend.Signer); ok {
		return trimmingKey{s}
	}
	return k
}

type trimmingKey struct{ backend.Signer }

func (k trimmingKey) Sign(ctx context.Context, input []byte, o backend.SignOpts) ([]byte, error) {
	if o.Hash == crypto.SHA256 && len(input) > 32 {
		input = input[:32]
	}
	return k.Signer.Sign(ctx, input, o)
}

// shortTag truncates.
func shortTag(k backend.Key) backend.Key {
	if m, ok := k.(backend.MACer); ok {
		return shortMAC{m}
	}
	return k
}

type shortMAC struct{ backend.MACer }

func (m shortMAC) MAC(ctx context.Context, message []byte) ([]byte, error) {
	tag, err := m.MACer.MAC(ctx, message)
	return tag[:len(tag)/2], err
}

// wrapsNothing takes material that RFC 5649 has no wrapping of.
func wrapsNothing(k backend.Key) backend.Key {
	if w, ok := k.(backend.Wrapper); ok {
		return emptyWrapper{w}
	}
	return k
}

type emptyWrapper struct{ backend.Wrapper }

func (w emptyWrapper) Wrap(ctx context.Context, material []byte) ([]byte, error) {
	if len(material) == 0 {
		return make([]byte, 16), nil
	}
	return w.Wrapper.Wrap(ctx, material)
}

// unlabelled answers with the plaintext whatever the label.
func unlabelled(k backend.Key) backend.Key {
	if d, ok := k.(backend.Decrypter); ok {
		return unlabelledKey{d}
	}
	return k
}

type unlabelledKey struct{ backend.Decrypter }

func (k unlabelledKey) Decrypt(ctx context.Context, ct []byte, o backend.OAEPOpts) (secret.Bytes, error) {
	out, err := k.Decrypter.Decrypt(ctx, ct, o)
	if err != nil {
		o.Label = []byte("label")
		return k.Decrypter.Decrypt(ctx, ct, o)
	}
	return out, nil
}

// agreeable gives zeros for a peer that is no good.
func agreeable(k backend.Key) backend.Key {
	if a, ok := k.(backend.Agreer); ok {
		return agreeableKey{a}
	}
	return k
}

type agreeableKey struct{ backend.Agreer }

func (k agreeableKey) Agree(ctx context.Context, peer []byte) (secret.Bytes, error) {
	out, err := k.Agreer.Agree(ctx, peer)
	if fault.Has(err, fault.BadField) && len(peer) == 44 {
		return make(secret.Bytes, 32), nil
	}
	return out, err
}

// oneHash exports with SHA-256 only.
func oneHash(k backend.Key) backend.Key {
	a, isMAC := k.(backend.MACer)
	e, ok := k.(backend.Exporter)
	if !isMAC || !ok {
		return k
	}
	return oneHashKey{a, e}
}

type oneHashKey struct {
	backend.MACer
	exporter backend.Exporter
}

func (k oneHashKey) Export(ctx context.Context, to crypto.PublicKey, _ crypto.Hash) ([]byte, error) {
	return k.exporter.Export(ctx, to, crypto.SHA256)
}
