package audit

import (
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

var errLeaf = errors.New("not a canonical audit entry")

// ParseLeaf reads the encoding that AppendLeaf makes, and nothing else: other field orders, spaces, escapes or number
// forms, fields that are present but empty, and trailing bytes are errors. So a leaf that parses re-encodes to the same
// bytes. The entry holds no reference to leaf.
func ParseLeaf(leaf []byte) (Entry, error) {
	var r rawEntry
	if err := r.parse(leaf); err != nil {
		return Entry{}, err
	}
	e := r.Entry
	e.Principal, e.Action, e.Resource = unescape(r.principal), unescape(r.action), unescape(r.resource)
	e.Outcome, e.RequestID, e.Detail = unescape(r.outcome), unescape(r.requestID), unescape(r.detail)
	if len(r.failed) > 0 {
		p := leafParser{b: r.failed}
		e.Failed = append(e.Failed, int(p.number(math.MaxInt32)))
		for p.take(",") {
			e.Failed = append(e.Failed, int(p.number(math.MaxInt32)))
		}
	}
	return e, nil
}

// rawEntry is a leaf taken apart without a copy: the verification of a long export only wants to know that it parses.
type rawEntry struct {
	Entry                                                                  // the fields of fixed size
	principal, action, resource, outcome, requestID, detail, failed []byte // still escaped
}

func (r *rawEntry) parse(leaf []byte) error {
	if len(leaf) > MaxLeaf {
		return fmt.Errorf("%w: longer than %d bytes", errLeaf, MaxLeaf)
	}
	if !utf8.Valid(leaf) {
		return fmt.Errorf("%w: not UTF-8", errLeaf)
	}
	p := leafParser{b: leaf}
	p.want(leafStart)
	r.Time = p.time()
	if p.take(leafTenant) {
		r.Tenant = p.uuid()
	}
	p.want(leafWho)
	r.principal = p.text()
	p.want(leafAction)
	r.action = p.text()
	if p.take(leafKey) {
		r.Key = p.uuid()
	}
	p.want(leafOpen)
	if p.take(leafVer) {
		r.KeyVersion = uint32(p.positive(math.MaxUint32))
	}
	r.resource = p.optional(leafRes)
	p.want(leafOut)
	r.outcome = p.text()
	p.want(leafOpen)
	if p.take(leafItems) {
		r.Items = int(p.positive(math.MaxInt32))
	}
	if p.take(leafFailed) {
		r.failed = p.positions()
	}
	p.want(leafTook)
	r.Latency = time.Duration(p.number(math.MaxInt64/1000)) * time.Microsecond
	r.requestID = p.optional(leafReq)
	r.detail = p.optional(leafDetail)
	p.want(leafEnd)
	if p.bad || p.i != len(leaf) {
		return fmt.Errorf("%w: at byte %d", errLeaf, p.i)
	}
	return nil
}

// leafParser walks over a leaf. After the first error bad stays set, i stays where it was, and every method gives zero.
type leafParser struct {
	b   []byte
	i   int
	bad bool
}

// take steps over s when it stands here.
func (p *leafParser) take(s string) bool {
	if p.bad || len(p.b)-p.i < len(s) || string(p.b[p.i:p.i+len(s)]) != s {
		return false
	}
	p.i += len(s)
	return true
}

func (p *leafParser) want(s string) {
	if !p.take(s) {
		p.bad = true
	}
}

// number reads a decimal without sign and leading zeros, up to max.
func (p *leafParser) number(max uint64) uint64 {
	if p.bad {
		return 0
	}
	var v uint64
	i := p.i
	for ; i < len(p.b) && p.b[i] >= '0' && p.b[i] <= '9'; i++ {
		d := uint64(p.b[i] - '0')
		if v > (max-d)/10 || i > p.i && p.b[p.i] == '0' {
			p.bad = true
			return 0
		}
		v = v*10 + d
	}
	if i == p.i {
		p.bad = true
		return 0
	}
	p.i = i
	return v
}

// positive is number without 0, which is never written.
func (p *leafParser) positive(max uint64) uint64 {
	v := p.number(max)
	if v == 0 {
		p.bad = true
	}
	return v
}

// positions reads one number or more and the closing bracket, and gives what stands before that.
func (p *leafParser) positions() []byte {
	start := p.i
	p.number(math.MaxInt32)
	n := 1
	for ; p.take(","); n++ {
		p.number(math.MaxInt32)
	}
	end := p.i
	p.want("]")
	if p.bad || n > MaxFailed {
		p.bad = true
		return nil
	}
	return p.b[start:end]
}

// text reads the inside of a string, up to the quote that ends it, which it leaves.
func (p *leafParser) text() []byte {
	if p.bad {
		return nil
	}
	i, escaped := p.i, 0
	for i < len(p.b) {
		c := p.b[i]
		if c == '"' {
			s := p.b[p.i:i]
			if len(s)-escaped > MaxString {
				break
			}
			p.i = i
			return s
		}
		if c < 0x20 {
			break
		}
		if c == '\\' {
			n := escapeLen(p.b[i:])
			if n == 0 {
				break
			}
			i += n
			escaped += n - 1
			continue
		}
		i++
	}
	p.bad = true
	return nil
}

// escapeLen is the length of the escape at the beginning of b, 0 when it is not the one that appendText writes.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) < 6 || b[2] != '0' || b[3] != '0' || b[4] != '0' && b[4] != '1' || lowHex(b[5]) < 0 {
			return 0
		}
		if shortEscape((b[4]-'0')<<4|byte(lowHex(b[5]))) != 0 {
			return 0
		}
		return 6
	}
	return 0
}

// optional reads a text that is only written when it is not empty, with its closing quote.
func (p *leafParser) optional(name string) []byte {
	if !p.take(name) {
		return nil
	}
	s := p.text()
	if len(s) == 0 {
		p.bad = true
	}
	p.want(leafOpen)
	return s
}

func lowHex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// uuid reads a UUID in its canonical lower-case form; the nil UUID is never written.
func (p *leafParser) uuid() (u uuid.UUID) {
	const size = 36
	if p.bad || len(p.b)-p.i < size {
		p.bad = true
		return uuid.Nil
	}
	s := p.b[p.i : p.i+size]
	n := 0
	for i := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			if s[n] != '-' {
				p.bad = true
				return uuid.Nil
			}
			n++
		}
		hi, lo := lowHex(s[n]), lowHex(s[n+1])
		if hi < 0 || lo < 0 {
			p.bad = true
			return uuid.Nil
		}
		u[i] = byte(hi<<4 | lo)
		n += 2
	}
	if u == uuid.Nil {
		p.bad = true
		return uuid.Nil
	}
	p.i += size
	return u
}

// time reads a time of exactly timeLen bytes that exists in the calendar.
func (p *leafParser) time() time.Time {
	const form = "0000-00-00T00:00:00.000000Z"
	if p.bad || len(p.b)-p.i < timeLen {
		p.bad = true
		return time.Time{}
	}
	s := p.b[p.i : p.i+timeLen]
	var f [7]int // year, month, day, hour, minute, second, microsecond
	n := 0
	for i := range form {
		switch {
		case form[i] == '0' && s[i] >= '0' && s[i] <= '9':
			f[n] = f[n]*10 + int(s[i]-'0')
		case form[i] != '0' && s[i] == form[i]:
			n++
		default:
			p.bad = true
			return time.Time{}
		}
	}
	t := time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], f[6]*1000, time.UTC)
	// time.Date carries what is out of range over; only what it left alone is canonical.
	if _, month, day := t.Date(); int(month) != f[1] || day != f[2] || f[3] > 23 || f[4] > 59 || f[5] > 59 {
		p.bad = true
		return time.Time{}
	}
	p.i += timeLen
	return t
}

// unescape gives the text of an inside that text has accepted.
func unescape(s []byte) string {
	i := 0
	for i < len(s) && s[i] != '\\' {
		i++
	}
	if i == len(s) {
		return string(s)
	}
	b := append(make([]byte, 0, len(s)), s[:i]...)
	for i < len(s) {
		if s[i] != '\\' {
			b = append(b, s[i])
			i++
			continue
		}
		switch c := s[i+1]; c {
		case 'u':
			b = append(b, byte(lowHex(s[i+4])<<4|lowHex(s[i+5])))
			i += 4
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		default:
			b = append(b, c)
		}
		i += 2
	}
	return string(b)
}
