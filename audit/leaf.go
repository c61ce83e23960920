package audit

import (
	"crypto/sha256"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Bounds of an entry. What is longer is cut when it is recorded: a request must not go unrecorded for a long name.
const (
	MaxString = 512  // bytes of each text of an entry; a longer one is cut at a character and ends in "…"
	MaxFailed = 4096 // positions in Failed; Items still tells the whole number of the batch
	// MaxLeaf bounds a leaf, in bytes: six texts of which every byte is escaped to six, and the positions.
	MaxLeaf = 64 << 10
)

// The fixed parts of a leaf, in their order. docs/formats/audit.md has the layout.
const (
	leafStart  = `{"v":1,"time":"`
	leafTenant = `","tenant":"`
	leafWho    = `","principal":"`
	leafAction = `","action":"`
	leafKey    = `","key_id":"`
	leafOpen   = `"`
	leafVer    = `,"key_version":`
	leafRes    = `,"resource":"`
	leafOut    = `,"outcome":"`
	leafItems  = `,"items":`
	leafFailed = `,"failed":[`
	leafTook   = `,"latency_us":`
	leafReq    = `,"request_id":"`
	leafDetail = `,"detail":"`
	leafEnd    = `}`
)

// AppendLeaf appends the entry's encoding to b: one line of canonical JSON, without the line end. It encodes what Normal
// gives, so every entry has exactly one encoding and ParseLeaf gives it back.
func AppendLeaf(b []byte, e *Entry) []byte {
	n := *e
	n.normalize()
	return n.appendLeaf(b)
}

// Normal gives the entry as the log keeps it: UTC and whole microseconds, texts valid UTF-8 of at most MaxString bytes,
// at most MaxFailed positions, no negative numbers.
func (e *Entry) Normal() Entry {
	n := *e
	n.normalize()
	return n
}

func (e *Entry) normalize() {
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	if y := e.Time.Year(); y < 0 {
		e.Time = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	} else if y > 9999 {
		e.Time = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
	}
	e.Latency = max(e.Latency, 0).Truncate(time.Microsecond)
	e.Items = min(max(e.Items, 0), math.MaxInt32)
	if len(e.Failed) > MaxFailed {
		e.Failed = e.Failed[:MaxFailed:MaxFailed]
	}
	for i, f := range e.Failed {
		if f < 0 || f > math.MaxInt32 { // never by a caller of ours; the caller's slice stays as it is
			c := append([]int(nil), e.Failed...)
			for ; i < len(c); i++ {
				c[i] = min(max(c[i], 0), math.MaxInt32)
			}
			e.Failed = c
			break
		}
	}
	for _, s := range [...]*string{&e.Principal, &e.Action, &e.Resource, &e.Outcome, &e.RequestID, &e.Detail} {
		if len(*s) > MaxString || !utf8.ValidString(*s) {
			*s = cleanString(*s)
		}
	}
}

// cleanString replaces what is not UTF-8 by U+FFFD and cuts what is longer than MaxString.
func cleanString(s string) string {
	const dots = "…"
	b := make([]byte, 0, MaxString+utf8.UTFMax)
	cut := 0 // length of b that still leaves room for the dots
	for _, r := range s {
		if b = utf8.AppendRune(b, r); len(b) > MaxString {
			return string(b[:cut]) + dots
		}
		if len(b) <= MaxString-len(dots) {
			cut = len(b)
		}
	}
	return string(b)
}

// appendLeaf encodes a normal entry.
func (e *Entry) appendLeaf(b []byte) []byte {
	b = append(b, leafStart...)
	b = appendTime(b, e.Time)
	if e.Tenant != uuid.Nil {
		b = append(b, leafTenant...)
		b = appendUUID(b, e.Tenant)
	}
	b = append(b, leafWho...)
	b = appendText(b, e.Principal)
	b = append(b, leafAction...)
	b = appendText(b, e.Action)
	if e.Key != uuid.Nil {
		b = append(b, leafKey...)
		b = appendUUID(b, e.Key)
	}
	b = append(b, leafOpen...)
	if e.KeyVersion != 0 {
		b = append(b, leafVer...)
		b = strconv.AppendUint(b, uint64(e.KeyVersion), 10)
	}
	b = appendOptional(b, leafRes, e.Resource)
	b = append(b, leafOut...)
	b = appendText(b, e.Outcome)
	b = append(b, leafOpen...)
	if e.Items != 0 {
		b = append(b, leafItems...)
		b = strconv.AppendInt(b, int64(e.Items), 10)
	}
	if len(e.Failed) != 0 {
		b = append(b, leafFailed...)
		for i, f := range e.Failed {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(f), 10)
		}
		b = append(b, ']')
	}
	b = append(b, leafTook...)
	b = strconv.AppendInt(b, e.Latency.Microseconds(), 10)
	b = appendOptional(b, leafReq, e.RequestID)
	b = appendOptional(b, leafDetail, e.Detail)
	return append(b, leafEnd...)
}

func appendOptional(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, name...)
	b = appendText(b, value)
	return append(b, leafOpen...)
}

const hexDigits = "0123456789abcdef"

// appendText appends the inside of a JSON string in the one form of RFC 8785 §3.2.2.2: the short escape where there is
// one, \u00xx in lower case for the other control characters, all else as it is.
func appendText(b []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		if short := shortEscape(c); short != 0 {
			b = append(b, '\\', short)
		} else {
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, s[start:]...)
}

// shortEscape gives the letter of the two-character escape of c, 0 when there is none.
func shortEscape(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\b':
		return 'b'
	case '\f':
		return 'f'
	case '\n':
		return 'n'
	case '\r':
		return 'r'
	case '\t':
		return 't'
	}
	return 0
}

// timeLen is the length of a time: 2006-01-02T15:04:05.000000Z, RFC 3339 with exactly six decimals.
const timeLen = 27

func appendTime(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4)
	b = append(b, '-')
	b = appendDigits(b, int(month), 2)
	b = append(b, '-')
	b = appendDigits(b, day, 2)
	b = append(b, 'T')
	b = appendDigits(b, hour, 2)
	b = append(b, ':')
	b = appendDigits(b, minute, 2)
	b = append(b, ':')
	b = appendDigits(b, second, 2)
	b = append(b, '.')
	b = appendDigits(b, t.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

func appendDigits(b []byte, v, width int) []byte {
	n := len(b)
	for range width {
		b = append(b, '0')
	}
	for i := n + width - 1; i >= n; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

func appendUUID(b []byte, u uuid.UUID) []byte {
	for i, c := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

// LeafHash is the RFC 6962 §2.1 hash of a leaf: SHA-256(0x00 ‖ leaf).
func LeafHash(leaf []byte) [32]byte {
	var room [512]byte // most leaves are shorter: no allocation
	return hashPrefixed(append(room[:1], leaf...))
}

// hashPrefixed hashes a leaf that already stands behind its 0x00, so that the hot path copies nothing.
func hashPrefixed(b []byte) [32]byte { return sha256.Sum256(b) }
