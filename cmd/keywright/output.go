package main

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/schollz/progressbar/v3"

	"github.com/keywright/keywright/filecrypt"
)

func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

var jsonStyle = []json.Options{jsonv1.OmitEmptyWithLegacySemantics(true), json.Deterministic(true), jsontext.WithIndent("  "), jsontext.SpaceAfterColon(true)}

func (a *app) printJSON(v any) error { return writeJSON(a.stdout, v) }

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v, jsonStyle...)
	if err != nil {
		return fmt.Errorf("encoding the output: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// show prints v as JSON, or calls text.
func (a *app) show(v any, text func() error) error {
	if a.json() {
		return a.printJSON(v)
	}
	return text()
}

// fields prints name and value in two columns; empty values are left out.
func (a *app) fields(pairs ...string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s:\t%s\n", pairs[i], pairs[i+1])
		}
	}
	return w.Flush()
}

// list prints a sequence: in JSON as {"items": […], "next_cursor": ""}, else as a table. JSON is written as the items come.
func list[T any](a *app, seq iter.Seq2[T, error], head []string, row func(T) []string) error {
	if a.json() {
		return listJSON(a, seq)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	n := 0
	for v, err := range seq {
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if n == 0 {
			fmt.Fprintln(w, strings.Join(head, "\t"))
		}
		fmt.Fprintln(w, strings.Join(row(v), "\t"))
		if n++; n%1000 == 0 { // a tabwriter holds all its lines: bound them
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

func listJSON[T any](a *app, seq iter.Seq2[T, error]) error {
	w := bufio.NewWriter(a.stdout)
	if _, err := w.WriteString("{\n  \"items\": ["); err != nil {
		return err
	}
	sep := "\n    "
	for v, err := range seq {
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		b, err := json.Marshal(v, jsonv1.OmitEmptyWithLegacySemantics(true), json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("encoding the output: %w", err)
		}
		fmt.Fprintf(w, "%s%s", sep, b) // errors stay in w until Flush
		sep = ",\n    "
	}
	fmt.Fprint(w, "\n  ],\n  \"next_cursor\": \"\"\n}\n")
	return w.Flush()
}

// take bounds a sequence to n elements; 0: all.
func take[T any](seq iter.Seq2[T, error], n int) iter.Seq2[T, error] {
	if n <= 0 {
		return seq
	}
	return func(yield func(T, error) bool) {
		left := n
		for v, err := range seq {
			if !yield(v, err) || err != nil {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// sink is where a command's bytes go. Secrets and ciphertexts never replace a file unless --force says so.
type sink struct {
	Out   string `placeholder:"FILE" help:"Write the result to this file, as it is, instead of to standard output."`
	Force bool   `help:"Replace the file of --out if it exists."`
}

// file writes b to another file than that of --out, under the same rules.
func (s sink) file(path string, b []byte) error {
	return sink{path, s.Force}.create(func(w io.Writer) error { _, err := w.Write(b); return err })
}

// create writes the file all or nothing. What exists and is no regular file (a pipe, a device) is written directly.
func (s sink) create(write func(io.Writer) error) error {
	st, err := os.Stat(s.Out)
	if err == nil && st.IsDir() {
		return usage("%s is a folder", s.Out)
	}
	if err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(s.Out, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	err = filecrypt.Create(s.Out, s.Force, write)
	if errors.Is(err, fs.ErrExist) {
		return &exitError{exitConflict, s.Out + " exists already (--force replaces it)"}
	}
	return err
}

// once runs what makes something with a secret that is shown this one time, and writes the secret to the file of --out if there is one. Nothing is made where no such file can be. lost says what
// to do when the secret was made and could not be written after all.
func (s sink) once(run func() (secret string, err error), lost func() string) error {
	if s.Out == "" {
		_, err := run()
		return err
	}
	made := false
	err := s.create(func(w io.Writer) error {
		secret, err := run()
		if err != nil {
			return err
		}
		made = true
		_, err = fmt.Fprintln(w, secret)
		return err
	})
	if err != nil && made {
		return fmt.Errorf("%s: %w", lost(), err)
	}
	return err
}

// encoding is how bytes are printed on standard output.
type encoding struct {
	As string `help:"How to print bytes: base64, hex or raw; to a file they go raw unless this is given." enum:"base64,hex,raw,auto" default:"auto"`
}

func (e encoding) encode(b []byte, file bool) []byte {
	as := e.As
	if as == "auto" {
		as = "base64"
		if file {
			as = "raw"
		}
	}
	switch as {
	case "base64":
		return append(base64.StdEncoding.AppendEncode(nil, b), '\n')
	case "hex":
		return append(hex.AppendEncode(nil, b), '\n')
	}
	return b
}

// binary is the output of a command whose result is bytes.
type binary struct {
	sink
	encoding
}

// written is what JSON output shows when the bytes went to a file.
type written struct {
	Out        string `json:"out"`
	Bytes      int64  `json:"bytes"`
	KeyID      string `json:"key_id,omitempty"`
	KeyVersion uint32 `json:"key_version,omitempty"`
	KeyState   string `json:"key_state,omitempty"`
}

// put writes the result: data is the service's answer for JSON output, b its bytes.
func (o binary) put(a *app, data any, b []byte, used written) error {
	if used.KeyState == "compromised" {
		a.warn("this key version is marked compromised")
	}
	if o.Out != "" {
		if err := o.create(func(w io.Writer) error { _, err := w.Write(o.encode(b, true)); return err }); err != nil {
			return err
		}
		if a.json() {
			used.Out, used.Bytes = o.Out, int64(len(b))
			return a.printJSON(used)
		}
		return nil
	}
	if a.json() {
		return a.printJSON(data)
	}
	_, err := a.stdout.Write(o.encode(b, false))
	return err
}

func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "keywright: warning: "+format+"\n", args...)
}

// progress shows a bar on a terminal; elsewhere it shows nothing. Size -1: unknown. Close it before printing.
func (a *app) progress(size int64, what string, bytes bool) *progressbar.ProgressBar {
	show := isTerminal(a.stderr) && !a.json()
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(bytes),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(show),
		progressbar.OptionUseANSICodes(false),
	)
}

func number[N ~uint32 | ~int | ~int64 | ~uint64](n N) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(int64(n), 10)
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func whenSet(t *time.Time) string {
	if t == nil {
		return ""
	}
	return when(*t)
}
