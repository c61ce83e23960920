package root

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// KeyFileSize is the size in bytes of the secret in a key file.
const KeyFileSize = 32

const keyFilePrefix = "keywright-root-key:v1:"

// ErrKeyFilePermissions says that a key file can be read by others than its owner.
var ErrKeyFilePermissions = errors.New("the key file must be readable by its owner alone (chmod 600)")

// keyFileParams has nothing to say but the version of the format.
type keyFileParams struct {
	Version int `json:"v"`
}

// FormatKeyFile gives the text of a key file: one line, keywright-root-key:v1: and the secret in standard padded base64.
func FormatKeyFile(key secret.Bytes) ([]byte, error) {
	if len(key) != KeyFileSize {
		return nil, fault.New(fault.BadSize, fmt.Sprintf("the secret of a key file has %d bytes", KeyFileSize))
	}
	b := make([]byte, 0, len(keyFilePrefix)+base64.StdEncoding.EncodedLen(KeyFileSize)+1)
	b = append(b, keyFilePrefix...)
	b = base64.StdEncoding.AppendEncode(b, key)
	return append(b, '\n'), nil
}

// ParseKeyFile reads the text of a key file. One line feed at the end may be there or not; nothing else is allowed around it.
// Every failure is the same fault.BadEncoding.
func ParseKeyFile(text []byte) (secret.Bytes, error) {
	malformed := fault.New(fault.BadEncoding, "the key file is not of the form "+keyFilePrefix+"<base64>")
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	enc := base64.StdEncoding.Strict()
	if len(text) != len(keyFilePrefix)+enc.EncodedLen(KeyFileSize) || string(text[:len(keyFilePrefix)]) != keyFilePrefix {
		return nil, malformed
	}
	// DecodedLen counts the padding as data, so the buffer is one byte too long and cut; line breaks inside, which the
	// decoder would skip, make the result too short.
	key := make(secret.Bytes, enc.DecodedLen(enc.EncodedLen(KeyFileSize)))
	n, err := enc.Decode(key, text[len(keyFilePrefix):])
	if err != nil || n != KeyFileSize {
		key.Wipe()
		return nil, malformed
	}
	return key[:n:n], nil
}

// NewKeyFile makes a fresh secret and writes it to a new file, readable by its owner alone and durable when this returns.
// It never overwrites: the error is fs.ErrExist then.
func NewKeyFile(path string) (secret.Bytes, error) {
	key := make(secret.Bytes, KeyFileSize)
	rand.Read(key) // never fails (crypto/rand, since Go 1.24)
	text, err := FormatKeyFile(key)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	if err := writeNew(path, text); err != nil {
		key.Wipe()
		return nil, fmt.Errorf("writing a key file: %w", err)
	}
	return key, nil
}

// writeNew writes the whole file or none: under a name of its own first, then linked to path, which fails when there is
// something already. A crash in between leaves the other name, and no half of a key under path.
func writeNew(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // Sync has said what there is to say
	return d.Sync() // the name too must survive a crash
}

// LoadKeyFile reads a key file. It refuses one that others can read or write (ErrKeyFilePermissions; secret.Private), and
// anything that is not a regular file.
func LoadKeyFile(path string) (secret.Bytes, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not block, it must be refused
	if err != nil {
		return nil, fmt.Errorf("reading a key file: %w", err)
	}
	//nolint:errcheck // it was only read
	defer f.Close()
	info, err := f.Stat() // of the open file: what is checked is what is read
	if err != nil {
		return nil, fmt.Errorf("reading a key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading a key file: %w: not a regular file", fs.ErrInvalid)
	}
	if !secret.Private(info) {
		return nil, fmt.Errorf("%s: %w; its mode is %04o", path, ErrKeyFilePermissions, info.Mode().Perm())
	}
	text := make([]byte, 256) // more than a key file has
	defer clear(text)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading a key file: %w", err)
	}
	return ParseKeyFile(text[:n])
}

func makeKeyFile(s *Slot, key, root secret.Bytes) error {
	if len(key) != KeyFileSize {
		return fault.New(fault.BadSize, fmt.Sprintf("the secret of a key file has %d bytes", KeyFileSize))
	}
	var err error
	if s.Params, err = encodeParams(&keyFileParams{Version: slotVersion}); err != nil {
		return err
	}
	return s.seal(key, root)
}

func readKeyFileParams(b []byte) error {
	p := new(keyFileParams)
	if err := decodeParams(b, p); err != nil {
		return err
	}
	if p.Version != slotVersion {
		return fault.New(fault.KeyMaterial, "the parameters of a key-file slot are not of a known form")
	}
	return nil
}
