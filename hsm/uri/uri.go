// Package uri reads PKCS#11 URIs (RFC 7512) that name a token, and finds the PIN that they speak of.
//
// A URI here is configuration: it binds one token of one module, for years. What cannot bind (slot numbers, module names that a
// search path decides) is refused, and so is every attribute that is not known, as a misspelt serial number would
// otherwise name another token. It trusts whoever wrote the URI for the choice of module, and the file system for the PIN's
// file, whose permissions it checks. Nothing it returns as an error repeats a value, so a PIN in the wrong place is not told on.
package uri

import (
	"strconv"
	"strings"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

// Scheme is that of the URIs, with its colon; case does not matter.
const Scheme = "pkcs11:"

// maxURI bounds a URI, in bytes.
const maxURI = 8192

// Origin is where a URI was read.
type Origin int

// A command line can be read by every process of the machine, so a PIN in it is no secret.
const (
	FromFlag Origin = iota // pin-value is refused
	FromFile               // pin-value is taken
)

// Placement is where the keys of a backend live.
type Placement string

// The placements; "" leaves the choice to the backend.
const (
	Resident Placement = "resident" // token objects
	Wrapped  Placement = "wrapped"  // outside, wrapped under a key on the token
)

// URI is a parsed URI. The zero value of a field is one that was not given.
type URI struct {
	// The token, by what it says of itself; at least one of Token and Serial.
	Token, Serial, Manufacturer, Model string
	// The library, as C_GetInfo describes it. LibraryVersion is "MAJOR" or "MAJOR.MINOR".
	LibraryManufacturer, LibraryDescription, LibraryVersion string
	// ModulePath is the module's absolute path.
	ModulePath string
	// PINSource is file:/PATH, env:NAME or credential:NAME; PINValue the PIN itself. One at most.
	PINSource string
	PINValue  secret.Bytes

	// Our own, as x- attributes of the query.
	InitArgs    string    // x-init-args: what C_Initialize is given as pReserved (NSS)
	Profile     string    // x-profile: vendor profile
	Placement   Placement // x-placement
	Processes   int       // x-processes: 1 to 64
	Sessions    int       // x-sessions: 1 to 4096, for each process
	AcceptLeaks bool      // x-accept-leaks=true
	InProcess   bool      // x-in-process=true
}

// Parse reads a URI. Errors are fault.BadField and fault.MissingField and name the attribute, never a value.
func Parse(text string, from Origin) (*URI, error) {
	if len(text) > maxURI {
		return nil, bad("it is longer than 8192 bytes")
	}
	if len(text) < len(Scheme) || !strings.EqualFold(text[:len(Scheme)], Scheme) {
		return nil, bad("it does not begin with pkcs11:")
	}
	path, query, _ := strings.Cut(text[len(Scheme):], "?")
	u := &URI{}
	if err := u.read(path, ";", pathAttributes, pathExtra, from); err != nil {
		return nil, err
	}
	if err := u.read(query, "&", queryAttributes, queryExtra, from); err != nil {
		return nil, err
	}
	if u.PINSource != "" && u.PINValue != nil {
		return nil, bad("pin-source and pin-value exclude each other")
	}
	return u, nil
}

// read reads the attributes of one part.
func (u *URI) read(part, separator string, known map[string]attribute, extra string, from Origin) error {
	if part == "" {
		return nil
	}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(part, separator) {
		name, raw, ok := strings.Cut(field, "=")
		if !ok || !isName(name) {
			return bad("a part of it is no attribute with a value")
		}
		a, ok := known[name]
		switch {
		case !ok:
			return bad("it has an attribute that is not known: " + shorten(name))
		case a.refused != "":
			return bad(name + " is refused: " + a.refused)
		case a.secret && from != FromFile:
			return bad(name + " is taken from the configuration file only, as a command line can be read by every process; use pin-source=file:/PATH")
		case seen[name]:
			return bad(name + " is there twice")
		}
		seen[name] = true
		value, problem := decode(raw, extra)
		if problem == "" {
			problem = a.check(value)
		}
		if problem == "" {
			problem = a.set(u, value)
		}
		if problem != "" {
			return bad(name + " " + problem)
		}
	}
	return nil
}

// Config gives how the token is opened, without the PIN. The URI must name a module and a token.
func (u *URI) Config() (token.Config, error) {
	if u.ModulePath == "" {
		return token.Config{}, missing("module-path: the absolute path of the PKCS#11 module")
	}
	if u.Token == "" && u.Serial == "" {
		return token.Config{}, missing("token or serial: which token it is")
	}
	return token.Config{Module: u.ModulePath, InitArgs: u.InitArgs, Serial: u.Serial, Label: u.Token, Profile: u.Profile,
		Sessions: u.Sessions, AcceptLeaks: u.AcceptLeaks}, nil
}

// Matches reports whether a token that was found is what the URI says beyond label and serial (RFC 7512 section 2.5: every
// attribute must match).
func (u *URI) Matches(d token.Description) error {
	for _, m := range []struct{ name, want, got string }{
		{"token", u.Token, d.Label}, {"serial", u.Serial, d.Serial},
		{"manufacturer", u.Manufacturer, d.Manufacturer}, {"model", u.Model, d.Model},
	} {
		if m.want != "" && strings.TrimRight(m.want, " ") != strings.TrimRight(m.got, " ") {
			return bad("the token that was found differs in " + m.name)
		}
	}
	// Description has C_GetInfo's text and version in one.
	for _, m := range []struct{ name, want string }{
		{"library-manufacturer", u.LibraryManufacturer}, {"library-description", u.LibraryDescription}, {"library-version", u.LibraryVersion},
	} {
		if m.want != "" && !strings.Contains(d.Library, m.want) {
			return bad("the module that was loaded differs in " + m.name)
		}
	}
	return nil
}

// String gives the URI in a normal form, without the PIN: for people and logs.
func (u *URI) String() string {
	var path, query []string
	add := func(list *[]string, name, value, extra string) {
		if value != "" {
			*list = append(*list, name+"="+encode(value, extra))
		}
	}
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	truth := func(b bool) string {
		if b {
			return "true"
		}
		return ""
	}
	for _, a := range []struct{ name, value string }{
		{"token", u.Token}, {"serial", u.Serial}, {"manufacturer", u.Manufacturer}, {"model", u.Model},
		{"library-manufacturer", u.LibraryManufacturer}, {"library-description", u.LibraryDescription}, {"library-version", u.LibraryVersion},
	} {
		add(&path, a.name, a.value, "")
	}
	for _, a := range []struct{ name, value string }{
		{"module-path", u.ModulePath}, {"pin-source", u.PINSource}, {"x-init-args", u.InitArgs}, {"x-profile", u.Profile},
		{"x-placement", string(u.Placement)}, {"x-processes", number(u.Processes)}, {"x-sessions", number(u.Sessions)},
		{"x-accept-leaks", truth(u.AcceptLeaks)}, {"x-in-process", truth(u.InProcess)},
	} {
		add(&query, a.name, a.value, "/:")
	}
	out := Scheme + strings.Join(path, ";")
	if len(query) > 0 {
		out += "?" + strings.Join(query, "&")
	}
	return out
}

func bad(what string) error {
	return fault.New(fault.BadField, "the PKCS#11 URI cannot be used: "+what)
}

func missing(what string) error {
	return fault.New(fault.MissingField, "the PKCS#11 URI lacks "+what)
}

func shorten(name string) string {
	if len(name) > 32 {
		return name[:32] + "…"
	}
	return name
}
