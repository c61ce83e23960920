package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keywright/keywright/fault"
)

// exported gives a log of n entries and its export.
func exported(t testing.TB, s *memStore, signer *softSigner, n int) (l *Log, export []byte, key string) {
	t.Helper()
	s.fill(t, n-int(s.head.Size))
	l = openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	var b bytes.Buffer
	c, err := l.Export(context.Background(), &b, nil)
	if err != nil || c.Size != uint64(n) {
		t.Fatal(c, err)
	}
	return l, b.Bytes(), mustKey(t, l)
}

func TestExport(t *testing.T) {
	signer := newSigner(t)
	for _, n := range []int{0, 1, 2, 255, 256, 257, 511, 512, 513, 700, 1024, 1025, 4095, 4097, 5000, 8200} {
		s := newMemStore()
		l, export, key := exported(t, s, signer, n)
		var calls, last uint64
		r, err := VerifyExport(iotest.HalfReader(bytes.NewReader(export)), nil, key, func(n uint64) { calls++; last = n })
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		if r.Size != uint64(n) || r.Root != mth(s.hashes) || r.Origin != testOrigin || r.Kept != 0 || last != r.Size || calls != blockCount(r.Size) {
			t.Errorf("%d entries: %+v, %d calls", n, r, calls)
		}
		if n > 0 && (!r.First.Equal(testEntry(0).Time) || !r.Last.Equal(testEntry(n-1).Time)) {
			t.Errorf("%d entries: from %v to %v", n, r.First, r.Last)
		}
		if n < 4000 && !bytes.Contains(export, bytes.Join(append(s.leaves[:min(n, 256):min(n, 256)], nil), []byte("\n"))) {
			t.Errorf("%d entries: not the exact lines", n)
		}
		var again bytes.Buffer
		if _, err := l.Export(context.Background(), &again, nil); err != nil || !bytes.Equal(again.Bytes(), export) {
			t.Errorf("%d entries: a second export differs: %v", n, err)
		}
	}
}

// While the device of the key is away an export ends with the newest checkpoint, and without one, or when something else is wrong, there is none.
func TestExportWithoutDevice(t *testing.T) {
	ctx := context.Background()
	signer, s := newSigner(t), newMemStore()
	s.fill(t, 300)
	l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
	var b bytes.Buffer
	signer.err = fault.New(fault.BackendUnavailable, "gone")
	_, err := l.Export(ctx, &b, nil)
	wantFault(t, err, fault.BackendUnavailable)
	signer.err = nil
	if _, err := l.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	key := mustKey(t, l)
	s.fill(t, 50)
	for _, code := range []fault.Code{fault.BackendUnavailable, fault.Timeout, fault.Overloaded} {
		signer.err = fault.New(code, "gone")
		for _, l := range []*Log{l, openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})} { // also one that was started meanwhile
			b.Reset()
			c, err := l.Export(ctx, &b, nil)
			if err != nil || c.Size != 300 {
				t.Fatalf("%s: %+v, %v", code, c, err)
			}
			if r, err := VerifyExport(&b, nil, key, nil); err != nil || r.Size != 300 {
				t.Errorf("%s: %+v, %v", code, r, err)
			}
		}
	}
	signer.err = fault.New(fault.KeyMaterial, "damaged")
	if _, err := l.Export(ctx, &b, nil); !fault.Has(err, fault.KeyMaterial) {
		t.Errorf("a key that is damaged: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	signer.err = fault.New(fault.Timeout, "late")
	if _, err := l.Export(ended, &b, nil); err == nil {
		t.Error("an export whose caller has left")
	}
	signer.err = nil
	b.Reset()
	if c, err := l.Export(ctx, &b, nil); err != nil || c.Size != 350 {
		t.Errorf("with the device: %+v, %v", c, err)
	}
}

// An auditor's own checkpoint must be of the same log, whatever its size.
func TestExportKeptCheckpoint(t *testing.T) {
	ctx := context.Background()
	signer, s := newSigner(t), newMemStore()
	kept := map[int][]byte{}
	for _, n := range []int{0, 1, 200, 256, 400, 600} {
		s.fill(t, n-int(s.head.Size))
		l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
		var err error
		if kept[n], err = l.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
	}
	_, export, key := exported(t, s, signer, 600)
	for n, c := range kept {
		if r, err := VerifyExport(bytes.NewReader(export), c, key, nil); err != nil || r.Kept != uint64(n) || r.Size != 600 {
			t.Errorf("kept at %d: %+v, %v", n, r, err)
		}
	}
	// The same key signs for a log that was rewritten at entry 250: only the kept checkpoints can tell, from 256 on.
	forged := newMemStore()
	forged.fill(t, 250)
	leaf := AppendLeaf(nil, &Entry{Action: "forged"})
	forged.leaves, forged.hashes = append(forged.leaves, leaf), append(forged.hashes, LeafHash(leaf))
	forged.head.add(forged.hashes[250], nil)
	_, export, _ = exported(t, forged, signer, 600)
	if _, err := VerifyExport(bytes.NewReader(export), nil, key, nil); err != nil {
		t.Fatal(err)
	}
	for n, c := range kept {
		_, err := VerifyExport(bytes.NewReader(export), c, key, nil)
		var bad *BadExport
		if n <= 250 && err != nil || n > 250 && (!errors.As(err, &bad) || bad.Last != uint64(n)-1) {
			t.Errorf("kept at %d: %v", n, err)
		}
	}
	_, short, _ := exported(t, newMemStore(), signer, 300)
	if _, err := VerifyExport(bytes.NewReader(short), kept[400], key, nil); err == nil {
		t.Error("an export shorter than the kept checkpoint was accepted")
	}
	if _, err := VerifyExport(bytes.NewReader(short), []byte("x"), key, nil); !errors.Is(err, ErrCheckpoint) {
		t.Error(err)
	}
	if _, err := VerifyExport(bytes.NewReader(short), nil, strings.Replace(key, "keys", "kays", 1), nil); !errors.Is(err, ErrCheckpoint) {
		t.Error(err)
	}
	other := newSigner(t)
	otherLog := openLog(t, newMemStore(), Options{Signer: other.open, CheckpointEvery: -1})
	if _, err := VerifyExport(bytes.NewReader(short), nil, mustKey(t, otherLog), nil); !errors.Is(err, ErrCheckpoint) {
		t.Error(err)
	}
}

// Whatever is done to an export, it does not verify, and the entries named hold the damage.
func TestExportTampered(t *testing.T) {
	s := newMemStore()
	_, export, key := exported(t, s, newSigner(t), 700)
	lines := bytes.SplitAfter(export, []byte("\n"))
	lines = lines[:len(lines)-1]
	start := 0 // line of entry 0
	for !bytes.HasPrefix(lines[start], []byte("{")) {
		start++
	}
	at := func(i int) int { return start + i + i/256 } // line of entry i
	other := AppendLeaf(nil, &Entry{Action: "other"})
	other = append(other, '\n')
	for name, c := range map[string]struct {
		do          func(l [][]byte) [][]byte
		first, last uint64
	}{
		"changed": {func(l [][]byte) [][]byte { l[at(300)] = other; return l }, 256, 511},
		"outcome": {func(l [][]byte) [][]byte {
			l[at(5)] = bytes.Replace(l[at(5)], []byte(`"ok"`), []byte(`"no"`), 1)
			return l
		}, 0, 255},
		"damaged":     {func(l [][]byte) [][]byte { l[at(300)] = []byte("{}\n"); return l }, 300, 300},
		"empty line":  {func(l [][]byte) [][]byte { l[at(300)] = []byte("\n"); return l }, 300, 300},
		"long line":   {func(l [][]byte) [][]byte { l[at(300)] = bytes.Repeat([]byte("a"), 1<<20); return l }, 300, 300},
		"dropped":     {func(l [][]byte) [][]byte { return append(l[:at(300)], l[at(300)+1:]...) }, 256, 511},
		"added":       {func(l [][]byte) [][]byte { return append(l[:at(300)], append([][]byte{other}, l[at(300):]...)...) }, 256, 511},
		"doubled":     {func(l [][]byte) [][]byte { return append(l[:at(300)], append([][]byte{l[at(300)]}, l[at(300):]...)...) }, 256, 511},
		"swapped":     {func(l [][]byte) [][]byte { l[at(300)], l[at(301)] = l[at(301)], l[at(300)]; return l }, 256, 511},
		"swapped far": {func(l [][]byte) [][]byte { l[at(3)], l[at(600)] = l[at(600)], l[at(3)]; return l }, 0, 255},
		"blocks swapped": {func(l [][]byte) [][]byte {
			var out [][]byte
			out = append(out, l[:start]...)
			out = append(out, l[start+257:start+514]...)
			out = append(out, l[start:start+257]...)
			return append(out, l[start+514:]...)
		}, 0, 255},
		"block dropped": {func(l [][]byte) [][]byte { return append(l[:start], l[start+257:]...) }, 0, 255},
		"last dropped":  {func(l [][]byte) [][]byte { return append(l[:at(699)], l[at(699)+1:]...) }, 512, 699},
		"last added":    {func(l [][]byte) [][]byte { return append(l[:at(699)+1], other, l[at(699)+1]) }, 512, 699},
		"cut":           {func(l [][]byte) [][]byte { return l[:at(300)] }, 300, 300},
		"cut in line":   {func(l [][]byte) [][]byte { l[at(300)] = l[at(300)][:20]; return l[:at(300)+1] }, 300, 300},
		"cut at block":  {func(l [][]byte) [][]byte { return l[:at(512)-1] }, 256, 511},
		"no block line": {func(l [][]byte) [][]byte { return append(l[:at(256)-1], l[at(256):]...) }, 0, 255},
		"block number": {func(l [][]byte) [][]byte {
			l[at(256)-1] = bytes.Replace(l[at(256)-1], []byte("#0"), []byte("#1"), 1)
			return l
		}, 0, 255},
		"block number 0": {func(l [][]byte) [][]byte {
			l[at(256)-1] = bytes.Replace(l[at(256)-1], []byte("#0"), []byte("#00"), 1)
			return l
		}, 0, 255},
		"block hash":  {func(l [][]byte) [][]byte { b := bytes.Clone(l[at(256)-1]); b[10] ^= 1; l[at(256)-1] = b; return l }, 0, 255},
		"block short": {func(l [][]byte) [][]byte { l[at(256)-1] = []byte("#0\n"); return l }, 0, 255},
		"block space": {func(l [][]byte) [][]byte {
			l[at(256)-1] = bytes.Replace(l[at(256)-1], []byte("\n"), []byte(" \n"), 1)
			return l
		}, 0, 255},
		"block return": {func(l [][]byte) [][]byte {
			l[at(256)-1] = bytes.Replace(l[at(256)-1], []byte("\n"), []byte("\r\n"), 1)
			return l
		}, 0, 255},
		"trailing":      {func(l [][]byte) [][]byte { return append(l, other) }, 0, 0},
		"trailing byte": {func(l [][]byte) [][]byte { return append(l, []byte("\n")) }, 0, 0},
		"version":       {func(l [][]byte) [][]byte { l[0] = []byte("keywright-audit-export/v2\n"); return l }, 0, 0},
		"no header":     {func(l [][]byte) [][]byte { return l[1:] }, 0, 0},
		"nothing":       {func([][]byte) [][]byte { return nil }, 0, 0},
		"header only":   {func(l [][]byte) [][]byte { return l[:3] }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bad := bytes.Join(c.do(append([][]byte(nil), lines...)), nil)
			_, err := VerifyExport(bytes.NewReader(bad), nil, key, nil)
			var b *BadExport
			if !errors.As(err, &b) {
				t.Fatalf("got %v", err)
			}
			if b.First != c.first || b.Last != c.last || b.Line == 0 {
				t.Errorf("names line %d, entries %d to %d, want %d to %d: %v", b.Line, b.First, b.Last, c.first, c.last, err)
			}
		})
	}
}

func TestBadExportMessage(t *testing.T) {
	for want, e := range map[string]*BadExport{
		"line 3: why":                     {Line: 3, Reason: "why"},
		"line 9: entry 4: why":            {Line: 9, First: 4, Last: 4, Reason: "why"},
		"line 300: entries 0 to 255: why": {Line: 300, Last: 255, Reason: "why"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// No single bit of an export can change unseen.
func TestExportBits(t *testing.T) {
	_, export, key := exported(t, newMemStore(), newSigner(t), 300)
	rnd := rand.New(rand.NewPCG(3, 4))
	sig := bytes.Index(export, []byte("\n\n{")) // the last digit of the signature has unused bits
	for n := range 800 {
		i := rnd.IntN(len(export))
		if n < 400 {
			i = n // the head in full
		}
		if i == sig-2 || i == sig-1 {
			continue
		}
		bad := bytes.Clone(export)
		bad[i] ^= 1 << rnd.IntN(8)
		if _, err := VerifyExport(bytes.NewReader(bad), nil, key, nil); err == nil {
			t.Fatalf("byte %d (%q) can be %q", i, export[i], bad[i])
		}
	}
}

func TestExportFaults(t *testing.T) {
	ctx := context.Background()
	signer, s := newSigner(t), newMemStore()
	l, export, key := exported(t, s, signer, 700)
	broken := errors.New("broken pipe")
	if _, err := l.Export(ctx, failingWriter{broken}, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
	for n := range len(export) / 997 {
		r := io.MultiReader(bytes.NewReader(export[:n*997]), iotest.ErrReader(broken))
		if _, err := VerifyExport(r, nil, key, nil); !errors.Is(err, broken) {
			t.Fatalf("reader broken at %d: %v", n*997, err)
		}
	}
	s.leaves[300] = AppendLeaf(nil, &Entry{Action: "forged"})
	_, err := l.Export(ctx, io.Discard, nil)
	if f := wantFault(t, err, fault.StoreCorrupted); !strings.Contains(f.Message, "256 to 511") {
		t.Error(f)
	}
	s.leaves = s.leaves[:500]
	_, err = l.Export(ctx, io.Discard, nil)
	wantFault(t, err, fault.StoreCorrupted)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func FuzzVerifyExport(f *testing.F) {
	s := newMemStore()
	// A fixed key: the corpus and every fuzzing process must agree on it.
	_, export, key := exported(f, s, &softSigner{key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}, 3)
	f.Add(export)
	f.Add(export[:len(export)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := VerifyExport(bytes.NewReader(b), nil, key, nil)
		if err == nil && (r.Size != 3 || r.Root != mth(s.hashes)) {
			t.Fatalf("verified as %+v", r)
		}
	})
}

// The rate is that of one core, from memory.
func BenchmarkVerifyExport(b *testing.B) {
	const n = 100_000
	_, export, key := exported(b, newMemStore(), newSigner(b), n)
	b.ReportAllocs()
	b.SetBytes(int64(len(export)))
	for b.Loop() {
		if _, err := VerifyExport(bufio.NewReader(bytes.NewReader(export)), nil, key, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
