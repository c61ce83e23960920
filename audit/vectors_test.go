package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// vectors are docs/formats/vectors/audit.json, made by a separate implementation.
type vectors struct {
	Entries []struct {
		Name, Leaf, Hash string
		Entry            struct {
			Time       time.Time
			Tenant     uuid.UUID
			Principal  string
			Action     string
			KeyID      uuid.UUID `json:"key_id"`
			KeyVersion uint32    `json:"key_version"`
			Resource   string
			Outcome    string
			Items      int
			Failed     []int
			LatencyUS  int64  `json:"latency_us"`
			RequestID  string `json:"request_id"`
			Detail     string
		}
	}
	Invalid     []struct{ Name, Leaf string }
	Origin      string
	Seed        string
	VerifierKey string `json:"verifier_key"`
	Checkpoints []struct {
		Size uint64
		Root string
		Note string
	}
	Inclusion []struct {
		Index, Size uint64
		Hashes      []string
	}
	Consistency []struct {
		From, To uint64
		Hashes   []string
	}
}

func loadVectors(t *testing.T) (v vectors, export []byte) {
	t.Helper()
	b, err := os.ReadFile("../docs/formats/vectors/audit.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if export, err = os.ReadFile("../docs/formats/vectors/audit-export.txt"); err != nil {
		t.Fatal(err)
	}
	return v, export
}

func hexes(h [][32]byte) []string {
	out := make([]string, len(h))
	for i := range h {
		out[i] = hex.EncodeToString(h[i][:])
	}
	return out
}

func TestVectorEntries(t *testing.T) {
	v, _ := loadVectors(t)
	if len(v.Entries) < 5 || len(v.Invalid) < 20 {
		t.Fatal("vectors are missing")
	}
	for _, c := range v.Entries {
		w := c.Entry
		want := Entry{Time: w.Time, Tenant: w.Tenant, Principal: w.Principal, Action: w.Action, Key: w.KeyID, KeyVersion: w.KeyVersion,
			Resource: w.Resource, Outcome: w.Outcome, Items: w.Items, Failed: w.Failed,
			Latency: time.Duration(w.LatencyUS) * time.Microsecond, RequestID: w.RequestID, Detail: w.Detail}
		if got := string(AppendLeaf(nil, &want)); got != c.Leaf {
			t.Errorf("%s:\n got %s\nwant %s", c.Name, got, c.Leaf)
		}
		got, err := ParseLeaf([]byte(c.Leaf))
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", c.Name, d)
		}
		if h := LeafHash([]byte(c.Leaf)); hex.EncodeToString(h[:]) != c.Hash {
			t.Errorf("%s: hash %x, want %s", c.Name, h, c.Hash)
		}
	}
	for _, c := range v.Invalid {
		if _, err := ParseLeaf([]byte(c.Leaf)); err == nil {
			t.Errorf("%s: accepted", c.Name)
		}
	}
}

func TestVectorLog(t *testing.T) {
	v, export := loadVectors(t)
	seed, err := hex.DecodeString(v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	s, signer := newMemStore(), &softSigner{key: ed25519.NewKeyFromSeed(seed)}
	l := openLog(t, s, Options{Origin: v.Origin, Signer: signer.open, CheckpointEvery: -1})
	ctx := context.Background()
	if key := mustKey(t, l); key != v.VerifierKey {
		t.Errorf("verifier key %s, want %s", key, v.VerifierKey)
	}
	// Record the entries of the export anew, with a checkpoint wherever the vectors have one.
	points := v.Checkpoints
	point := func() {
		for len(points) > 0 && points[0].Size == l.Size() {
			signed, err := l.Checkpoint(ctx)
			if err != nil || string(signed) != points[0].Note {
				t.Errorf("checkpoint at %d: %v\n got %q\nwant %q", points[0].Size, err, signed, points[0].Note)
			}
			c, err := OpenCheckpoint([]byte(points[0].Note), v.VerifierKey)
			if err != nil || c.Size != points[0].Size || hex.EncodeToString(c.Root[:]) != points[0].Root {
				t.Errorf("checkpoint at %d reads %+v, %v", points[0].Size, c, err)
			}
			points = points[1:]
		}
	}
	point()
	for line := range bytes.Lines(export) {
		if line[0] != '{' {
			continue
		}
		e, err := ParseLeaf(line[:len(line)-1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Record(ctx, &e); err != nil {
			t.Fatal(err)
		}
		point()
	}
	if len(points) > 0 {
		t.Errorf("%d checkpoints were not come to", len(points))
	}
	second, err := os.ReadFile("../docs/formats/vectors/audit-export-v2.txt")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := l.Export(ctx, &b, nil); err != nil || !bytes.Equal(b.Bytes(), second) {
		t.Errorf("the export differs: %v", err)
	}
	for _, c := range v.Checkpoints {
		for version, export := range [][]byte{export, second} {
			if r, err := VerifyExport(bytes.NewReader(export), []byte(c.Note), v.VerifierKey, nil); err != nil || r.Kept != c.Size || r.Size != 300 {
				t.Errorf("version %d verified with the checkpoint at %d: %+v, %v", version+1, c.Size, r, err)
			}
		}
	}
	for _, c := range v.Inclusion {
		p, err := l.InclusionProof(ctx, c.Index, c.Size)
		if d := cmp.Diff(c.Hashes, hexes(p)); d != "" || err != nil {
			t.Errorf("%d in %d: %v %s", c.Index, c.Size, err, d)
		}
	}
	for _, c := range v.Consistency {
		p, err := l.ConsistencyProof(ctx, c.From, c.To)
		if d := cmp.Diff(c.Hashes, hexes(p)); d != "" || err != nil {
			t.Errorf("%d to %d: %v %s", c.From, c.To, err, d)
		}
	}
}

// exportVectors are docs/formats/vectors/audit-export.json, made by a separate implementation.
type exportVectors struct {
	VerifierKey string `json:"verifier_key"`
	Files       []struct {
		File         string
		Size, Pruned uint64
		Root         string
	}
	Cases []struct {
		Name, File  string
		Line        int
		Text        *string
		BadLine     uint64 `json:"bad_line"`
		First, Last uint64
	}
}

func TestVectorExports(t *testing.T) {
	const folder = "../docs/formats/vectors/"
	text, err := os.ReadFile(folder + "audit-export.json")
	if err != nil {
		t.Fatal(err)
	}
	var v exportVectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Files) < 2 || len(v.Cases) < 10 {
		t.Fatal("vectors are missing")
	}
	files := map[string][]byte{}
	for _, f := range v.Files {
		if files[f.File], err = os.ReadFile(folder + f.File); err != nil {
			t.Fatal(err)
		}
		r, err := VerifyExport(bytes.NewReader(files[f.File]), nil, v.VerifierKey, nil)
		if err != nil || r.Size != f.Size || r.Pruned != f.Pruned || hex.EncodeToString(r.Root[:]) != f.Root {
			t.Errorf("%s: %+v, %v", f.File, r, err)
		}
	}
	for _, c := range v.Cases {
		lines := bytes.SplitAfter(files[c.File], []byte("\n"))
		lines[c.Line-1] = nil
		if c.Text != nil {
			lines[c.Line-1] = []byte(*c.Text + "\n")
		}
		_, err := VerifyExport(bytes.NewReader(bytes.Join(lines, nil)), nil, v.VerifierKey, nil)
		var bad *BadExport
		if !errors.As(err, &bad) || bad.Line != c.BadLine || bad.First != c.First || bad.Last != c.Last {
			t.Errorf("%s: names %+v, want line %d, entries %d to %d", c.Name, err, c.BadLine, c.First, c.Last)
		}
	}
}
