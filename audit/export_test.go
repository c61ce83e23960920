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

	"pgregory.net/rapid"

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
		if n > 0 && n < 4000 && !bytes.Contains(export, bytes.Join(append(s.leaves[:min(n, 256):min(n, 256)], nil), []byte("\n"))) {
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

// Whatever is done to an export, it does not verify, and what is named is the damage.
func TestExportTampered(t *testing.T) {
	s := newMemStore()
	_, export, key := exported(t, s, newSigner(t), 700)
	lines := bytes.SplitAfter(export, []byte("\n"))
	lines = lines[:len(lines)-1]
	start := 0 // line of block 0
	for !bytes.HasPrefix(lines[start], []byte("#")) {
		start++
	}
	at := func(i int) int { return start + i + i/256 + 1 } // line of entry i
	block := func(i int) int { return start + i*257 }      // line of block i
	other := AppendLeaf(nil, &Entry{Action: "other"})
	other = append(other, '\n')
	replace := func(i int, old, by string) func([][]byte) [][]byte {
		return func(l [][]byte) [][]byte { l[i] = bytes.Replace(l[i], []byte(old), []byte(by), 1); return l }
	}
	for name, c := range map[string]struct {
		do          func(l [][]byte) [][]byte
		first, last uint64
		line        int
	}{
		"changed":            {func(l [][]byte) [][]byte { l[at(300)] = other; return l }, 300, 300, at(300)},
		"outcome":            {replace(at(5), `"ok"`, `"no"`), 5, 5, at(5)},
		"first":              {replace(at(0), `"ok"`, `"no"`), 0, 0, at(0)},
		"last":               {replace(at(699), `"ok"`, `"no"`), 699, 699, at(699)},
		"damaged":            {func(l [][]byte) [][]byte { l[at(300)] = []byte("{}\n"); return l }, 300, 300, at(300)},
		"empty line":         {func(l [][]byte) [][]byte { l[at(300)] = []byte("\n"); return l }, 300, 300, at(300)},
		"long line":          {func(l [][]byte) [][]byte { l[at(300)] = bytes.Repeat([]byte("a"), 1<<20); return l }, 300, 300, at(300)},
		"dropped":            {func(l [][]byte) [][]byte { return append(l[:at(300)], l[at(300)+1:]...) }, 300, 300, at(300)},
		"added":              {func(l [][]byte) [][]byte { return append(l[:at(300)], append([][]byte{other}, l[at(300):]...)...) }, 300, 300, at(300)},
		"doubled":            {func(l [][]byte) [][]byte { return append(l[:at(300)], append([][]byte{l[at(300)]}, l[at(300):]...)...) }, 301, 301, at(301)},
		"swapped":            {func(l [][]byte) [][]byte { l[at(300)], l[at(301)] = l[at(301)], l[at(300)]; return l }, 300, 300, at(300)},
		"swapped far":        {func(l [][]byte) [][]byte { l[at(3)], l[at(600)] = l[at(600)], l[at(3)]; return l }, 3, 3, at(3)},
		"as if pruned":       {func(l [][]byte) [][]byte { l[at(300)] = []byte("-\n"); return l }, 300, 300, at(300)},
		"first as if pruned": {func(l [][]byte) [][]byte { l[at(0)] = []byte("-\n"); return l }, 0, 0, at(0)},
		"all as if pruned": {func(l [][]byte) [][]byte {
			for i := range 700 {
				l[at(i)] = []byte("-\n")
			}
			return l
		}, 0, 699, at(0)},
		"blocks swapped": {func(l [][]byte) [][]byte {
			var out [][]byte
			out = append(out, l[:start]...)
			out = append(out, l[block(1):block(2)]...)
			out = append(out, l[start:block(1)]...)
			return append(out, l[block(2):]...)
		}, 0, 255, start},
		"block dropped":         {func(l [][]byte) [][]byte { return append(l[:start], l[block(1):]...) }, 0, 255, start},
		"last dropped":          {func(l [][]byte) [][]byte { return l[:at(699)] }, 699, 699, at(699)},
		"last of block dropped": {func(l [][]byte) [][]byte { return append(l[:at(255)], l[at(255)+1:]...) }, 255, 255, at(255)},
		"last of block added":   {func(l [][]byte) [][]byte { return append(l[:at(255)+1], append([][]byte{other}, l[at(255)+1:]...)...) }, 256, 511, block(1)},
		"cut":                   {func(l [][]byte) [][]byte { return l[:at(300)] }, 300, 300, at(300)},
		"cut in line":           {func(l [][]byte) [][]byte { l[at(300)] = l[at(300)][:20]; return l[:at(300)+1] }, 300, 300, at(300)},
		"cut at block":          {func(l [][]byte) [][]byte { return l[:block(2)] }, 512, 699, block(2)},
		"no block line":         {func(l [][]byte) [][]byte { return append(l[:block(1)], l[block(1)+1:]...) }, 256, 511, block(1)},
		"block number":          {replace(block(0), "#0", "#1"), 0, 255, start},
		"block number 0":        {replace(block(0), "#0", "#00"), 0, 255, start},
		"block hash":            {func(l [][]byte) [][]byte { l[start] = flipped(l[start], 30); return l }, 0, 255, start},
		"block proof":           {func(l [][]byte) [][]byte { l[start] = flipped(l[start], len(l[start])-10); return l }, 0, 255, start},
		"block without proof": {func(l [][]byte) [][]byte {
			l[start] = append(bytes.Clone(l[start][:bytes.LastIndexByte(l[start], ' ')]), '\n')
			return l
		}, 0, 255, start},
		"block short":  {func(l [][]byte) [][]byte { l[start] = []byte("#0\n"); return l }, 0, 255, start},
		"block space":  {replace(start, "\n", " \n"), 0, 255, start},
		"block return": {replace(start, "\n", "\r\n"), 0, 255, start},
		"hash and entry": {func(l [][]byte) [][]byte {
			l[start], l[at(7)] = flipped(l[start], 30), other
			return l
		}, 0, 255, start},
		"trailing":      {func(l [][]byte) [][]byte { return append(l, other) }, 0, 0, at(700)},
		"trailing byte": {func(l [][]byte) [][]byte { return append(l, []byte("\n")) }, 0, 0, at(700)},
		"version":       {func(l [][]byte) [][]byte { l[0] = []byte("keywright-audit-export/v3\n"); return l }, 0, 0, 0},
		"version 1":     {func(l [][]byte) [][]byte { l[0] = []byte("keywright-audit-export/v1\n"); return l }, 0, 0, start},
		"no header":     {func(l [][]byte) [][]byte { return l[1:] }, 0, 0, 0},
		"nothing":       {func([][]byte) [][]byte { return nil }, 0, 0, 0},
		"header only":   {func(l [][]byte) [][]byte { return l[:3] }, 0, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			bad := bytes.Join(c.do(append([][]byte(nil), lines...)), nil)
			_, err := VerifyExport(bytes.NewReader(bad), nil, key, nil)
			var b *BadExport
			if !errors.As(err, &b) {
				t.Fatalf("got %v", err)
			}
			if b.First != c.first || b.Last != c.last || b.Line != uint64(c.line)+1 {
				t.Errorf("names line %d, entries %d to %d, want line %d, %d to %d: %v", b.Line, b.First, b.Last, c.line+1, c.first, c.last, err)
			}
			if strings.HasPrefix(name, "first") && !strings.Contains(err.Error(), ": entry 0: ") {
				t.Errorf("does not say which entry: %v", err)
			}
			only := name == "block hash"
			if got := strings.Contains(b.Reason, "themselves are those that were recorded"); got != only {
				t.Errorf("says of the entries: %v", err)
			}
		})
	}
}

// flipped gives a copy of a line of base64 in which one character is another.
func flipped(line []byte, i int) []byte {
	b := bytes.Clone(line)
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return b
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
	sig := bytes.Index(export, []byte("\n\n#")) // the last digit of the signature has unused bits
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

// fixedSigner has a fixed key: the corpus and every fuzzing process must agree on it.
func fixedSigner() *softSigner {
	return &softSigner{key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
}

func FuzzVerifyExport(f *testing.F) {
	whole := newMemStore()
	_, export, key := exported(f, whole, fixedSigner(), 3)
	pruned := newMemStore()
	pruned.fill(f, 3)
	pruned.append(pruneEntry(0, 2))
	pruned.kept = 2
	_, short, _ := exported(f, pruned, fixedSigner(), 4)
	for _, b := range [][]byte{export, short} {
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := VerifyExport(bytes.NewReader(b), nil, key, nil)
		if err != nil {
			return
		}
		switch {
		case r.Size == 3 && r.Root == mth(whole.hashes) && r.Pruned == 0:
		case r.Size == 4 && r.Root == mth(pruned.hashes) && r.Pruned <= 2: // with less pruned it is true as well
		default:
			t.Fatalf("verified as %+v", r)
		}
	})
}

// Whatever the log, wherever it is pruned: a line that is damaged is what is named.
func TestDamagedLine(t *testing.T) {
	signer := newSigner(t)
	rapid.Check(t, func(rt *rapid.T) {
		s := newMemStore()
		n := rapid.IntRange(1, 800).Draw(rt, "entries")
		s.fill(t, n)
		s.kept = uint64(rapid.IntRange(0, n).Draw(rt, "pruned"))
		if s.kept > 0 {
			if half := s.kept / 2; half > 0 {
				s.append(pruneEntry(0, half))
			}
			s.append(pruneEntry(s.kept/2, s.kept))
		}
		tells := s.head.Size - 1 // if anything is pruned
		s.fill(t, rapid.IntRange(0, 300).Draw(rt, "behind"))
		size := s.head.Size
		l := openLog(t, s, Options{Signer: signer.open, CheckpointEvery: -1})
		var b bytes.Buffer
		if _, err := l.Export(context.Background(), &b, nil); err != nil {
			rt.Fatal(err)
		}
		key := mustKey(t, l)
		r, err := VerifyExport(bytes.NewReader(b.Bytes()), nil, key, nil)
		if err != nil || r.Size != size || r.Pruned != s.kept || r.Root != mth(s.hashes) {
			rt.Fatalf("%+v, %v", r, err)
		}
		lines := bytes.SplitAfter(b.Bytes(), []byte("\n"))
		start := bytes.Count(b.Bytes()[:bytes.Index(b.Bytes(), []byte("\n#"))+1], []byte("\n"))
		first := uint64(rapid.IntRange(0, int(size)-1).Draw(rt, "damaged"))
		line, last := start+int(first+first/256)+1, first
		if rapid.Bool().Draw(rt, "line of hashes") {
			first = first / 256 * 256
			line, last = start+int(first/256*257), min(first+256, size)-1
		}
		var by []byte
		switch rapid.IntRange(0, 4).Draw(rt, "how") {
		case 0:
			by = []byte("{}\n")
		case 1:
			by = []byte("\n")
		case 2:
			by = append(AppendLeaf(nil, &Entry{Action: "other"}), '\n')
		case 3:
			by = bytes.Clone(lines[line])
			by[rapid.IntRange(0, len(by)-2).Draw(rt, "at")] ^= 1 << rapid.IntRange(0, 3).Draw(rt, "bit")
		case 4:
			if by = []byte("-\n"); bytes.Equal(lines[line], by) {
				by = nil // as it is already: it is taken out
			}
		}
		lines[line] = by
		_, err = VerifyExport(bytes.NewReader(bytes.Join(lines, nil)), nil, key, nil)
		var bad *BadExport
		if !errors.As(err, &bad) || bad.First != first || bad.Last != last {
			switch {
			case bad == nil:
			// Of pruned entries, which all look alike, one that is taken out is missed at the end of them.
			case by == nil && bad.First >= first && bad.First <= s.kept:
				return
			// When it is the one that tells of the pruning, right behind it, nobody tells of any.
			case string(by) == "-\n" && first == s.kept && first == tells && bad.First <= first && bad.Last == first:
				return
			}
			rt.Fatalf("names %v, want %d to %d", err, first, last)
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
