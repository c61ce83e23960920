package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// fill gives every field of v a value of its own, so that a field which the codec does not carry is noticed.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.String:
		v.SetString(string(bytes.Repeat([]byte{'a' + byte(*n%26)}, *n%50+1)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-int64(*n))
	case reflect.Uint, reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(*n % 251))
	case reflect.Func: // the gate stays where it is
	default:
		t.Fatalf("a field of kind %v, which the codec may not carry", v.Kind())
	}
}

func filled[T any](t *testing.T) (v T) {
	t.Helper()
	n := 0
	fill(t, reflect.ValueOf(&v).Elem(), &n)
	return v
}

// strict checks that a message decodes to what it was made of, and that no other bytes do.
func strict[T any](t *testing.T, want T, encoded []byte, decode func([]byte) (T, error)) {
	t.Helper()
	got, err := decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.FilterValues(func(x, y func(context.Context, func() error) error) bool { return true }, cmp.Ignore())); diff != "" {
		t.Errorf("decoded is not what was encoded (-want +got):\n%s", diff)
	}
	for n := range encoded {
		if _, err := decode(encoded[:n:n]); !errors.Is(err, errMalformed) {
			t.Fatalf("cut off after %d of %d bytes: %v", n, len(encoded), err)
		}
	}
	if _, err := decode(append(bytes.Clone(encoded), 0)); !errors.Is(err, errMalformed) {
		t.Errorf("with a byte too many: %v", err)
	}
}

func TestCodecCarriesEveryField(t *testing.T) {
	t.Run("config", func(t *testing.T) {
		c := filled[token.Config](t)
		strict(t, c, appendConfig(nil, &c), decodeConfig)
	})
	t.Run("description", func(t *testing.T) {
		d := filled[token.Description](t)
		strict(t, d, appendDescription(nil, &d), decodeDescription)
	})
	t.Run("stats", func(t *testing.T) {
		s := filled[token.Stats](t)
		strict(t, s, appendStats(nil, s), decodeStats)
	})
	t.Run("object", func(t *testing.T) {
		o := filled[token.Object](t)
		strict(t, o, appendObject(nil, &o), decodeObject)
	})
	t.Run("call", func(t *testing.T) {
		c := filled[token.Call](t)
		strict(t, c, appendCall(beginRequest(nil, opUse), &c)[lengthSize+headSize:], func(b []byte) (token.Call, error) {
			var r request
			err := r.decode(b)
			return r.call, err
		})
	})
}

func TestRequestsCarryTheirArguments(t *testing.T) {
	id := filled[token.ID](t)
	call := filled[token.Call](t)
	envelope := filled[token.Envelope](t)
	make := appendMake(beginRequest(nil, opImport), id, backend.AES256GCM, backend.PurposeEncryption, true)
	for name, c := range map[string]struct {
		frame []byte
		want  request
	}{
		"random":  {append(beginRequest(nil, opRandom), 0, 0, 1, 2), request{op: opRandom, n: 258}},
		"find":    {append(beginRequest(nil, opFind), id[:]...), request{op: opFind, id: id}},
		"destroy": {append(beginRequest(nil, opDestroy), id[:]...), request{op: opDestroy, id: id}},
		"ping":    {beginRequest(nil, opPing), request{op: opPing}},
		"attributes": {appendBytes(appendBytes(append(beginRequest(nil, opAttributes), id[:]...), backend.AES256GCM), []byte("blob")),
			request{op: opAttributes, id: id, algorithm: backend.AES256GCM, blob: []byte("blob")}},
		"place": {appendBytes(appendBytes(appendBytes(appendBytes(append(beginRequest(nil, opPlace), id[:]...), backend.Ed25519), backend.PurposeSigning), []byte("blob")), []byte("spki")),
			request{op: opPlace, id: id, algorithm: backend.Ed25519, purpose: backend.PurposeSigning, blob: []byte("blob"), public: []byte("spki")}},
		"use-many": {appendItems(appendCall(beginRequest(nil, opUseMany), &call), filled[[]backend.Item](t)),
			request{op: opUseMany, call: call, items: filled[[]backend.Item](t)}},
		"import-wrapped": {appendEnvelope(appendMake(beginRequest(nil, opImportWrapped), id, backend.AES256GCM, backend.PurposeEncryption, false), &envelope),
			request{op: opImportWrapped, id: id, algorithm: backend.AES256GCM, purpose: backend.PurposeEncryption, envelope: envelope}},
		"import": {appendBytes(make, []byte("material")), request{op: opImport, id: id, algorithm: backend.AES256GCM,
			purpose: backend.PurposeEncryption, wrapped: true, material: []byte("material")}},
	} {
		t.Run(name, func(t *testing.T) {
			address(c.frame, 7, time.Second)
			c.want.left = time.Second
			body := c.frame[lengthSize+headSize:]
			var got request
			if err := got.decode(body); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			for n := range body {
				if err := new(request).decode(body[:n:n]); !errors.Is(err, errMalformed) {
					t.Fatalf("cut off after %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestFaultsKeepCodeMessageAndCause(t *testing.T) {
	in := fault.Wrap(fault.BackendUnavailable, "not now", errors.Join(errors.New("CKR_PIN_INCORRECT"), token.ErrPINRefused)).RetryAfter(3 * time.Second)
	out, stuck, err := decodeFault(appendFault(nil, in, true))
	if err != nil || !stuck {
		t.Fatal(stuck, err)
	}
	if out.Code != in.Code || out.Message != in.Message || out.After != in.After || !errors.Is(out, token.ErrPINRefused) {
		t.Errorf("got %v", out)
	}
	if !bytes.Contains([]byte(out.Error()), []byte("CKR_PIN_INCORRECT")) {
		t.Errorf("the cause is not in the log's words: %v", out)
	}
	out, _, err = decodeFault(appendFault(nil, errors.New("no fault"), false))
	if err != nil || out.Code != fault.Internal || errors.Is(out, token.ErrPINRefused) {
		t.Errorf("an error that is no fault: %v, %v", out, err)
	}
	long := fault.Wrap(fault.KeyMaterial, string(make([]byte, 3*maxText)), errors.New(string(make([]byte, 3*maxText))))
	if out, _, err = decodeFault(appendFault(nil, long, false)); err != nil || len(out.Message) != maxText {
		t.Errorf("a fault with much to say: %v", err)
	}
	for _, d := range fault.Codes() {
		if out, _, err := decodeFault(appendFault(nil, fault.New(d.Code, "m"), false)); err != nil || out.Code != d.Code {
			t.Errorf("%s: %v, %v", d.Code, out, err)
		}
	}
}

func TestFrameReader(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 100, readerSize - 13, readerSize, 3 * readerSize, 5, maxFrame - headSize, 7}
	for i, n := range sizes {
		stream = append(stream, seal(append(begin(nil, kindResult, uint64(i)), bytes.Repeat([]byte{byte(i + 1)}, n)...))...)
	}
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "half of what is wanted": iotest.HalfReader(bytes.NewReader(stream)),
		"with the end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			in := newFrameReader(r)
			for i, n := range sizes {
				kind, id, body, err := in.next()
				if err != nil || kind != kindResult || id != uint64(i) || len(body) != n || bytes.Count(body, []byte{byte(i + 1)}) != n {
					t.Fatalf("frame %d: kind %d, number %d, %d bytes, %v", i, kind, id, len(body), err)
				}
			}
			if _, _, _, err := in.next(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last: %v", err)
			}
			if n := len(bytes.Trim(in.buf, "\x00")); n > 0 {
				t.Errorf("%d bytes of frames are left in the buffer", n)
			}
		})
	}
	for name, b := range map[string][]byte{"too long": {0, 64, 0, 1, 1}, "too short": {0, 0, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1}} {
		if _, _, _, err := newFrameReader(bytes.NewReader(b)).next(); !errors.Is(err, errFrameSize) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, _, err := newFrameReader(bytes.NewReader(stream[:lengthSize+headSize+3+lengthSize])).next(); err != nil {
		t.Errorf("the first of one and a half: %v", err)
	}
	if _, _, _, err := newFrameReader(bytes.NewReader(stream[:9])).next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
}

// FuzzParent decodes what a child may send. Whatever decodes has one encoding only.
func FuzzParent(f *testing.F) {
	d, o, s := token.Description{Serial: "1", Quirks: []string{"q"}}, token.Object{Public: []byte{1}}, token.Stats{Breaker: "open"}
	f.Add(byte(0), appendDescription(nil, &d))
	f.Add(byte(1), appendObject(nil, &o))
	f.Add(byte(2), appendStats(nil, s))
	f.Add(byte(3), appendFault(nil, fault.New(fault.Timeout, "late").RetryAfter(1), true))
	f.Add(byte(4), appendObject([]byte{0, 0, 0, 1}, &o))
	f.Fuzz(func(t *testing.T, what byte, body []byte) {
		var again []byte
		var err error
		switch what % 5 {
		case 0:
			var d token.Description
			if d, err = decodeDescription(body); err == nil {
				again = appendDescription(nil, &d)
			}
		case 1:
			var o token.Object
			if o, err = decodeObject(body); err == nil {
				again = appendObject(nil, &o)
			}
		case 2:
			var s token.Stats
			if s, err = decodeStats(body); err == nil {
				again = appendStats(nil, s)
			}
		case 3:
			var e *fault.Error
			if e, _, err = decodeFault(body); err == nil {
				if e.Error() == "" || e.After < 0 {
					t.Errorf("%#v", e)
				}
				again = body // its cause is text now, with words before it
			}
		case 4:
			var list []token.Object
			if list, err = decodeObjects(nil, body); err == nil {
				again = []byte{0, 0, byte(len(list) >> 8), byte(len(list))}
				for i := range list {
					again = appendObject(again, &list[i])
				}
			}
		}
		if err == nil && !bytes.Equal(again, body) {
			t.Errorf("decoded and encoded again:\n%x\n%x", body, again)
		}
		if err != nil && !errors.Is(err, errMalformed) {
			t.Error(err)
		}
	})
}

// FuzzChild decodes what a parent may send.
func FuzzChild(f *testing.F) {
	c := token.Config{Module: "m", PIN: []byte("1"), Sessions: -1}
	f.Add(true, appendConfig(nil, &c))
	call := token.Call{Op: token.Sign, Algorithm: backend.ECDSAP256, Input: []byte("i"), Padding: backend.PaddingPSS, Context: []byte("c"), Deterministic: true}
	f.Add(false, appendCall(beginRequest(nil, opUse), &call)[lengthSize+headSize:])
	f.Add(false, appendBytes(appendMake(beginRequest(nil, opImport), token.ID{1}, backend.AES256GCM, backend.PurposeEncryption, true), []byte("m"))[lengthSize+headSize:])
	f.Fuzz(func(t *testing.T, config bool, body []byte) {
		if config {
			c, err := decodeConfig(body)
			if err == nil && !bytes.Equal(appendConfig(nil, &c), body) {
				t.Errorf("decoded and encoded again is not the same: %x", body)
			}
			return
		}
		var r request
		if err := r.decode(body); err != nil {
			return
		}
		again := beginRequest(nil, r.op)
		switch r.op {
		case opUse:
			again = appendCall(again, &r.call)
		case opFind, opDestroy:
			again = append(again, r.id[:]...)
		case opUseMany:
			again = appendItems(appendCall(again, &r.call), r.items)
		case opAttributes:
			again = appendBytes(appendBytes(append(again, r.id[:]...), r.algorithm), r.blob)
		case opPlace:
			again = appendBytes(appendBytes(append(again, r.id[:]...), r.algorithm), r.purpose)
			again = appendBytes(appendBytes(again, r.blob), r.public)
		case opGenerate, opImport, opImportWrapped:
			again = appendMake(again, r.id, r.algorithm, r.purpose, r.wrapped)
			if r.op == opImportWrapped {
				again = appendEnvelope(again, &r.envelope)
			}
			if r.op == opImport {
				again = appendBytes(again, r.material)
			}
		case opRandom:
			again = append(again, byte(r.n>>24), byte(r.n>>16), byte(r.n>>8), byte(r.n))
		}
		address(again, 0, r.left)
		if !bytes.Equal(again[lengthSize+headSize:], body) {
			t.Errorf("decoded and encoded again:\n%x\n%x", body, again[lengthSize+headSize:])
		}
	})
}

// FuzzFrames reads any stream in pieces of any size.
func FuzzFrames(f *testing.F) {
	f.Add(append(control(kindHello, 1, 'x'), control(kindResult, 2)...), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		in := newFrameReader(&pieces{bytes.NewReader(stream), int(piece) + 1})
		var again []byte
		for {
			kind, id, body, err := in.next()
			if err != nil {
				break
			}
			again = append(again, seal(append(begin(nil, kind, id), body...))...)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Errorf("the frames are not what was in the stream:\n%x\n%x", stream, again)
		}
	})
}

type pieces struct {
	r io.Reader
	n int
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }
