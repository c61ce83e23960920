package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func fullEntry() *Entry {
	return &Entry{
		Time:       time.Date(2027, 1, 2, 3, 4, 5, 678_901_234, time.FixedZone("", 3600)),
		Tenant:     uuid.MustParse("0b2f9a52-6b1f-4f6e-9a6e-1c2d3e4f5a6b"),
		Principal:  "api-key:\"\\\b\f\n\r\t\x00\x1f\x7f<&>é€😀\u2028",
		Action:     "encrypt",
		Key:        uuid.MustParse("7c9e6679-7425-40de-944b-e07fc1f90ae7"),
		KeyVersion: 3, Resource: "slot:1", Outcome: "ok", Items: 100, Failed: []int{0, 7, 99},
		Latency: 1234567 * time.Nanosecond, RequestID: "r-1", Detail: "x",
	}
}

func TestLeafLayout(t *testing.T) {
	const want = `{"v":1,"time":"2027-01-02T02:04:05.678901Z","tenant":"0b2f9a52-6b1f-4f6e-9a6e-1c2d3e4f5a6b",` +
		`"principal":"api-key:\"\\\b\f\n\r\t\u0000\u001f` + "\x7f<&>é€😀\u2028" + `","action":"encrypt",` +
		`"key_id":"7c9e6679-7425-40de-944b-e07fc1f90ae7","key_version":3,"resource":"slot:1","outcome":"ok","items":100,` +
		`"failed":[0,7,99],"latency_us":1234,"request_id":"r-1","detail":"x"}`
	if got := string(AppendLeaf(nil, fullEntry())); got != want {
		t.Errorf("full entry:\n got %s\nwant %s", got, want)
	}
	const least = `{"v":1,"time":"0001-01-01T00:00:00.000000Z","principal":"","action":"","outcome":"","latency_us":0}`
	if got := string(AppendLeaf([]byte("kept"), &Entry{})); got != "kept"+least {
		t.Errorf("empty entry:\n got %s\nwant %s", got, least)
	}
}

// entries draws any entry that a caller could make, sensible or not.
func entries() *rapid.Generator[Entry] {
	return rapid.Custom(func(t *rapid.T) Entry {
		text := rapid.OneOf(rapid.StringMatching(`[a-z:."\\\n]{0,20}`), rapid.String(), rapid.StringN(0, 700, 2000),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 600), func(b []byte) string { return string(b) }))
		id := rapid.OneOf(rapid.Just(uuid.Nil), rapid.Custom(func(t *rapid.T) uuid.UUID {
			return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		}))
		number := rapid.OneOf(rapid.Just(0), rapid.Int())
		return Entry{
			Time:   time.Unix(rapid.Int64Range(-1<<37, 1<<39).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")),
			Tenant: id.Draw(t, "tenant"), Principal: text.Draw(t, "principal"), Action: text.Draw(t, "action"),
			Key: id.Draw(t, "key"), KeyVersion: rapid.Uint32().Draw(t, "version"), Resource: text.Draw(t, "resource"),
			Outcome: text.Draw(t, "outcome"), Items: number.Draw(t, "items"),
			Failed:  rapid.SliceOfN(number, 0, 20).Draw(t, "failed"),
			Latency: time.Duration(rapid.Int64().Draw(t, "latency")), RequestID: text.Draw(t, "request"), Detail: text.Draw(t, "detail"),
		}
	})
}

func TestLeafRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := entries().Draw(t, "entry")
		failed := append([]int(nil), e.Failed...)
		leaf := AppendLeaf(nil, &e)
		if !cmp.Equal(e.Failed, failed) && len(failed) > 0 {
			t.Fatal("encoding changed the caller's slice")
		}
		got, err := ParseLeaf(leaf)
		if err != nil {
			t.Fatalf("parsing %s: %v", leaf, err)
		}
		want := e.Normal()
		if len(want.Failed) == 0 {
			want.Failed = nil
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		if again := AppendLeaf(nil, &got); !bytes.Equal(again, leaf) {
			t.Fatalf("re-encoded\n got %s\nwant %s", again, leaf)
		}
		if len(leaf) > MaxLeaf || bytes.IndexByte(leaf, '\n') >= 0 {
			t.Fatal("not one line of bounded length")
		}
		// encoding/json as the judge that it is JSON, and the same text.
		var m map[string]any
		if err := json.Unmarshal(leaf, &m); err != nil {
			t.Fatal(err)
		}
		if m["principal"] != got.Principal || m["action"] != got.Action || m["outcome"] != got.Outcome || m["v"] != 1.0 {
			t.Fatalf("encoding/json reads %v", m)
		}
	})
}

func TestLeafBounds(t *testing.T) {
	e := Entry{Principal: strings.Repeat("a", MaxString), Action: strings.Repeat("a", MaxString+1),
		Resource: strings.Repeat("é", 300), Outcome: strings.Repeat("\x01", 600), RequestID: "a\xffb", Detail: strings.Repeat("\xff", 1000),
		Items: -1, Latency: -1, Failed: make([]int, MaxFailed+1), Time: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)}
	for i := range e.Failed {
		e.Failed[i] = math.MaxInt32
	}
	n := e.Normal()
	if n.Principal != e.Principal || n.Action != strings.Repeat("a", MaxString-3)+"…" || n.RequestID != "a\ufffdb" {
		t.Errorf("texts: %q %q", n.Action, n.RequestID)
	}
	for _, s := range []string{n.Resource, n.Outcome, n.Detail} {
		if len(s) > MaxString || len(s) < MaxString-4 || !utf8.ValidString(s) || !strings.HasSuffix(s, "…") {
			t.Errorf("cut to %d bytes: %q", len(s), s)
		}
	}
	if n.Items != 0 || n.Latency != 0 || len(n.Failed) != MaxFailed || n.Time.Year() != 9999 {
		t.Errorf("numbers: %+v", n)
	}
	leaf := AppendLeaf(nil, &e)
	if len(leaf) > MaxLeaf {
		t.Errorf("%d bytes", len(leaf))
	}
	if _, err := ParseLeaf(leaf); err != nil {
		t.Error(err)
	}
	worst := Entry{Time: n.Time, Tenant: testKey(1), Key: testKey(2), KeyVersion: math.MaxUint32, Items: math.MaxInt32, Failed: e.Failed,
		Latency: math.MaxInt64}
	for _, s := range []*string{&worst.Principal, &worst.Action, &worst.Resource, &worst.Outcome, &worst.RequestID, &worst.Detail} {
		*s = strings.Repeat("\x01", MaxString)
	}
	if n := len(AppendLeaf(nil, &worst)); n > MaxLeaf {
		t.Errorf("the longest leaf has %d bytes", n)
	}
}

func TestParseLeafStrict(t *testing.T) {
	good := string(AppendLeaf(nil, fullEntry()))
	if _, err := ParseLeaf([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"v":1`, `"v":2`}, {`"v":1`, `"v": 1`}, {`"v":1`, `"v":01`},
		{`2027-01-02T`, `2027-02-30T`}, {`2027-01-02T`, `2027-13-02T`}, {`2027-01-02T`, `2027-00-02T`}, {`T02:04`, `T24:04`},
		{`T02:04`, `T02:60`}, {`:05.678901Z`, `:60.678901Z`}, {`678901Z`, `678901+`}, {`678901Z`, `67890Z`}, {`678901Z`, `6789012Z`},
		{`"0b2f`, `"0B2f`}, {`"0b2f9a52-6b1f-4f6e-9a6e-1c2d3e4f5a6b"`, `"00000000-0000-0000-0000-000000000000"`},
		{`52-6b1f`, `526-b1f`}, {`0b2f9a52-6b1f-4f6e-9a6e-1c2d3e4f5a6b`, ``},
		{`\u0000`, "\x00"}, {`\u001f`, `\u001F`}, {`\u001f`, `\u0020`}, {`\u001f`, `\u000a`}, {`\u001f`, `\u0041`}, {`\u001f`, `\u00`},
		{`\t`, `\/`}, {`\t`, `\u0009`}, {`é`, `\u00e9`}, {`é`, "\xe9"}, {`é`, "\xff"}, {`😀`, `\ud83d\ude00`},
		{`"key_version":3`, `"key_version":0`}, {`"key_version":3`, `"key_version":03`}, {`"key_version":3`, `"key_version":-3`},
		{`"key_version":3`, `"key_version":4294967296`}, {`"key_version":3`, `"key_version":3.0`}, {`"key_version":3`, `"key_version":`},
		{`"slot:1"`, `""`}, {`"resource":"slot:1",`, `"resource":"slot:1","resource":"slot:1",`}, {`"r-1"`, `""`}, {`"x"}`, `""}`},
		{`"items":100`, `"items":0`}, {`"items":100`, `"items":2147483648`}, {`"items":100`, `"items":99999999999999999999999`},
		{`[0,7,99]`, `[]`}, {`[0,7,99]`, `[0,7,99,]`}, {`[0,7,99]`, `[0, 7,99]`}, {`[0,7,99]`, `[00,7,99]`}, {`[0,7,99]`, `[-1]`}, {`[0,7,99]`, `[0,7,99`},
		{`[0,7,99]`, `[` + strings.Repeat("0,", MaxFailed) + `0]`},
		{`1234,`, `9223372036854776,`}, {`1234,`, `01234,`}, {`,"detail":"x"`, `,"detail":"x","more":1`}, {`"x"}`, `"x"} `}, {`"x"}`, `"x"`}, {`"x"}`, `"x"}` + "\n"},
		{`"action":"encrypt"`, `"action":"` + strings.Repeat("e", MaxString+1) + `"`},
		{`"action":"encrypt",`, ``}, {`"outcome":"ok",`, ``}, {`,"latency_us":1234`, ``},
		{`{"v"`, ` {"v"`}, {`{"v"`, `{"time":"","v"`}, {good, ``}, {good, `null`},
		{`"request_id":"r-1","detail":"x"`, `"detail":"x","request_id":"r-1"`},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%s is not in the leaf", c[0])
		}
		if e, err := ParseLeaf([]byte(bad)); err == nil {
			t.Errorf("%q for %q: accepted as %+v", c[1], c[0], e)
		}
	}
	for i := range good {
		if _, err := ParseLeaf([]byte(good[:i])); err == nil {
			t.Errorf("accepted the first %d bytes", i)
		}
	}
}

func TestLeafHash(t *testing.T) {
	leaf := AppendLeaf(nil, fullEntry())
	if got, want := LeafHash(leaf), tlog.RecordHash(leaf); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func FuzzParseLeaf(f *testing.F) {
	f.Add(AppendLeaf(nil, fullEntry()))
	f.Add(AppendLeaf(nil, &Entry{}))
	f.Add(AppendLeaf(nil, testEntry(5)))
	f.Fuzz(func(t *testing.T, leaf []byte) {
		e, err := ParseLeaf(leaf)
		if err != nil {
			return
		}
		if again := AppendLeaf(nil, &e); !bytes.Equal(again, leaf) {
			t.Fatalf("re-encoded\n got %s\nwant %s", again, leaf)
		}
		var m map[string]any
		if err := json.Unmarshal(leaf, &m); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkAppendLeaf(b *testing.B) {
	e, buf := testEntry(3), make([]byte, 0, 512)
	e.Tenant = testKey(9)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendLeaf(buf[:0], e)
	}
}

func BenchmarkParseLeaf(b *testing.B) {
	leaf := AppendLeaf(nil, testEntry(3))
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r rawEntry
			if err := r.parse(leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("entry", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseLeaf(leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
