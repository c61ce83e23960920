package root

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	key, err := NewKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	got, err := LoadKeyFile(path)
	if err != nil || !bytes.Equal(got, key) || len(key) != KeyFileSize {
		t.Errorf("loaded another key, %v", err)
	}
	if _, err := NewKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
	if again, err := LoadKeyFile(path); err != nil || !bytes.Equal(again, key) {
		t.Error("the file changed")
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("%d files beside the key, %v", len(names)-1, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o620} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKeyFile(path); !errors.Is(err, ErrKeyFilePermissions) {
			t.Errorf("mode %04o: %v, want %v", mode, err, ErrKeyFilePermissions)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeyFile(path); err != nil {
		t.Errorf("mode 0400: %v", err)
	}
	if _, err := LoadKeyFile(t.TempDir()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a directory: %v", err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeyFile(pipe); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a pipe: %v", err)
	}
	if _, err := LoadKeyFile(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LoadKeyFile(long)
	want(t, err, fault.BadEncoding)
	if _, err := NewKeyFile(filepath.Join(t.TempDir(), "missing", "root.key")); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}

func TestParseKeyFile(t *testing.T) {
	key := make(secret.Bytes, KeyFileSize)
	key[31] = 0xff
	text, err := FormatKeyFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, good := range []string{string(text), strings.TrimSuffix(string(text), "\n")} {
		if got, err := ParseKeyFile([]byte(good)); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%v", err)
		}
	}
	line := strings.TrimSuffix(string(text), "\n")
	for name, bad := range map[string]string{
		"empty": "", "line feed": "\n", "two line feeds": string(text) + "\n", "carriage return": line + "\r\n", "space": " " + line,
		"no prefix": strings.TrimPrefix(line, keyFilePrefix), "version": strings.Replace(line, ":v1:", ":v2:", 1), "cut": line[:len(line)-1],
		"no padding": strings.TrimRight(line, "="), "loose bits": strings.Replace(line, "P8=", "P9=", 1), "line feed inside": line[:40] + "\n" + line[41:],
		"URL alphabet": strings.Replace(line, "AAAA", "AA-A", 1), "two keys": line + line,
	} {
		if bad == line {
			t.Fatalf("%s: the same", name)
		}
		_, err := ParseKeyFile([]byte(bad))
		if !fault.Has(err, fault.BadEncoding) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{0, 31, 33} {
		_, err := FormatKeyFile(make(secret.Bytes, n))
		want(t, err, fault.BadSize)
	}
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(keyFilePrefix + strings.Repeat("A", 43) + "=\n"))
	f.Add([]byte(keyFilePrefix))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseKeyFile(text)
		if err != nil {
			want(t, err, fault.BadEncoding)
			return
		}
		again, err := FormatKeyFile(key)
		if err != nil || !bytes.Equal(bytes.TrimSuffix(again, []byte("\n")), bytes.TrimSuffix(text, []byte("\n"))) {
			t.Fatalf("written again otherwise, %v", err)
		}
	})
}
