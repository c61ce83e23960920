package uri

import "strings"

// What may stand in a value besides unreserved characters and percent-encoding (RFC 7512 section 2.3: pk11-path-res-avail and
// pk11-query-res-avail).
const (
	reserved   = ":[]@!$'()*+,="
	pathExtra  = reserved + "&"
	queryExtra = reserved + "/?|"
)

// isName reports whether s can be an attribute's name (pk11-v-attr-nm-char: ALPHA, DIGIT, "-", "_").
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func unreserved(c byte) bool { return alphanumeric(c) || strings.IndexByte("-._~", c) >= 0 }

// decode undoes percent-encoding (RFC 3986 section 2.1). A character that may not stand there unencoded is an error, and so is a
// percent sign without two hexadecimal digits.
func decode(s, extra string) (value, problem string) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%':
			if i+2 >= len(s) || digit(s[i+1]) < 0 || digit(s[i+2]) < 0 {
				return "", "has a percent sign without two hexadecimal digits"
			}
			c = byte(digit(s[i+1])<<4 | digit(s[i+2]))
			i += 2
		case !unreserved(c) && strings.IndexByte(extra, c) < 0:
			return "", "has a character that must be percent-encoded"
		}
		out.WriteByte(c)
	}
	return out.String(), ""
}

func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// encode encodes all but unreserved characters and those in keep.
func encode(s, keep string) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(s) {
		c := s[i]
		if unreserved(c) || strings.IndexByte(keep, c) >= 0 {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(hex[c>>4])
		out.WriteByte(hex[c&15])
	}
	return out.String()
}
