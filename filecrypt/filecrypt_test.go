package filecrypt

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func key(seed byte) []byte { return bytes.Repeat([]byte{seed}, DataKeySize) }

func encrypt(t testing.TB, dataKey, encrypted, plaintext []byte, o Options) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, dataKey, encrypted, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plaintext); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decrypt(file, dataKey []byte) ([]byte, error) {
	r := bytes.NewReader(file)
	h, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	d, err := NewReader(r, h, dataKey)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}

// hkdfByHand is RFC 5869 with HMAC-SHA-256, for two blocks of output.
func hkdfByHand(ikm, salt, info []byte, n int) []byte {
	mac := func(key []byte, parts ...[]byte) []byte {
		m := hmac.New(sha256.New, key)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	prk := mac(salt, ikm)
	t1 := mac(prk, info, []byte{1})
	t2 := mac(prk, t1, info, []byte{2})
	return append(t1, t2...)[:n]
}

// judge decrypts a file by the page docs/formats/file.md alone: it shares no code with the package, and holds all in memory.
func judge(t testing.TB, file, dataKey []byte) []byte {
	t.Helper()
	if string(file[:4]) != "KWFE" || file[4] != 1 {
		t.Fatal("magic or version")
	}
	segment := 1 << file[5]
	n := int(binary.BigEndian.Uint16(file[38:40]))
	header := file[:40+n]
	okm := hkdfByHand(dataKey, file[6:38], append([]byte("keywright/file/v1"), header...), 39)
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	var plain []byte
	rest := file[40+n:]
	for i := uint32(0); ; i++ {
		last := len(rest) <= segment+16
		part := rest
		if !last {
			part = rest[:segment+16]
		}
		nonce := binary.BigEndian.AppendUint32(append([]byte(nil), okm[32:39]...), i)
		if last {
			nonce = append(nonce, 1)
		} else {
			nonce = append(nonce, 0)
		}
		if plain, err = gcm.Open(plain, nonce, part, nil); err != nil {
			t.Fatalf("segment %d: %v", i, err)
		}
		if last {
			return plain
		}
		rest = rest[len(part):]
	}
}

func TestRoundTripAtBorders(t *testing.T) {
	const s = MinSegmentSize
	for _, n := range []int{0, 1, s - 1, s, s + 1, 2*s - 1, 2 * s, 2*s + 1, 3 * s, 5*s + 17} {
		plain := bytes.Repeat([]byte{7, 8, 9}, n/3+1)[:n]
		file := encrypt(t, key(1), []byte("encrypted key"), plain, Options{SegmentSize: s})
		segments := max(1, (n+s-1)/s)
		if want := fixedSize + len("encrypted key") + n + segments*tagSize; len(file) != want {
			t.Errorf("%d bytes: file has %d, want %d", n, len(file), want)
		}
		got, err := decrypt(file, key(1))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %v, equal %t", n, err, bytes.Equal(got, plain))
		}
		if !bytes.Equal(judge(t, file, key(1)), plain) {
			t.Errorf("%d bytes: the judge reads something else", n)
		}
	}
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(minSegmentLog, minSegmentLog+3).Draw(t, "log")
		plain := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 97).Draw(t, "pattern"), rapid.IntRange(0, 200).Draw(t, "times"))
		encrypted := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "encrypted key")
		dataKey := rapid.SliceOfN(rapid.Byte(), DataKeySize, DataKeySize).Draw(t, "data key")

		var out bytes.Buffer
		w, err := NewWriter(&out, dataKey, encrypted, Options{SegmentSize: size})
		if err != nil {
			t.Fatal(err)
		}
		for rest := plain; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "write")
			if m, err := w.Write(rest[:n]); err != nil || m != n {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		src := iotest.OneByteReader(bytes.NewReader(out.Bytes()))
		if rapid.Bool().Draw(t, "whole") {
			src = bytes.NewReader(out.Bytes())
		}
		h, err := ReadHeader(src)
		if err != nil {
			t.Fatal(err)
		}
		if h.SegmentSize != size || !bytes.Equal(h.EncryptedKey, encrypted) {
			t.Fatal("header")
		}
		r, err := NewReader(src, h, dataKey)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if rapid.Bool().Draw(t, "WriteTo") {
			_, err = r.WriteTo(&got)
		} else {
			_, err = io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{r}, make([]byte, rapid.IntRange(1, 3000).Draw(t, "read")))
		}
		if err != nil || !bytes.Equal(got.Bytes(), plain) {
			t.Fatalf("%v, %d bytes for %d", err, got.Len(), len(plain))
		}
	})
}

// TestTamper changes one thing at a time. Whatever is given out before the error must be a prefix of the plaintext, cut at a
// segment.
func TestTamper(t *testing.T) {
	const s = MinSegmentSize
	plain := make([]byte, 3*s+100)
	for i := range plain {
		plain[i] = byte(i * 7)
	}
	file := encrypt(t, key(3), []byte("EK"), plain, Options{SegmentSize: s})
	other := encrypt(t, key(3), []byte("EK"), plain, Options{SegmentSize: s})
	head := fixedSize + 2
	const c = s + tagSize
	seg := func(f []byte, i int) []byte { return f[head+i*c : min(head+(i+1)*c, len(f))] }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	exact := encrypt(t, key(3), []byte("EK"), plain[:2*s], Options{SegmentSize: s})

	cases := map[string][]byte{
		"swapped":                     join(file[:head], seg(file, 1), seg(file, 0), seg(file, 2), seg(file, 3)),
		"repeated":                    join(file[:head], seg(file, 0), seg(file, 0), seg(file, 1), seg(file, 2), seg(file, 3)),
		"dropped first":               join(file[:head], seg(file, 1), seg(file, 2), seg(file, 3)),
		"dropped middle":              join(file[:head], seg(file, 0), seg(file, 2), seg(file, 3)),
		"dropped last":                join(file[:head], seg(file, 0), seg(file, 1), seg(file, 2)),
		"only the header":             file[:head],
		"segment of another":          join(file[:head], seg(file, 0), seg(other, 1), seg(file, 2), seg(file, 3)),
		"header of another":           join(other[:head], file[head:]),
		"a byte more":                 join(file, []byte{0}),
		"a tag more":                  join(file, make([]byte, tagSize)),
		"a file more":                 join(file, file),
		"last segment twice":          join(file, seg(file, 3)),
		"exact, a byte more":          join(exact, []byte{0}),
		"exact, cut at the border":    exact[:head+c],
		"exact, cut within the last":  exact[:len(exact)-1],
		"exact, its last as a middle": join(exact, seg(file, 2), seg(file, 3)),
	}
	for i := range len(file) {
		if i < head || i%97 == 0 {
			b := bytes.Clone(file)
			b[i] ^= 0x10
			cases["bit of byte "+string(rune('0'+i%10))+hex.EncodeToString([]byte{byte(i >> 8), byte(i)})] = b
		}
	}
	for n := 0; n < len(file); n += 61 {
		cases["cut to "+hex.EncodeToString([]byte{byte(n >> 8), byte(n)})] = file[:n]
	}
	for name, b := range cases {
		got, err := decrypt(b, key(3))
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if len(got)%s != 0 || !bytes.HasPrefix(plain, got) {
			t.Errorf("%s: gave out %d bytes that are not whole segments of the plaintext", name, len(got))
		}
	}
	if _, err := decrypt(file, key(4)); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
}

// TestEmptyLastSegment: a second form of the same plaintext is refused even though it authenticates.
func TestEmptyLastSegment(t *testing.T) {
	h, err := newHeader(MinSegmentSize, []byte("EK"), bytes.NewReader(make([]byte, saltSize)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStream(h, key(1))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, MinSegmentSize)
	file := bytes.Clone(h.raw)
	for _, part := range []struct {
		b    []byte
		last bool
	}{{plain, false}, {nil, true}} {
		nonce, err := s.next(part.last)
		if err != nil {
			t.Fatal(err)
		}
		file = s.aead.Seal(file, nonce, part.b, nil)
	}
	if !bytes.Equal(judge(t, file, key(1)), plain) {
		t.Fatal("the file is not what it should be")
	}
	if _, err := decrypt(file, key(1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

func TestCounterEnds(t *testing.T) {
	w, err := NewWriter(io.Discard, key(1), []byte("EK"), Options{SegmentSize: MinSegmentSize})
	if err != nil {
		t.Fatal(err)
	}
	w.stream.counter = maxSegments - 1
	if _, err := w.Write(make([]byte, 2*MinSegmentSize+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("write: %v", err)
	}
	if err := w.Close(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("close: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, f := range map[string]func() error{
		"short data key": func() error { _, err := NewWriter(io.Discard, key(1)[1:], []byte("EK"), Options{}); return err },
		"no encrypted":   func() error { _, err := NewWriter(io.Discard, key(1), nil, Options{}); return err },
		"long encrypted": func() error {
			_, err := NewWriter(io.Discard, key(1), make([]byte, MaxEncryptedKey+1), Options{})
			return err
		},
		"odd segment": func() error {
			_, err := NewWriter(io.Discard, key(1), []byte("EK"), Options{SegmentSize: 1500})
			return err
		},
		"small segment": func() error {
			_, err := NewWriter(io.Discard, key(1), []byte("EK"), Options{SegmentSize: 512})
			return err
		},
		"no randomness": func() error {
			_, err := NewWriter(io.Discard, key(1), []byte("EK"), Options{Rand: strings.NewReader("x")})
			return err
		},
		"full disk":  func() error { _, err := NewWriter(full{}, key(1), []byte("EK"), Options{}); return err },
		"empty file": func() error { _, err := ReadHeader(strings.NewReader("")); return err },
		"another version": func() error {
			_, err := ReadHeader(strings.NewReader("KWFE\x02" + strings.Repeat("\x10", 100)))
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	broken := errors.New("broken")
	if _, err := ReadHeader(iotest.ErrReader(broken)); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Errorf("a source that fails: %v", err)
	}
	w, err := NewWriter(io.Discard, key(1), []byte("EK"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write after Close")
	}
	if w.Close() == nil {
		t.Error("a second Close")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

// TestWriteFails: after an error of the destination the writer stays failed, so that Close cannot finish a file with a hole.
func TestWriteFails(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&limited{w: &out, left: 200}, key(1), []byte("EK"), Options{SegmentSize: MinSegmentSize})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 3*MinSegmentSize)); err == nil {
		t.Fatal("no error")
	}
	if w.Close() == nil {
		t.Error("Close forgot the error")
	}
}

type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, errors.New("no space")
	}
	l.left -= len(p)
	return l.w.Write(p)
}

// endless counts how much is read from and written to it.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.left))
	e.left -= int64(n)
	return n, nil
}

// TestConstantMemory sends 64 MiB through both directions and counts what that allocates.
func TestConstantMemory(t *testing.T) {
	const size = 64 << 20
	run := func() {
		r, w := io.Pipe()
		go func() {
			e, err := NewWriter(w, key(1), []byte("EK"), Options{})
			if err == nil {
				_, err = io.CopyBuffer(struct{ io.Writer }{e}, &endless{left: size}, make([]byte, 64<<10))
			}
			if err == nil {
				err = e.Close()
			}
			w.CloseWithError(err)
		}()
		h, err := ReadHeader(r)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewReader(r, h, key(1))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, d); err != nil || n != size {
			t.Fatal(n, err)
		}
	}
	if bytes := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			run()
		}
	}).AllocedBytesPerOp(); bytes > 1<<20 {
		t.Errorf("%d bytes allocated for a file of %d", bytes, size)
	}
}

// vector is one of docs/formats/vectors/file.json.
type vector struct {
	Name         string `json:"name"`
	DataKey      string `json:"data_key"`
	EncryptedKey string `json:"encrypted_key"`
	Salt         string `json:"salt"`
	SegmentSize  int    `json:"segment_size"`
	Pattern      string `json:"pattern"` // hex, repeated up to Length
	Length       int    `json:"length"`
	SHA256       string `json:"file_sha256"`
	File         string `json:"file"` // hex, when it is short
}

func TestVectors(t *testing.T) {
	b, err := os.ReadFile("../docs/formats/vectors/file.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(b, &vectors); err != nil || len(vectors) < 4 {
		t.Fatal(len(vectors), err)
	}
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, v := range vectors {
		var plain []byte
		if v.Length > 0 {
			plain = bytes.Repeat(un(v.Pattern), v.Length/len(un(v.Pattern))+1)[:v.Length]
		}
		file := encrypt(t, un(v.DataKey), un(v.EncryptedKey), plain, Options{SegmentSize: v.SegmentSize, Rand: bytes.NewReader(un(v.Salt))})
		sum := sha256.Sum256(file)
		if diff := cmp.Diff(v.SHA256, hex.EncodeToString(sum[:])); diff != "" {
			t.Errorf("%s: %s", v.Name, diff)
		}
		if v.File != "" && v.File != hex.EncodeToString(file) {
			t.Errorf("%s: the file is %x", v.Name, file)
		}
		if !bytes.Equal(judge(t, file, un(v.DataKey)), plain) {
			t.Errorf("%s: the judge reads something else", v.Name)
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add(encrypt(f, key(1), []byte("EK"), []byte("plain"), Options{}))
	f.Add([]byte("KWFE"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := ReadHeader(r)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		read := len(b) - r.Len()
		if !bytes.Equal(h.raw, b[:read]) || read != fixedSize+len(h.EncryptedKey) {
			t.Fatal("the header is not what was read")
		}
		again, err := newHeader(h.SegmentSize, h.EncryptedKey, bytes.NewReader(h.salt[:]))
		if err != nil || !bytes.Equal(again.raw, h.raw) {
			t.Fatal("the header does not come out as it went in")
		}
		d, err := NewReader(r, h, key(9))
		if err != nil {
			t.Fatal(err)
		}
		// Nobody has the key, so nothing may open.
		if n, err := io.Copy(io.Discard, d); n != 0 || !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	})
}

func BenchmarkEncrypt(b *testing.B) {
	w, err := NewWriter(io.Discard, key(1), []byte("EK"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := w.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}
