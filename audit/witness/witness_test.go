package witness_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/audit/witness"
	"github.com/keywright/keywright/store/sqlite"
)

// cosigner is C2SP tlog-cosignature by the text of the specification and nothing of package audit.
type cosigner struct {
	name    string
	private ed25519.PrivateKey
	late    int64 // seconds by which its clock goes wrong
}

func (c cosigner) material() []byte {
	return append([]byte{4}, c.private.Public().(ed25519.PublicKey)...)
}
func (c cosigner) Name() string { return c.name }
func (c cosigner) KeyHash() uint32 {
	h := sha256.Sum256(append([]byte(c.name+"\n"), c.material()...))
	return binary.BigEndian.Uint32(h[:])
}

func (c cosigner) Sign(text []byte) ([]byte, error) {
	now := time.Now().Unix() + c.late
	msg := fmt.Sprintf("cosignature/v1\ntime %d\n%s", now, text)
	return append(binary.BigEndian.AppendUint64(nil, uint64(now)), ed25519.Sign(c.private, []byte(msg))...), nil
}

// peer is a witness written after the protocol.
type peer struct {
	*httptest.Server
	key    string // its verifier key
	logKey note.Verifier
	signer cosigner

	mu     sync.Mutex // guards all below
	seen   tlog.Tree
	answer http.HandlerFunc // nil: as the protocol says
	asked  int
}

func newPeer(t *testing.T, name, logKey string) *peer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{signer: cosigner{name: name, private: private}}
	p.key = fmt.Sprintf("%s+%08x+%s", name, p.signer.KeyHash(), base64.StdEncoding.EncodeToString(p.signer.material()))
	if p.logKey, err = note.NewVerifier(logKey); err != nil {
		t.Fatal(err)
	}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *peer) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.answer != nil {
		p.answer(w, r)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/sub/add-checkpoint" {
		http.Error(w, "no such thing", http.StatusNotFound)
		return
	}
	status, answer := p.add(r.Body)
	if status == http.StatusConflict && answer != "" {
		w.Header().Set("Content-Type", "text/x.tlog.size")
	}
	w.WriteHeader(status)
	fmt.Fprint(w, answer)
}

// add is the protocol's list of checks, in its order.
func (p *peer) add(body io.Reader) (int, string) {
	in := bufio.NewReader(body)
	line, err := in.ReadString('\n')
	text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "old ")
	old, numeric := strconv.ParseInt(text, 10, 64)
	if err != nil || !ok || numeric != nil || strconv.FormatInt(old, 10) != text {
		return http.StatusBadRequest, ""
	}
	var proof tlog.TreeProof
	for {
		if line, err = in.ReadString('\n'); err != nil {
			return http.StatusBadRequest, ""
		}
		if line == "\n" {
			break
		}
		h, err := tlog.ParseHash(strings.TrimSuffix(line, "\n"))
		if err != nil || len(proof) == 63 {
			return http.StatusBadRequest, ""
		}
		proof = append(proof, h)
	}
	signed, err := io.ReadAll(in)
	if err != nil {
		return http.StatusBadRequest, ""
	}
	n, err := note.Open(signed, note.VerifierList(p.logKey))
	if err != nil {
		return http.StatusForbidden, ""
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return http.StatusBadRequest, ""
	}
	var c tlog.Tree
	c.N, err = strconv.ParseInt(lines[1], 10, 64)
	if err == nil {
		c.Hash, err = tlog.ParseHash(lines[2])
	}
	switch {
	case err != nil || lines[0] != p.logKey.Name():
		return http.StatusNotFound, ""
	case old > c.N:
		return http.StatusBadRequest, ""
	case old != p.seen.N:
		return http.StatusConflict, fmt.Sprintf("%d\n", p.seen.N)
	case old == c.N && c.Hash != p.seen.Hash && old > 0:
		return http.StatusConflict, ""
	case old == 0 && len(proof) > 0:
		return http.StatusUnprocessableEntity, ""
	case old > 0 && old < c.N && tlog.CheckTree(proof, c.N, c.Hash, old, p.seen.Hash) != nil:
		return http.StatusUnprocessableEntity, ""
	}
	cosigned, err := note.Sign(&note.Note{Text: n.Text}, p.signer)
	if err != nil {
		return http.StatusInternalServerError, ""
	}
	p.seen = c
	_, signatures, _ := bytes.Cut(cosigned, []byte("\n\n"))
	return http.StatusOK, string(signatures)
}

// logKey signs checkpoints from memory.
type logKey struct{ private ed25519.PrivateKey }

func (k logKey) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }
func (k logKey) Sign(_ context.Context, msg []byte) ([]byte, error) {
	return ed25519.Sign(k.private, msg), nil
}

const origin = "log.example/audit"

// rig is a log on a real store, and its witnesses.
type rig struct {
	log   *audit.Log
	key   string
	store *sqlite.Store
	peers []*peer
}

func open(t *testing.T, path string, private ed25519.PrivateKey, peers []*peer, logger ...*slog.Logger) (*audit.Log, *sqlite.Store) {
	t.Helper()
	store, err := sqlite.OpenURI(t.Context(), "sqlite:"+path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all []audit.Witness
	for _, p := range peers {
		c, err := witness.New(p.key, p.URL+"/sub/", nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	o := audit.Options{Origin: origin, CheckpointEvery: 20 * time.Millisecond, Witnesses: all,
		Signer: func(context.Context) (audit.CheckpointSigner, error) { return logKey{private}, nil }}
	if len(logger) > 0 {
		o.Logger = logger[0]
	}
	log, err := audit.Open(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	return log, store
}

func closeAll(t *testing.T, log *audit.Log, store *sqlite.Store) {
	t.Helper()
	if err := errors.Join(log.Close(context.Background()), store.Close()); err != nil {
		t.Error(err)
	}
}

func newRig(t *testing.T, names ...string) *rig {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	if r.key, err = note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		r.peers = append(r.peers, newPeer(t, name, r.key))
	}
	r.log, r.store = open(t, filepath.Join(t.TempDir(), "log.db"), private, r.peers)
	t.Cleanup(func() { closeAll(t, r.log, r.store) })
	return r
}

func (r *rig) keys() []string {
	var keys []string
	for _, p := range r.peers {
		keys = append(keys, p.key)
	}
	return keys
}

// record appends entries.
func (r *rig) record(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := r.log.Record(t.Context(), &audit.Entry{Principal: "p", Action: "a", Outcome: "ok"}); err != nil {
			t.Fatal(err)
		}
	}
}

// await waits until the newest cosigned checkpoint is of at least size entries and bears so many cosignatures.
func (r *rig) await(t *testing.T, size uint64, cosignatures int) []byte {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		signed, err := r.log.Cosigned(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if signed == nil {
			continue
		}
		c, err := audit.OpenCheckpoint(signed, r.key)
		if err != nil {
			t.Fatal(err)
		}
		found, err := audit.Cosignatures(signed, r.keys())
		if err != nil {
			t.Fatal(err)
		}
		if c.Size >= size && len(found) == cosignatures {
			for _, f := range found {
				if since := time.Since(f.At); since < -time.Second || since > time.Minute {
					t.Errorf("%s cosigned at %v", f.Witness, f.At)
				}
			}
			return signed
		}
	}
	t.Fatalf("no checkpoint of %d entries with %d cosignatures", size, cosignatures)
	return nil
}

// TestCosigned: both witnesses cosign as the log grows, one that was silent for a while catches up.
func TestCosigned(t *testing.T) {
	r := newRig(t, "w1.example", "w2.example")
	r.record(t, 3)
	r.await(t, 3, 2)
	second := r.peers[1]
	second.mu.Lock()
	second.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	second.mu.Unlock()
	r.record(t, 300)
	r.await(t, 303, 1)
	second.mu.Lock()
	second.answer = nil
	second.mu.Unlock()
	signed := r.await(t, 303, 2)
	for name, key := range map[string]string{"the log": r.key, "nobody": "x"} {
		if _, err := audit.Cosignatures(signed, []string{key}); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("the key of %s counts as a witness's: %v", name, err)
		}
	}
	if _, err := audit.OpenCheckpoint(signed, r.peers[0].key); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("a witness's key opens a checkpoint: %v", err)
	}
	// One changed byte of a cosignature makes the whole of it worthless.
	line := bytes.Index(signed, []byte("— w1.example "))
	damaged := slices.Clone(signed)
	damaged[line+len("— w1.example ")+60] ^= 1
	if _, err := audit.Cosignatures(damaged, r.keys()); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("a damaged cosignature passes: %v", err)
	}
}

// TestRestarted: a log that does not know how far its witness is asks and goes on from there.
func TestRestarted(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "log.db")
	peers := []*peer{newPeer(t, "w.example", key)}
	for round := range 3 {
		r := &rig{key: key, peers: peers}
		r.log, r.store = open(t, path, private, peers)
		r.record(t, 5)
		r.await(t, uint64(5*(round+1)), 1)
		closeAll(t, r.log, r.store)
	}
}

// TestRewritten: a witness that has seen another log under this name does not cosign, and nothing is kept.
func TestRewritten(t *testing.T) {
	r := newRig(t, "w.example")
	r.peers[0].mu.Lock()
	r.peers[0].seen = tlog.Tree{N: 2, Hash: tlog.RecordHash([]byte("another"))}
	r.peers[0].mu.Unlock()
	r.record(t, 4)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r.peers[0].mu.Lock()
		asked := r.peers[0].asked
		r.peers[0].mu.Unlock()
		if asked >= 3 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the witness was not asked")
		}
	}
	if signed, err := r.log.Cosigned(t.Context()); signed != nil || err != nil {
		t.Errorf("kept %q, %v", signed, err)
	}
}

// lines takes what a logger says.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

// TestContradictionIsSaid: a store that was exchanged for an older one is told by the witness as such, though the witness was ahead of it or silent at
// first; and it is said once, not every minute.
func TestContradictionIsSaid(t *testing.T) {
	for name, first := range map[string]func(p *peer){
		"ahead": func(p *peer) { p.seen = tlog.Tree{N: 4, Hash: tlog.RecordHash([]byte("another"))} },
		"silent": func(p *peer) {
			p.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, private, err := ed25519.GenerateKey(nil)
			if err != nil {
				t.Fatal(err)
			}
			r := &rig{}
			if r.key, err = note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey)); err != nil {
				t.Fatal(err)
			}
			p := newPeer(t, "w.example", r.key)
			first(p)
			var said lines
			r.log, r.store = open(t, filepath.Join(t.TempDir(), "log.db"), private, []*peer{p}, slog.New(slog.NewTextHandler(&said, nil)))
			t.Cleanup(func() { closeAll(t, r.log, r.store) })
			until := func(what string, ok func() bool) {
				t.Helper()
				for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("%s: the log has %s", what, said.text.String())
					}
				}
			}
			r.record(t, 2)
			until("no first warning", func() bool { return said.count("does not cosign") == 1 })
			p.mu.Lock()
			p.answer, p.seen = nil, tlog.Tree{N: 4, Hash: tlog.RecordHash([]byte("another"))}
			p.mu.Unlock()
			r.record(t, 5)
			until("the contradiction is not said", func() bool { return said.count("it was rewritten") == 1 })
			p.mu.Lock()
			asked := p.asked
			p.mu.Unlock()
			until("not asked again", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.asked > asked+3 })
			if n := said.count("it was rewritten"); n != 1 {
				t.Errorf("said %d times", n)
			}
		})
	}
}

// TestNoTime: a witness that states a time that cannot be does not spoil the cosignatures of the others.
func TestNoTime(t *testing.T) {
	r := newRig(t, "w1.example", "w2.example")
	second := r.peers[1]
	second.mu.Lock()
	second.signer.late = 1 << 50
	second.mu.Unlock()
	r.record(t, 3)
	r.await(t, 3, 1)
	second.mu.Lock()
	second.signer.late = 0
	second.mu.Unlock()
	r.record(t, 3)
	r.await(t, 6, 2)
}

// TestAnswers: what a witness may answer, and what becomes of it.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header string
		body   string
		size   uint64 // of a WitnessSize; else another error, or none
		lines  string
	}{
		"ok":          {200, "", "— w AAAA\n", 0, "— w AAAA\n"},
		"size":        {409, "text/x.tlog.size", "17\n", 17, ""},
		"zero":        {409, "text/x.tlog.size", "017\n", 0, ""},
		"no type":     {409, "text/plain", "17\n", 0, ""},
		"no end":      {409, "text/x.tlog.size", "17", 0, ""},
		"unknown log": {404, "", "", 0, ""},
		"key":         {403, "", "", 0, ""},
		"rewritten":   {422, "", "", 0, ""},
		"elsewhere":   {302, "", "", 0, ""},
		"long":        {200, "", strings.Repeat("x", 1<<17), 0, ""},
		"broken":      {500, "", "", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				want := "old 3\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n\nnote"
				if err != nil || string(body) != want {
					t.Errorf("asked with %q, %v", body, err)
				}
				if c.status == 302 {
					w.Header().Set("Location", "/there")
				}
				w.Header().Set("Content-Type", c.header)
				w.WriteHeader(c.status)
				io.WriteString(w, c.body) //nolint:errcheck // the client may have gone
			}))
			defer s.Close()
			client, err := witness.New("key", s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := client.AddCheckpoint(t.Context(), 3, [][32]byte{{}}, []byte("note"))
			var size *audit.WitnessSize
			switch {
			case c.lines != "":
				if err != nil || string(lines) != c.lines {
					t.Errorf("%q, %v", lines, err)
				}
			case c.size > 0:
				if !errors.As(err, &size) || size.Size != c.size {
					t.Errorf("%v", err)
				}
			case err == nil || errors.As(err, &size):
				t.Errorf("%q, %v", lines, err)
			}
		})
	}
	for _, bad := range []string{"", "w.example", "ftp://w.example", "https://u:p@w.example", "https://w.example/?q", "https://w.example/#f", "://"} {
		if _, err := witness.New("key", bad, nil); err == nil {
			t.Errorf("the prefix %q is taken", bad)
		}
	}
}
