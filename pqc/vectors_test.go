package pqc

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/go-json-experiment/json"
)

// hexBytes is bytes that vectors write in hexadecimal.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(nil, text)
	*h = b
	return err
}

// moduleDir is where the go command keeps a module that this one requires.
var moduleDirs sync.Map

func moduleDir(t testing.TB, path string) string {
	t.Helper()
	if dir, ok := moduleDirs.Load(path); ok {
		return dir.(string)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", path, err)
	}
	dir := strings.TrimSpace(string(out))
	moduleDirs.Store(path, dir)
	return dir
}

// circlJSON reads a compressed file of circl's test data.
func circlJSON(t testing.TB, path string, into any) {
	t.Helper()
	f, err := os.Open(filepath.Join(moduleDir(t, "github.com/cloudflare/circl"), path))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// acvp is a file of NIST's vectors, with the fields of all the kinds of cases that are run here.
type acvp struct {
	Groups []acvpGroup `json:"testGroups"`
}

type acvpGroup struct {
	ID            int        `json:"tgId"`
	ParameterSet  string     `json:"parameterSet"`
	Function      string     `json:"function"`
	Interface     string     `json:"signatureInterface"`
	PreHash       string     `json:"preHash"`
	Deterministic bool       `json:"deterministic"`
	DK            hexBytes   `json:"dk"`
	PK            hexBytes   `json:"pk"`
	Tests         []acvpCase `json:"tests"`
}

type acvpCase struct {
	ID        int      `json:"tcId"`
	Seed      hexBytes `json:"seed"`
	Z         hexBytes `json:"z"`
	D         hexBytes `json:"d"`
	EK        hexBytes `json:"ek"`
	DK        hexBytes `json:"dk"`
	M         hexBytes `json:"m"`
	C         hexBytes `json:"c"`
	K         hexBytes `json:"k"`
	PK        hexBytes `json:"pk"`
	SK        hexBytes `json:"sk"`
	SKSeed    hexBytes `json:"skSeed"`
	SKPRF     hexBytes `json:"skPrf"`
	PKSeed    hexBytes `json:"pkSeed"`
	Message   hexBytes `json:"message"`
	Context   hexBytes `json:"context"`
	Rnd       hexBytes `json:"rnd"`
	Hash      string   `json:"hashAlg"`
	Signature hexBytes `json:"signature"`
	Passed    bool     `json:"testPassed"`
}

// acvpPair calls each for every case of a pair of files: what was asked and what is right.
func acvpPair(t *testing.T, prompt, results string, each func(t *testing.T, g *acvpGroup, in, want *acvpCase)) {
	t.Helper()
	var p, r acvp
	circlJSON(t, prompt, &p)
	circlJSON(t, results, &r)
	right := map[int]*acvpCase{}
	for i := range r.Groups {
		for j := range r.Groups[i].Tests {
			right[r.Groups[i].Tests[j].ID] = &r.Groups[i].Tests[j]
		}
	}
	for i := range p.Groups {
		for j := range p.Groups[i].Tests {
			in := &p.Groups[i].Tests[j]
			if right[in.ID] == nil {
				t.Fatalf("case %d has no result", in.ID)
			}
			each(t, &p.Groups[i], in, right[in.ID])
		}
	}
}

// wycheproofFile reads one file of Project Wycheproof, by its name without "_test.json".
func wycheproofFile(t testing.TB, name string) []wycheproofGroup {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, name+"_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Groups []wycheproofGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	return f.Groups
}

type wycheproofGroup struct {
	Source struct {
		Name string `json:"name"`
	} `json:"source"`
	PrivateSeed hexBytes         `json:"privateSeed"`
	PublicKey   hexBytes         `json:"publicKey"`
	Tests       []wycheproofCase `json:"tests"`
}

type wycheproofCase struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  string   `json:"result"`
	Seed    hexBytes `json:"seed"`
	EK      hexBytes `json:"ek"`
	DK      hexBytes `json:"dk"`
	C       hexBytes `json:"c"`
	K       hexBytes `json:"K"`
	M       hexBytes `json:"m"`
	Msg     hexBytes `json:"msg"`
	Ctx     hexBytes `json:"ctx"`
	Mu      hexBytes `json:"mu"`
	Rnd     hexBytes `json:"rnd"`
	Sig     hexBytes `json:"sig"`
}

func lookup(t testing.TB, name string) *Algorithm {
	t.Helper()
	a, ok := Lookup(name)
	if !ok {
		t.Fatalf("no algorithm %q", name)
	}
	return a
}

// newKey makes a fresh key.
func newKey(t testing.TB, name string) *PrivateKey {
	t.Helper()
	a := lookup(t, name)
	seed, err := a.GenerateSeed(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := a.NewPrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// encapsulateWith encapsulates with the randomness of a vector.
func encapsulateWith(t testing.TB, p *PublicKey, coins []byte) (ct, ss []byte, err error) {
	t.Helper()
	impl, err := p.expanded()
	if err != nil {
		t.Fatal(err)
	}
	return impl.(kemPublic).encapsulate(coins)
}
