package backendtest

import (
	"crypto"
	"encoding/hex"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/go-json-experiment/json"
)

// Hex is bytes that the vectors write in hexadecimal.
type Hex []byte

// UnmarshalText decodes hexadecimal digits.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(nil, text)
	*h = b
	return err
}

// Vector is one case of Project Wycheproof, with the fields of all the kinds of cases that this program runs.
type Vector struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  string   `json:"result"` // valid, invalid, or acceptable: either is right
	Key     Hex      `json:"key"`
	IV      Hex      `json:"iv"`
	AAD     Hex      `json:"aad"`
	Msg     Hex      `json:"msg"`
	CT      Hex      `json:"ct"`
	Tag     Hex      `json:"tag"`
	Label   Hex      `json:"label"`
	Sig     Hex      `json:"sig"`
	Public  Hex      `json:"public"`
	Private Hex      `json:"private"`
	Shared  Hex      `json:"shared"`
}

// VectorGroup is cases with parameters or a key in common. Sizes are in bits, SLen in bytes.
type VectorGroup struct {
	Type            string   `json:"type"`
	KeySize         int      `json:"keySize"`
	IVSize          int      `json:"ivSize"`
	TagSize         int      `json:"tagSize"`
	Sha             string   `json:"sha"`
	MGF             string   `json:"mgf"`
	MGFSha          string   `json:"mgfSha"`
	SLen            int      `json:"sLen"`
	PublicKeyDER    Hex      `json:"publicKeyDer"`
	PrivateKeyPKCS8 Hex      `json:"privateKeyPkcs8"`
	Tests           []Vector `json:"tests"`
}

// Vectors reads one file of Project Wycheproof, by its name without "_test.json".
func Vectors(t testing.TB, name string) []VectorGroup {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, name+"_test.json")
	if err != nil {
		t.Fatalf("Wycheproof: %v", err)
	}
	var file struct {
		Groups []VectorGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatalf("Wycheproof: %s: %v", name, err)
	}
	if len(file.Groups) == 0 {
		t.Fatalf("Wycheproof: %s has no groups", name)
	}
	return file.Groups
}

// VectorHash finds a hash by its name in the vectors, among those that this program has.
func VectorHash(name string) (crypto.Hash, bool) {
	h, ok := map[string]crypto.Hash{
		"SHA-1": crypto.SHA1, "SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512,
	}[name]
	return h, ok
}

// Tally counts the vectors that were run, by algorithm, and those that do not apply, so that a run of nothing cannot pass.
type Tally[K comparable] struct {
	ran, passed map[K]int
}

// Ran counts one vector that was run to its end.
func (c *Tally[K]) Ran(k K) {
	if c.ran == nil {
		c.ran = map[K]int{}
	}
	c.ran[k]++
}

// Passed counts vectors that do not apply: another key size, hash or nonce.
func (c *Tally[K]) Passed(k K, n int) {
	if c.passed == nil {
		c.passed = map[K]int{}
	}
	c.passed[k] += n
}

// AtLeast fails the test unless as many vectors were run as least says, for each of its algorithms.
func (c *Tally[K]) AtLeast(t testing.TB, least map[K]int) {
	t.Helper()
	for k, n := range least {
		t.Logf("%v: %d vectors run, %d do not apply", k, c.ran[k], c.passed[k])
		if c.ran[k] < n {
			t.Errorf("%v: only %d vectors were run, want %d", k, c.ran[k], n)
		}
	}
}
