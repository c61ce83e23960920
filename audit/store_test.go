package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

// memStore is a Store in memory whose every call can be made to fail. The real stores have a suite of their own; this one
// is here for the faults that a real one cannot be brought to on demand.
type memStore struct {
	mu       sync.Mutex
	head     Head
	leaves   [][]byte
	hashes   [][32]byte
	kept     uint64 // of the first entry that is not pruned
	pruneErr error
	onPrune  func() // before anything is pruned
	nodes    map[Node][32]byte
	cosigned []byte
	note     []byte
	applied  map[string]int // changes carried out, by name
	batches  []int
	reads    int // calls of the read methods

	onCommit  func(n int, batch []*Item) error // before anything is stored; n from 1
	afterward func(n int) error                // after all is stored: durable, and yet an error
	searchMax int                              // entries looked at by one AuditSearch
	commits   int
	saves     int
	saveErr   error
	failRead  int // which read from now on fails, from 1; 0 none
	readErr   error
}

// read counts a read and fails the one that is to fail.
func (s *memStore) read() error {
	s.reads++
	if s.failRead > 0 {
		if s.failRead--; s.failRead == 0 {
			return s.readErr
		}
	}
	return nil
}

func newMemStore() *memStore {
	return &memStore{nodes: map[Node][32]byte{}, applied: map[string]int{}, searchMax: 50}
}

// memChange is a change that counts itself, or fails.
type memChange struct {
	name string
	err  error
}

func (memChange) StoreChange() {}

func (s *memStore) Commit(ctx context.Context, batch []*Item, extend func(Head, []*Item) (Head, []Node, error)) error {
	s.mu.Lock()
	s.commits++
	n, onCommit, afterward := s.commits, s.onCommit, s.afterward
	s.mu.Unlock()
	if onCommit != nil {
		if err := onCommit(n, batch); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var live []*Item
	var changes []string
	for _, it := range batch {
		var mine []string
		for _, c := range it.Changes {
			m := c.(memChange)
			if m.err != nil {
				it.Err = m.err
				break
			}
			mine = append(mine, m.name)
		}
		if it.Err == nil {
			live, changes = append(live, it), append(changes, mine...)
		}
	}
	head, nodes, err := extend(s.head, live)
	if err != nil {
		return err
	}
	for i, it := range live {
		if it.Index != s.head.Size+uint64(i) {
			return fmt.Errorf("index %d, want %d", it.Index, s.head.Size+uint64(i))
		}
		s.leaves = append(s.leaves, append([]byte(nil), it.Leaf...))
		s.hashes = append(s.hashes, it.Hash)
	}
	for _, c := range changes {
		s.applied[c]++
	}
	for _, x := range nodes {
		s.nodes[Node{Level: x.Level, Index: x.Index}] = x.Hash
	}
	s.head = head.clone()
	s.batches = append(s.batches, len(batch))
	if afterward != nil {
		return afterward(n)
	}
	return nil
}

func (s *memStore) AuditHead(context.Context) (Head, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return Head{}, err
	}
	return s.head.clone(), nil
}

func (s *memStore) AuditEntries(_ context.Context, from uint64, limit int) ([]Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return nil, err
	}
	var out []Stored
	for i := from; i < uint64(len(s.leaves)) && len(out) < limit; i++ {
		if i < s.kept {
			out = append(out, Stored{Index: i, Hash: s.hashes[i]})
			continue
		}
		out = append(out, Stored{Index: i, Leaf: s.leaves[i]})
	}
	return out, nil
}

func (s *memStore) AuditSearch(_ context.Context, f Filter, before uint64, limit int) (found []Stored, next uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return nil, 0, err
	}
	var out []Stored
	i := min(before, uint64(len(s.leaves)))
	defer func() {
		if next <= s.kept {
			next = 0
		}
	}()
	for seen := 0; i > s.kept && seen < s.searchMax && len(out) < limit; seen++ {
		i--
		e, err := ParseLeaf(s.leaves[i])
		if err != nil {
			return nil, 0, err
		}
		if (f.Tenant == nil || *f.Tenant == e.Tenant) && (f.Key == nil || *f.Key == e.Key) &&
			(f.Principal == "" || f.Principal == e.Principal) && (f.Action == "" || f.Action == e.Action) &&
			(f.Outcome == "" || f.Outcome == e.Outcome) &&
			(f.From.IsZero() || !e.Time.Before(f.From)) && (f.To.IsZero() || e.Time.Before(f.To)) {
			out = append(out, Stored{Index: i, Leaf: s.leaves[i]})
		}
	}
	return out, i, nil
}

func (s *memStore) AuditHashes(_ context.Context, from uint64, n int) ([][32]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return nil, err
	}
	if from > uint64(len(s.hashes)) {
		return nil, nil
	}
	return append([][32]byte(nil), s.hashes[from:min(from+uint64(n), uint64(len(s.hashes)))]...), nil
}

func (s *memStore) AuditNodes(_ context.Context, nodes []Node) ([][32]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return nil, err
	}
	out := make([][32]byte, len(nodes))
	for i, n := range nodes {
		h, ok := s.nodes[Node{Level: n.Level, Index: n.Index}]
		if !ok {
			return nil, fmt.Errorf("no node %d of level %d", n.Index, n.Level)
		}
		out[i] = h
	}
	return out, nil
}

func (s *memStore) AuditKept(context.Context) (uint64, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return 0, time.Time{}, err
	}
	if s.kept == uint64(len(s.leaves)) {
		return s.kept, time.Time{}, nil
	}
	e, err := ParseLeaf(s.leaves[s.kept])
	return s.kept, e.Time, err
}

func (s *memStore) PruneAudit(_ context.Context, first uint64, hashes [][32]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first != s.kept || first+uint64(len(hashes)) >= uint64(len(s.leaves)) {
		return fault.New(fault.Conflict, "not these")
	}
	if s.onPrune != nil {
		s.onPrune()
	}
	if s.pruneErr != nil {
		return s.pruneErr
	}
	for i, h := range hashes {
		if s.hashes[first+uint64(i)] != h {
			return fmt.Errorf("the hash of entry %d is another", first+uint64(i))
		}
		s.leaves[first+uint64(i)] = nil
	}
	s.kept += uint64(len(hashes))
	return nil
}

func (s *memStore) SaveCheckpoint(_ context.Context, _ uint64, note []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saveErr != nil {
		return s.saveErr
	}
	s.note = note
	s.saves++
	return nil
}

func (s *memStore) SaveCosigned(_ context.Context, _ uint64, note []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cosigned = note
	return nil
}

func (s *memStore) Cosigned(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cosigned, nil
}

func (s *memStore) Checkpoint(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.note, nil
}

// fill appends n entries without a log.
func (s *memStore) fill(t testing.TB, n int) {
	t.Helper()
	for range n {
		s.append(testEntry(int(s.head.Size)))
	}
}

func (s *memStore) append(e *Entry) {
	leaf := AppendLeaf(nil, e)
	s.leaves = append(s.leaves, leaf)
	s.hashes = append(s.hashes, LeafHash(leaf))
	for _, x := range s.head.add(s.hashes[s.head.Size], nil) {
		s.nodes[Node{Level: x.Level, Index: x.Index}] = x.Hash
	}
}

func testEntry(i int) *Entry {
	return &Entry{
		Time: time.Unix(1_800_000_000+int64(i), 123_456_000).UTC(), Principal: fmt.Sprintf("api-key:%d", i%7), Action: "encrypt",
		Key: testKey(i % 5), KeyVersion: 1, Outcome: "ok", Latency: 42 * time.Microsecond, RequestID: fmt.Sprintf("req-%d", i),
	}
}

func testKey(i int) (u [16]byte) {
	u[0], u[15] = 0xab, byte(i+1)
	return u
}

// softSigner is a checkpoint key in memory.
type softSigner struct {
	key   ed25519.PrivateKey
	mu    sync.Mutex
	signs int
	err   error
	wrong bool
	hold  chan struct{}
}

func newSigner(t testing.TB) *softSigner {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &softSigner{key: key}
}

func (s *softSigner) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

func (s *softSigner) Sign(ctx context.Context, msg []byte) ([]byte, error) {
	s.mu.Lock()
	s.signs++
	err, wrong, hold := s.err, s.wrong, s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	sig := ed25519.Sign(s.key, msg)
	if wrong {
		sig[5] ^= 1
	}
	return sig, nil
}

func (s *softSigner) open(context.Context) (CheckpointSigner, error) { return s, nil }

const testOrigin = "keys.example.org/audit"

func openLog(t testing.TB, s Store, opts Options) *Log {
	t.Helper()
	if opts.Origin == "" {
		opts.Origin = testOrigin
	}
	l, err := Open(context.Background(), s, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Errorf("closing the log: %v", err)
		}
	})
	return l
}

// wantFault may be called from any goroutine of the test; it never gives nil.
func wantFault(t testing.TB, err error, code fault.Code) *fault.Error {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code {
		t.Errorf("got error %v, want %s", err, code)
		return fault.New(code, "")
	}
	return f
}
