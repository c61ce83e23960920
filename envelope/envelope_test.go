package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

// draw makes any envelope that the format can hold, up to sizes that are worth testing.
func draw(t *rapid.T) Envelope {
	e := Envelope{
		Header: Header{
			KeyID:      uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key id")),
			KeyVersion: rapid.Uint32Range(1, math.MaxUint32).Draw(t, "version"),
			Algorithm:  rapid.Uint16Range(1, math.MaxUint16).Draw(t, "algorithm"),
			KEM:        rapid.SliceOfN(rapid.Byte(), 0, 1600).Draw(t, "kem"),
		},
		Nonce: rapid.SliceOfN(rapid.Byte(), 0, MaxNonce).Draw(t, "nonce"),
		Body:  rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "body"),
	}
	if len(e.KEM) == 0 {
		e.KEM = nil
	}
	return e
}

func drawContext(t *rapid.T, name string) map[string]string {
	return rapid.MapOfN(rapid.StringN(0, 6, 12), rapid.StringN(0, 6, 12), 0, 20).Draw(t, name)
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := draw(t)
		b := want.Append([]byte("before"))[len("before"):]
		if n := want.Size(len(want.Nonce), len(want.Body)); n != len(b) {
			t.Fatalf("Size = %d, the envelope has %d bytes", n, len(b))
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		want.Sealed = append(bytes.Clone(want.Nonce), want.Body...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("Parse(Append) (-want +got):\n%s", diff)
		}
		if again := got.Append(nil); !bytes.Equal(b, again) {
			t.Fatal("Append(Parse) differs from what was parsed")
		}
	})
}

// Every truncation, and every extension by a byte, is refused.
func TestLengthIsExact(t *testing.T) {
	e := Envelope{Header: Header{KeyVersion: 1, Algorithm: 3, KEM: make([]byte, 5)}, Nonce: make([]byte, 12), Body: make([]byte, 17)}
	b := e.Append(nil)
	for i := range b {
		if _, err := Parse(b[:i]); !fault.Has(err, fault.BadEnvelope) {
			t.Errorf("%d of %d bytes: %v, want %s", i, len(b), err, fault.BadEnvelope)
		}
	}
	if _, err := Parse(append(b, 0)); !fault.Has(err, fault.BadEnvelope) {
		t.Errorf("a byte too many: %v", err)
	}
}

// All refusals are one and the same error: nothing tells the sender what was wrong.
func TestRefusalsAreAlike(t *testing.T) {
	_, first := Parse(nil)
	for _, v := range loadEnvelopes(t).Invalid {
		if _, err := Parse(v.Envelope); err != first { //nolint:errorlint // identity is the promise
			t.Errorf("%s: %v, want the one error", v.Name, err)
		}
	}
}

// What Parse gives cannot be grown over the caller's buffer.
func TestSlicesAreCut(t *testing.T) {
	e := Envelope{Header: Header{KeyVersion: 1, Algorithm: 3, KEM: []byte("kem")}, Nonce: []byte("nonce"), Body: []byte("body")}
	b := append(e.Append(nil), "after"...)
	whole := bytes.Clone(b)
	p, err := Parse(b[:len(b)-len("after")])
	if err != nil {
		t.Fatal(err)
	}
	_ = append(p.KEM, '!')
	_ = append(p.Nonce, '!')
	_ = append(p.Body, '!')
	_ = append(p.Sealed, '!')
	if !bytes.Equal(b, whole) {
		t.Error("an append to a parsed slice wrote into the input")
	}
}

// Different headers, nonce sizes, aad or contexts never give the same authenticated data; the same ones always do.
func TestAADIsInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t), draw(t)
		if rapid.Bool().Draw(t, "same header") {
			b.Header = a.Header
		}
		n, m := rapid.IntRange(0, 2).Draw(t, "n"), rapid.IntRange(0, 2).Draw(t, "m")
		x, y := rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "x"), rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "y")
		c, d := drawContext(t, "c"), drawContext(t, "d")
		one, two := a.AppendAAD(nil, n, x, c), b.AppendAAD(nil, m, y, d)
		same := cmp.Equal(a.Header, b.Header) && n == m && bytes.Equal(x, y) && maps.Equal(c, d)
		if same != bytes.Equal(one, two) {
			t.Fatalf("inputs alike: %v, authenticated data alike: %v", same, !same)
		}
		if len(one) != a.AADSize(x, c) {
			t.Fatalf("AADSize = %d, it has %d bytes", a.AADSize(x, c), len(one))
		}
		if again := a.AppendAAD(nil, n, x, maps.Clone(c)); !bytes.Equal(one, again) {
			t.Fatal("the same input gave two encodings")
		}
	})
}

// The classic confusions of joined fields.
func TestAADBorders(t *testing.T) {
	h := Header{KeyVersion: 1, Algorithm: 3}
	seen := make(map[string]string)
	for name, b := range map[string][]byte{
		"nothing":               h.AppendAAD(nil, 12, nil, nil),
		"aad ab":                h.AppendAAD(nil, 12, []byte("ab"), nil),
		"a: b":                  h.AppendAAD(nil, 12, nil, map[string]string{"a": "b"}),
		"ab: empty":             h.AppendAAD(nil, 12, nil, map[string]string{"ab": ""}),
		"empty: ab":             h.AppendAAD(nil, 12, nil, map[string]string{"": "ab"}),
		"a: b, c: d":            h.AppendAAD(nil, 12, nil, map[string]string{"a": "b", "c": "d"}),
		"a: bc, empty: d":       h.AppendAAD(nil, 12, nil, map[string]string{"a": "bc", "": "d"}),
		"a: d, c: b":            h.AppendAAD(nil, 12, nil, map[string]string{"a": "d", "c": "b"}),
		"aad of a zero count":   h.AppendAAD(nil, 12, []byte{0, 0, 0, 0}, nil),
		"another size of nonce": h.AppendAAD(nil, 13, nil, nil),
	} {
		if other, ok := seen[string(b)]; ok {
			t.Errorf("%q and %q are authenticated alike", name, other)
		}
		seen[string(b)] = name
	}
	absent := h.AppendAAD(nil, 12, nil, nil)
	empty := h.AppendAAD(nil, 12, []byte{}, map[string]string{})
	if !bytes.Equal(absent, empty) {
		t.Error("absent and empty aad and context differ")
	}
}

// The authenticated data begins with the envelope's own first bytes.
func TestAADCoversTheHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := draw(t)
		head := len(e.AppendHeader(nil, len(e.Nonce), len(e.Body))) - 4 // all but the size of the body
		if aad := e.AppendAAD(nil, len(e.Nonce), nil, nil); !bytes.Equal(aad[:head], e.Append(nil)[:head]) {
			t.Fatal("the authenticated data does not begin with the envelope")
		}
	})
}

// A header that could never be read again is a fault of the program.
func TestLimitsPanic(t *testing.T) {
	ok := Header{KeyVersion: 1, Algorithm: 1}
	for name, f := range map[string]func(){
		"version 0":     func() { (&Header{Algorithm: 1}).AppendHeader(nil, 1, 1) },
		"algorithm 0":   func() { (&Header{KeyVersion: 1}).AppendHeader(nil, 1, 1) },
		"long KEM":      func() { (&Header{KeyVersion: 1, Algorithm: 1, KEM: make([]byte, MaxKEM+1)}).AppendHeader(nil, 1, 1) },
		"long nonce":    func() { ok.AppendHeader(nil, MaxNonce+1, 1) },
		"empty body":    func() { ok.AppendHeader(nil, 1, 0) },
		"long body":     func() { ok.AppendHeader(nil, 1, MaxBody+1) },
		"sealer 0":      func() { (&Sealed{Ciphertext: []byte{1}}).Append(nil) },
		"empty sealed":  func() { (&Sealed{Sealer: 1}).Append(nil) },
		"negative size": func() { ok.AppendHeader(nil, -1, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	e := Envelope{Header: Header{KeyVersion: 1, Algorithm: 3}, Nonce: make([]byte, 12), Body: make([]byte, 48)}
	b := e.Append(nil)
	buf := make([]byte, 0, 512)
	context := map[string]string{"tenant": "acme", "row": "17"}
	for name, f := range map[string]func(){
		"Parse": func() {
			if _, err := Parse(b); err != nil {
				t.Error(err)
			}
		},
		"AppendHeader":           func() { e.AppendHeader(buf, 12, 48) },
		"AppendAAD":              func() { e.AppendAAD(buf, 12, nil, nil) },
		"AppendAAD with context": func() { e.AppendAAD(buf, 12, nil, context) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range loadEnvelopes(f).Valid {
		f.Add([]byte(v.Envelope))
	}
	for _, v := range loadEnvelopes(f).Invalid {
		f.Add([]byte(v.Envelope))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		if again := e.Append(nil); !bytes.Equal(b, again) {
			t.Fatalf("Append(Parse) is not what was parsed:\n%x\n%x", b, again)
		}
		if len(e.Sealed) != len(e.Nonce)+len(e.Body) {
			t.Fatal("Sealed is not nonce and body")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	e := Envelope{Header: Header{KeyVersion: 1, Algorithm: 3}, Nonce: make([]byte, 12), Body: make([]byte, 48)}
	in := e.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendAAD(b *testing.B) {
	h := Header{KeyVersion: 1, Algorithm: 3}
	for _, n := range []int{0, 3} {
		context := make(map[string]string)
		for i := range n {
			context[fmt.Sprint("name", i)] = "value"
		}
		b.Run(fmt.Sprint("context=", n), func(b *testing.B) {
			buf := make([]byte, 0, 256)
			b.ReportAllocs()
			for b.Loop() {
				h.AppendAAD(buf, 12, nil, context)
			}
		})
	}
}

// hexBytes is a binary value in a vector file.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}
