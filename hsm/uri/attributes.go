package uri

import (
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keywright/keywright/secret"
)

// attribute says what one attribute may be. Problems are words that go behind the attribute's name.
type attribute struct {
	refused string // why it cannot be there at all
	secret  bool   // from a file only
	max     int    // bytes of the decoded value; 0: 1024
	set     func(*URI, string) (problem string)
}

const defaultMax = 1024

// check is what holds for all values.
func (a attribute) check(v string) string {
	limit := a.max
	if limit == 0 {
		limit = defaultMax
	}
	switch {
	case v == "":
		return "is empty"
	case len(v) > limit:
		return "is longer than " + strconv.Itoa(limit) + " bytes"
	case !utf8.ValidString(v):
		return "is not UTF-8"
	case strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return "has control characters"
	}
	return ""
}

func text(field func(*URI) *string) func(*URI, string) string {
	return func(u *URI, v string) string { *field(u) = v; return "" }
}

func number(field func(*URI) *int, most int) func(*URI, string) string {
	return func(u *URI, v string) string {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > most || strconv.Itoa(n) != v {
			return "is a number from 1 to " + strconv.Itoa(most)
		}
		*field(u) = n
		return ""
	}
}

func truth(field func(*URI) *bool) func(*URI, string) string {
	return func(u *URI, v string) string {
		if v != "true" && v != "false" {
			return "is true or false"
		}
		*field(u) = v == "true"
		return ""
	}
}

const namesObject = "the URI names a token, not an object on it"

// pathAttributes are those of RFC 7512 section 2.3. Sizes are those of the fields of CK_TOKEN_INFO and CK_INFO. Read-only.
var pathAttributes = map[string]attribute{
	"token":                {max: 32, set: text(func(u *URI) *string { return &u.Token })},
	"serial":               {max: 16, set: text(func(u *URI) *string { return &u.Serial })},
	"manufacturer":         {max: 32, set: text(func(u *URI) *string { return &u.Manufacturer })},
	"model":                {max: 16, set: text(func(u *URI) *string { return &u.Model })},
	"library-manufacturer": {max: 32, set: text(func(u *URI) *string { return &u.LibraryManufacturer })},
	"library-description":  {max: 32, set: text(func(u *URI) *string { return &u.LibraryDescription })},
	"library-version":      {max: 7, set: libraryVersion},
	"slot-id":              {refused: "slot numbers move; name the token by serial or token"},
	"slot-description":     {refused: "slots move; name the token by serial or token"},
	"slot-manufacturer":    {refused: "slots move; name the token by serial or token"},
	"object":               {refused: namesObject},
	"type":                 {refused: namesObject},
	"id":                   {refused: namesObject},
}

// queryAttributes are those of RFC 7512 section 2.4, and ours. Read-only.
var queryAttributes = map[string]attribute{
	"module-path":    {set: modulePath},
	"module-name":    {refused: "what it finds depends on a search path; give module-path"},
	"pin-source":     {set: pinSource},
	"pin-value":      {secret: true, max: 255, set: func(u *URI, v string) string { u.PINValue = secret.Bytes(v); return "" }},
	"x-init-args":    {set: text(func(u *URI) *string { return &u.InitArgs })},
	"x-profile":      {max: 32, set: text(func(u *URI) *string { return &u.Profile })},
	"x-placement":    {set: placement},
	"x-processes":    {set: number(func(u *URI) *int { return &u.Processes }, 64)},
	"x-sessions":     {set: number(func(u *URI) *int { return &u.Sessions }, 4096)},
	"x-accept-leaks": {set: truth(func(u *URI) *bool { return &u.AcceptLeaks })},
	"x-in-process":   {set: truth(func(u *URI) *bool { return &u.InProcess })},
}

// libraryVersion is 1*DIGIT [ "." 1*DIGIT ]; each half is a byte in CK_VERSION.
func libraryVersion(u *URI, v string) string {
	major, minor, dotted := strings.Cut(v, ".")
	if !dotted {
		minor = "0"
	}
	for _, half := range []string{major, minor} {
		if _, err := strconv.ParseUint(half, 10, 8); err != nil {
			return "is MAJOR or MAJOR.MINOR"
		}
	}
	u.LibraryVersion = v
	return ""
}

// modulePath must be absolute: a relative one is found by the dynamic loader, in whatever folder comes first.
func modulePath(u *URI, v string) string {
	if !filepath.IsAbs(v) {
		return "is an absolute path"
	}
	u.ModulePath = v
	return ""
}

func placement(u *URI, v string) string {
	if p := Placement(v); p == Resident || p == Wrapped {
		u.Placement = p
		return ""
	}
	return "is resident or wrapped"
}
