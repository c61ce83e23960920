package device

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The ways to reach a TPM.
const (
	Character Network = iota + 1 // a character device: /dev/tpmrm0, /dev/tpm0
	Unix                         // a Unix socket that carries commands and responses as they are (swtpm)
	TCP                          // the same over TCP
)

// Network says how a TPM is reached.
type Network uint8

// URI names a TPM:
//
//	tpm:/dev/tpmrm0                 a character device, by its absolute path
//	tpm:unix:/run/swtpm/socket      a Unix socket, by its absolute path
//	tpm:tcp:127.0.0.1:2321          a TCP socket; an IPv6 address stands in brackets
//
// each with "?" and attributes joined by "&" if needed:
//
//	parent=0x81000001               the persistent handle of the storage parent, 0x81000000 to 0x817fffff
//	owner-auth-source=file:/path    the file that holds the owner hierarchy's password
//
// Octets of a path that are not unreserved, sub-delims, ":", "@" or "/" (RFC 3986, 3.3) are percent-encoded. A URI says where
// a secret is, never what it is.
type URI struct {
	Network         Network
	Address         string // a path, or host:port
	Parent          uint32 // 0: none was named
	OwnerAuthSource string // a path; empty: none was named
}

// The persistent handles that belong to the owner (TPM 2.0 part 2, 7.5; TCG registry of reserved handles).
const (
	firstPersistent = 0x81000000
	lastPersistent  = 0x817fffff
)

// Mistakes in a URI. What was written is not repeated: it may be a secret in the wrong place.
var (
	errScheme    = errors.New(`a TPM's URI begins with "tpm:"`)
	errAddress   = errors.New("a TPM's URI names /dev/..., unix:/path or tcp:host:port")
	errPath      = errors.New("the path in a TPM's URI must be absolute, without empty, . or .. parts, and percent-encoded where RFC 3986 asks for it")
	errHost      = errors.New("the TCP address in a TPM's URI must be host:port")
	errAttribute = errors.New("a TPM's URI has an attribute that is unknown, given twice or malformed")
)

// ParseURI reads a URI. Its errors do not carry what was written.
func ParseURI(s string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(s, "tpm:")
	if !ok {
		return URI{}, errScheme
	}
	address, query, attributes := strings.Cut(rest, "?")
	var err error
	switch {
	case strings.HasPrefix(address, "/"):
		u.Network = Character
		u.Address, err = path(address)
	case strings.HasPrefix(address, "unix:"):
		u.Network = Unix
		u.Address, err = path(address[len("unix:"):])
	case strings.HasPrefix(address, "tcp:"):
		u.Network = TCP
		u.Address, err = hostPort(address[len("tcp:"):])
	default:
		err = errAddress
	}
	if err != nil {
		return URI{}, err
	}
	if !attributes {
		return u, nil
	}
	for attribute := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(attribute, "=")
		switch {
		case name == "parent" && u.Parent == 0:
			u.Parent, err = parentHandle(value)
		case name == "owner-auth-source" && u.OwnerAuthSource == "":
			file, isFile := strings.CutPrefix(value, "file:")
			if !isFile {
				return URI{}, errAttribute
			}
			u.OwnerAuthSource, err = path(file)
		default:
			err = errAttribute
		}
		if err != nil {
			return URI{}, err
		}
	}
	return u, nil
}

// String writes the URI in the one form that ParseURI gives back.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString("tpm:")
	switch u.Network {
	case Unix:
		b.WriteString("unix:" + encode(u.Address))
	case TCP:
		b.WriteString("tcp:" + u.Address)
	default:
		b.WriteString(encode(u.Address))
	}
	sep := byte('?')
	if u.Parent != 0 {
		b.WriteByte(sep)
		b.WriteString("parent=0x" + strconv.FormatUint(uint64(u.Parent), 16))
		sep = '&'
	}
	if u.OwnerAuthSource != "" {
		b.WriteByte(sep)
		b.WriteString("owner-auth-source=file:" + encode(u.OwnerAuthSource))
	}
	return b.String()
}

// path decodes an absolute path. A path that could be written shorter is refused: one TPM has one name.
func path(encoded string) (string, error) {
	for i := range len(encoded) {
		if c := encoded[i]; c != '%' && c != '/' && !pchar(c) {
			return "", errPath
		}
	}
	p, err := url.PathUnescape(encoded)
	if err != nil || len(p) < 2 || p[0] != '/' || strings.ContainsRune(p, 0) {
		return "", errPath
	}
	for part := range strings.SplitSeq(p[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return "", errPath
		}
	}
	return p, nil
}

// pchar reports whether RFC 3986 lets a path have the octet as it is. "&" and "=" separate our attributes, so they are left out.
func pchar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$'()*+,;:@", c) >= 0
}

func encode(p string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(p) {
		if c := p[i]; c == '/' || pchar(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

func hostPort(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return "", errHost
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", errHost
	}
	if strings.Contains(host, ":") {
		if a, err := netip.ParseAddr(host); err != nil || strings.Contains(a.Zone(), "%") {
			return "", errHost
		}
	}
	for i := range len(host) {
		if c := host[i]; c != ':' && c != '%' && !pchar(c) {
			return "", errHost
		}
	}
	if strings.Contains(host, "%") && !strings.Contains(host, ":") {
		return "", errHost
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

func parentHandle(s string) (uint32, error) {
	hex, ok := strings.CutPrefix(s, "0x")
	n, err := strconv.ParseUint(hex, 16, 32)
	if !ok || err != nil || n < firstPersistent || n > lastPersistent {
		return 0, errAttribute
	}
	return uint32(n), nil
}
