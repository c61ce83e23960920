package backup_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keywright/keywright/backup"
)

// judged is what the judge finds in a file.
type judged struct {
	Header  map[string]any
	Tables  map[string]int64
	Order   []string
	Entries [][]byte // the leaves of the audit log
	Sum     [32]byte
}

// judge reads a backup by docs/formats/backup.md, file.md and sealed-blob.md alone: with the standard library and XChaCha20-Poly1305, and
// without a line of what it judges. It panics on what is not there.
func judge(file, root []byte) (j judged, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the judge: %v", p)
		}
	}()
	must := func(ok bool, what string) {
		if !ok {
			panic(what)
		}
	}
	must(string(file[:5]) == "KWBK\x01", "magic")
	n := 9 + int(binary.BigEndian.Uint32(file[5:]))
	header := file[:n]
	must(json.Unmarshal(header[9:], &j.Header) == nil, "header")

	// The signature.
	body, signature := file[:len(file)-64], file[len(file)-64:]
	j.Sum = sha256.Sum256(body)
	fields := strings.SplitN(j.Header["signer"].(string), "+", 3)
	public, err := base64.StdEncoding.DecodeString(fields[2])
	must(err == nil && public[0] == 1, "signer")
	must(ed25519.Verify(public[1:], append([]byte("keywright/v1/backup-signature\n"), j.Sum[:]...), signature), "signature")

	// The data key.
	inner := body[n:]
	must(string(inner[:5]) == "KWFE\x01", "inner magic")
	segment := 1 << inner[5]
	salt := inner[6:38]
	m := 40 + int(binary.BigEndian.Uint16(inner[38:]))
	blob := inner[40:m]
	must(string(blob[:8]) == "KWSB\x01\x00\x01\x18", "sealed blob")
	backupKey, err := hkdf.Key(sha256.New, root, nil, "keywright/v1/backup", 32)
	must(err == nil, "backup key")
	x, err := chacha20poly1305.NewX(backupKey)
	must(err == nil, "XChaCha20-Poly1305")
	bound := sha256.Sum256(header)
	dataKey, err := x.Open(nil, blob[12:36], blob[36:], append(append(bytes.Clone(blob[:8]), "keywright/v1/backup-data-key"...), bound[:]...))
	must(err == nil, "data key")

	// The content.
	okm, err := hkdf.Key(sha256.New, dataKey, salt, "keywright/file/v1"+string(inner[:m]), 39)
	must(err == nil, "file key")
	block, err := aes.NewCipher(okm[:32])
	must(err == nil, "AES")
	gcm, err := cipher.NewGCM(block)
	must(err == nil, "GCM")
	var content []byte
	rest := inner[m:]
	for i := uint32(0); len(rest) > 0; i++ {
		k := min(len(rest), segment+16)
		nonce := binary.BigEndian.AppendUint32(bytes.Clone(okm[32:]), i)
		nonce = append(nonce, 0)
		if k == len(rest) {
			nonce[11] = 1
		}
		plain, err := gcm.Open(nil, nonce, rest[:k], nil)
		must(err == nil, "segment")
		content, rest = append(content, plain...), rest[k:]
	}

	// The records.
	next := func(n int) []byte { b := content[:n]; content = content[n:]; return b }
	j.Tables = map[string]int64{}
	for {
		switch kind := next(1)[0]; kind {
		case 4:
			must(binary.BigEndian.Uint32(next(4)) == uint32(len(j.Order)) && len(content) == 0, "the end")
			return j, nil
		case 1:
		default:
			panic("record")
		}
		name := string(next(int(next(1)[0])))
		columns, leaf := []byte(nil), -1
		for i := range int(next(1)[0]) {
			columns = append(columns, next(1)[0])
			if string(next(int(next(1)[0]))) == "leaf" {
				leaf = i
			}
		}
		j.Order = append(j.Order, name)
		rows := int64(0)
		for next(1)[0] == 2 {
			rows++
			for i, kind := range columns {
				if next(1)[0] == 0 {
					continue
				}
				if kind == 1 {
					next(8)
					continue
				}
				v := next(int(binary.BigEndian.Uint32(next(4))))
				if i == leaf {
					j.Entries = append(j.Entries, bytes.Clone(v))
				}
			}
		}
		must(int64(binary.BigEndian.Uint64(next(8))) == rows, "rows")
		j.Tables[name] = rows
	}
}

// treeHash is RFC 6962 section 2.1 as it stands there.
func treeHash(leaves [][]byte) [32]byte {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	left, right := treeHash(leaves[:k]), treeHash(leaves[k:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

func TestJudge(t *testing.T) {
	f := newFixture(t, 400)
	file, sum := f.make(t)
	j, err := judge(file, rootBytes)
	if err != nil {
		t.Fatal(err)
	}
	agree(t, j, sum)
	if j.Tables["keys"] != 400 || j.Tables["deployment"] != 1 {
		t.Errorf("the judge finds %v", j.Tables)
	}
	file[len(file)/2] ^= 1
	if _, err := judge(file, rootBytes); err == nil {
		t.Error("the judge takes a damaged file")
	}
}

func agree(t *testing.T, j judged, sum backup.Summary) {
	t.Helper()
	rows := int64(0)
	for _, n := range j.Tables {
		rows += n
	}
	if len(j.Order) != sum.Tables || rows != sum.Rows || uint64(len(j.Entries)) != sum.Entries || treeHash(j.Entries) != sum.Root || j.Sum != sum.Sum {
		t.Errorf("the judge finds %d tables, %d rows, %d entries; the summary is %+v", len(j.Order), rows, len(j.Entries), sum)
	}
}

var update = flag.Bool("update", false, "make the vectors anew")

// vector is one file of docs/formats/vectors/backup.json.
type vector struct {
	Root        string           `json:"root"`
	BackupKey   string           `json:"backup_key"`
	VerifierKey string           `json:"verifier_key"`
	SHA256      string           `json:"sha256"`
	Entries     uint64           `json:"entries"`
	RootHash    string           `json:"root_hash"`
	Tables      map[string]int64 `json:"tables"`
	File        []byte           `json:"file"`
}

const vectorFile = "../docs/formats/vectors/backup.json"

func TestVectors(t *testing.T) {
	if *update {
		makeVector(t)
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vector
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	root, err := hex.DecodeString(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	j, err := judge(v.File, root)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(j.Tables) != fmt.Sprint(v.Tables) {
		t.Errorf("the judge finds %v, want %v", j.Tables, v.Tables)
	}
	key, err := hex.DecodeString(v.BackupKey)
	if err != nil {
		t.Fatal(err)
	}
	f, err := backup.Open(bytes.NewReader(v.File))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := f.Verify(t.Context(), key, v.VerifierKey)
	if err != nil {
		t.Fatal(err)
	}
	agree(t, j, sum)
	if hex.EncodeToString(sum.Sum[:]) != v.SHA256 || sum.Entries != v.Entries || hex.EncodeToString(sum.Root[:]) != v.RootHash {
		t.Errorf("got %+v, want %+v", sum, v)
	}
	if err := check(v.File, v.VerifierKey); err != nil {
		t.Error(err)
	}
	v.File[len(v.File)-1] ^= 1
	if err := check(v.File, v.VerifierKey); !errors.Is(err, backup.ErrSignature) {
		t.Errorf("a wrong signature: %v", err)
	}
}

func makeVector(t *testing.T) {
	t.Helper()
	f := newFixture(t, 2)
	file, sum := f.make(t)
	j, err := judge(file, rootBytes)
	if err != nil {
		t.Fatal(err)
	}
	v := vector{Root: hex.EncodeToString(rootBytes), BackupKey: hex.EncodeToString(backupKey(t)), VerifierKey: j.Header["signer"].(string),
		SHA256: hex.EncodeToString(sum.Sum[:]), Entries: sum.Entries, RootHash: hex.EncodeToString(sum.Root[:]), Tables: j.Tables, File: file}
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil { //nolint:gosec // a public file
		t.Fatal(err)
	}
}
