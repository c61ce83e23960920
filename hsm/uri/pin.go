package uri

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// maxPIN bounds a PIN, in bytes.
const maxPIN = 255

// credentials is the variable in which systemd tells the folder of a unit's credentials (systemd.exec(5)).
const credentials = "CREDENTIALS_DIRECTORY"

// pinSource checks the form alone: what it names is read when the PIN is wanted.
func pinSource(u *URI, v string) string {
	const forms = "is file:/PATH, env:NAME or credential:NAME"
	kind, what, ok := strings.Cut(v, ":")
	if !ok {
		return forms
	}
	switch kind {
	case "file":
		if rest, ok := strings.CutPrefix(what, "//"); ok { // file:///PATH (RFC 8089 section 2); a host's name is not for us
			what = rest
		}
		if !filepath.IsAbs(what) || strings.HasPrefix(what, "//") {
			return forms
		}
	case "env", "credential":
		if !isName(strings.ReplaceAll(what, ".", "_")) {
			return forms
		}
	default:
		return forms
	}
	u.PINSource = kind + ":" + what
	return ""
}

// PIN gives the PIN: that of the URI, or the first line of what pin-source names. A file that others than its owner can read is
// refused; of a credential, whose owner systemd chooses, one that everybody can read. With neither in the URI it is
// fault.MissingField, everything else that goes wrong fault.BadField. The caller wipes it.
func (u *URI) PIN() (secret.Bytes, error) {
	if u.PINValue != nil {
		return append(secret.Bytes(nil), u.PINValue...), nil
	}
	kind, what, _ := strings.Cut(u.PINSource, ":")
	switch kind {
	case "":
		return nil, missing("pin-source: file:/PATH, env:NAME or credential:NAME")
	case "env":
		v, ok := os.LookupEnv(what)
		if !ok {
			return nil, bad("the variable that pin-source names is not set")
		}
		return firstLine([]byte(v))
	case "credential":
		dir := os.Getenv(credentials)
		if dir == "" || what == "." || what == ".." {
			return nil, bad("pin-source names a credential, and the service manager has passed none")
		}
		return readPIN(filepath.Join(dir, what), 0o007)
	}
	forbidden := os.FileMode(0o077)
	if dir := os.Getenv(credentials); dir != "" && filepath.Dir(what) == filepath.Clean(dir) {
		forbidden = 0o007
	}
	return readPIN(what, forbidden)
}

func readPIN(path string, forbidden os.FileMode) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer func() { _ = f.Close() }() // read only: there is nothing to lose
	st, err := f.Stat()
	if err != nil {
		return nil, unreadable(err)
	}
	if !st.Mode().IsRegular() {
		return nil, bad("pin-source names something that is no file")
	}
	if st.Mode().Perm()&forbidden != 0 && !secret.Private(st) {
		return nil, bad("the file that pin-source names can be read by others: chmod 600 it")
	}
	b := make([]byte, maxPIN+3) // with a line's end, and one byte more to see that it is too long
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		clear(b)
		return nil, unreadable(err)
	}
	return firstLine(b[:n])
}

func unreadable(err error) error {
	return fault.Wrap(fault.BadField, "the file that pin-source names cannot be read", err)
}

// firstLine takes the PIN out of b, and wipes b.
func firstLine(b []byte) (secret.Bytes, error) {
	defer clear(b)
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, bad("what pin-source names is empty")
	case len(line) > maxPIN:
		return nil, bad("what pin-source names is too long for a PIN")
	}
	return append(secret.Bytes(nil), line...), nil
}
