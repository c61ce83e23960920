package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxInput bounds what is read into memory to be sent in one request: the service takes less.
const maxInput = 8 << 20

// source is where a command's data comes from.
type source struct {
	File string `arg:"" optional:"" placeholder:"FILE" help:"File to read; - or nothing: standard input."`
	In   string `short:"i" placeholder:"FILE" help:"The same as a flag."`
}

func (s source) path() (string, error) {
	if s.File != "" && s.In != "" {
		return "", usage("give FILE or --in, not both")
	}
	if s.In != "" {
		return s.In, nil
	}
	return s.File, nil
}

// open opens the source. size is -1 when it is not known. What is read ends with an error when ctx of the command does.
func (s source) open(a *app) (in *inputFile, size int64, err error) {
	path, err := s.path()
	if err != nil {
		return nil, 0, err
	}
	in = &inputFile{}
	f := a.stdin
	if path != "" && path != "-" {
		if f, err = os.Open(path); err != nil {
			return nil, 0, err
		}
		in.file = f
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, in.Close())
	}
	if st.IsDir() {
		return nil, 0, errors.Join(usage("%s is a folder", path), in.Close())
	}
	if st.Mode().IsRegular() {
		in.Reader = f
		return in, st.Size(), nil
	}
	in.Reader = &interruptible{ctx: a.ctx, r: f}
	return in, -1, nil
}

// inputFile is an open source. Close leaves standard input open.
type inputFile struct {
	io.Reader
	file *os.File
}

func (o *inputFile) Close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// interruptible reads from a terminal or a pipe, which may never answer: when ctx ends, Read gives its error at once. The
// read that was under way is left behind with its buffer; the program ends soon after.
type interruptible struct {
	ctx  context.Context //nolint:containedctx // lives for one command
	r    io.Reader
	buf  []byte // owned by the goroutine while one runs
	rest []byte
}

func (r *interruptible) Read(p []byte) (int, error) {
	if len(r.rest) > 0 {
		n := copy(p, r.rest)
		clear(r.rest[:n])
		r.rest = r.rest[n:]
		return n, nil
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.buf == nil {
		r.buf = make([]byte, 64<<10)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := r.r.Read(r.buf)
		done <- result{n, err}
	}()
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case got := <-done:
		n := copy(p, r.buf[:got.n])
		r.rest = r.buf[n:got.n]
		clear(r.buf[:n])
		if len(r.rest) > 0 {
			return n, nil // the error comes again with the next read
		}
		return n, got.err
	}
}

// read reads all of a small source.
func (s source) read(a *app) ([]byte, error) {
	f, _, err := s.open(a)
	if err != nil {
		return nil, err
	}
	b, err := readAll(f, maxInput)
	return b, errors.Join(err, f.Close())
}

// readAll reads at most limit bytes; more is an error.
func readAll(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("the input is larger than %d bytes", limit)
	}
	return b, nil
}

// readSmall reads a small file; "-" is not special.
func readSmall(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := readAll(f, limit)
	return b, errors.Join(err, f.Close())
}

// binarySource reads what a command of ours printed: base64 (with white space anywhere) or the bytes themselves. Bytes that
// happen to be valid base64 throughout are too rare to matter for anything of 16 bytes and more that was made by
// cryptography; --raw-input settles it.
type binarySource struct {
	source
	RawInput bool `help:"Take the input as it is, even if it looks like base64."`
}

func (s binarySource) read(a *app) ([]byte, error) {
	b, err := s.source.read(a)
	if err != nil || s.RawInput {
		return b, err
	}
	return unbase64(b), nil
}

// unbase64 decodes what is base64 and gives everything else back as it is.
func unbase64(b []byte) []byte {
	text := bytes.Join(bytes.Fields(b), nil)
	if len(text) == 0 {
		return b
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil {
		return b
	}
	return out[:n]
}

// proofBytes reads a signature or tag to check.
func (a *app) proofBytes(text, path, what string) ([]byte, error) {
	switch {
	case (text == "") == (path == ""):
		return nil, usage("give --%s BASE64 or --%s-file FILE", what, what)
	case text != "":
		b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
		if err != nil {
			return nil, usage("--%s is not base64", what)
		}
		return b, nil
	}
	b, err := readSmall(path, maxInput)
	if err != nil {
		return nil, err
	}
	return unbase64(b), nil
}

// bound are the data that is authenticated with a ciphertext but not part of it.
type bound struct {
	AAD     string            `name:"aad" placeholder:"TEXT" help:"Additional authenticated data; the same must be given to decrypt."`
	AADFile string            `name:"aad-file" placeholder:"FILE" help:"The same from a file."`
	Context map[string]string `placeholder:"NAME=VALUE" help:"Context that is bound like --aad and checked against the key's policy. Repeatable." mapsep:"none"`
}

func (b bound) aad() ([]byte, error) {
	if b.AADFile == "" {
		return []byte(b.AAD), nil
	}
	if b.AAD != "" {
		return nil, usage("give --aad or --aad-file, not both")
	}
	return readSmall(b.AADFile, maxInput)
}

// passphrase is where a passphrase comes from; it is never a flag.
type passphrase struct {
	PassphraseFile string `placeholder:"FILE" help:"File whose first line is the passphrase. Else $$KEYWRIGHT_PASSPHRASE, else the terminal asks."`
}

// get reads the passphrase; twice when it is a new one that is typed.
func (p passphrase) get(a *app, what string, fresh bool) (string, error) {
	if p.PassphraseFile != "" {
		b, err := readSmall(p.PassphraseFile, 64<<10)
		if err != nil {
			return "", fmt.Errorf("reading the passphrase: %w", err)
		}
		defer clear(b)
		line, _, _ := bytes.Cut(b, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return "", fmt.Errorf("the first line of %s is empty", p.PassphraseFile)
		}
		return string(line), nil
	}
	if s := os.Getenv(envPassphrase); s != "" {
		return s, nil
	}
	s, err := a.ask(what + ": ")
	if err != nil {
		return "", err
	}
	if s == "" {
		return "", errors.New("the passphrase is empty")
	}
	if fresh {
		again, err := a.ask("again: ")
		if err != nil {
			return "", err
		}
		if s != again {
			return "", errors.New("the two passphrases differ")
		}
	}
	return s, nil
}

// ask reads a line from the terminal without echo.
func (a *app) ask(prompt string) (string, error) {
	return a.askFor(prompt, "--passphrase-file", envPassphrase)
}

// askFor is ask for what can also be given by a flag or a variable.
func (a *app) askFor(prompt, flag, variable string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		if !isTerminal(a.stdin) {
			return "", usage("there is no terminal to ask on: give %s, or $%s", flag, variable)
		}
		tty = a.stdin
	} else {
		defer tty.Close() //nolint:errcheck // it keeps nothing
	}
	fmt.Fprint(a.stderr, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(a.stderr)
	if err != nil {
		return "", fmt.Errorf("reading from the terminal: %w", err)
	}
	defer clear(b)
	return string(b), nil
}
