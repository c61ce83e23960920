package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

// Bounds of one request of --lines.
const (
	batchItems = 1000
	batchBytes = 1 << 20
	maxLine    = 2 << 20
)

// result is what became of one line.
type result struct {
	bytes []byte
	err   *wire.Error
}

// eachLine sends the lines of the input in batches and prints one line for each, in order. A line that failed gives an
// empty line and a message on stderr, so that the output stays aligned with the input; the exit code is then 1.
func eachLine(ctx context.Context, a *app, s source, out binary, encode bool, send func([][]byte) ([]result, error)) (err error) {
	if a.json() {
		return usage("--lines prints lines: it does not go with --output json")
	}
	f, _, err := s.open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	bar := a.progress(-1, "items", false)
	failed := 0
	err = out.toSink(a, func(w io.Writer) error {
		first := 1
		return batches(ctx, f, func(lines [][]byte) error {
			results, err := send(lines)
			if err != nil {
				return fmt.Errorf("lines %d to %d: %w", first, first+len(lines)-1, err)
			}
			if err := writeLines(a, w, results, first, encode, &failed); err != nil {
				return err
			}
			first += len(lines)
			return bar.Add(len(lines))
		})
	})
	if err = errors.Join(err, bar.Finish()); err != nil {
		return err
	}
	if failed > 0 {
		return &exitError{exitFailure, fmt.Sprintf("%d lines failed", failed)}
	}
	return nil
}

func writeLines(a *app, w io.Writer, results []result, first int, encode bool, failed *int) error {
	var buf []byte
	for i, r := range results {
		switch {
		case r.err != nil:
			*failed++
			fmt.Fprintf(a.stderr, "keywright: line %d: %s (%s)\n", first+i, printable(r.err.Message), printable(r.err.Code))
		case encode:
			buf = base64.StdEncoding.AppendEncode(buf, r.bytes)
		default:
			buf = append(buf, r.bytes...)
			clear(r.bytes)
		}
		buf = append(buf, '\n')
	}
	_, err := w.Write(buf)
	clear(buf)
	return err
}

// batches calls send with the lines of r, so many at a time as one request takes.
func batches(ctx context.Context, r io.Reader, send func([][]byte) error) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, 64<<10), maxLine)
	var lines [][]byte
	size := 0
	flush := func() error {
		if len(lines) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := send(lines)
		for _, l := range lines {
			clear(l)
		}
		lines, size = lines[:0], 0
		return err
	}
	for scan.Scan() {
		line := bytes.Clone(scan.Bytes())
		if len(lines) == batchItems || size+len(line) > batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		lines, size = append(lines, line), size+len(line)
	}
	if err := scan.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
		return err
	}
	return flush()
}

func (k keyFlag) batch() client.BatchOptions {
	return client.BatchOptions{Key: k.Key, KeyVersion: k.KeyVersion}
}

func (k encryptCmd) lines(ctx context.Context, a *app, aad []byte) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	o := k.batch()
	o.Hash = k.Hash
	return eachLine(ctx, a, k.source, k.binary, true, func(lines [][]byte) ([]result, error) {
		items := make([]wire.EncryptItem, len(lines))
		for i, l := range lines {
			items[i] = wire.EncryptItem{Plaintext: l, AAD: aad, Context: k.Context}
		}
		answers, err := c.EncryptBatch(ctx, o, items)
		return results(answers, func(r wire.Ciphertext) result { return result{r.Ciphertext, r.Error} }), err
	})
}

func (k decryptCmd) lines(ctx context.Context, a *app, aad []byte) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	o := k.batch()
	o.Hash = k.Hash
	return eachLine(ctx, a, k.source, k.raw(), false, func(lines [][]byte) ([]result, error) {
		return ciphertexts(lines, aad, k.Context, func(items []wire.DecryptItem) ([]result, error) {
			answers, err := c.DecryptBatch(ctx, o, items)
			return results(answers, func(r wire.Plaintext) result { return result{r.Plaintext, r.Error} }), err
		})
	})
}

func (k rewrapCmd) lines(ctx context.Context, a *app, aad []byte) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return eachLine(ctx, a, k.source, k.binary, true, func(lines [][]byte) ([]result, error) {
		return ciphertexts(lines, aad, k.Context, func(items []wire.DecryptItem) ([]result, error) {
			answers, err := c.RewrapBatch(ctx, k.batch(), items)
			return results(answers, func(r wire.Ciphertext) result { return result{r.Ciphertext, r.Error} }), err
		})
	})
}

func results[R any](answers []R, to func(R) result) []result {
	out := make([]result, len(answers))
	for i, r := range answers {
		out[i] = to(r)
	}
	return out
}

// ciphertexts decodes lines and sends those that are base64; the others fail by themselves.
func ciphertexts(lines [][]byte, aad []byte, context map[string]string, send func([]wire.DecryptItem) ([]result, error)) ([]result, error) {
	out := make([]result, len(lines))
	items := make([]wire.DecryptItem, 0, len(lines))
	at := make([]int, 0, len(lines))
	for i, l := range lines {
		b, err := base64.StdEncoding.Strict().AppendDecode(nil, bytes.TrimSpace(l))
		if err != nil || len(b) == 0 {
			out[i].err = &wire.Error{Code: "ERR_INVALID_ENCODING", Message: "the line is not base64"}
			continue
		}
		items, at = append(items, wire.DecryptItem{Ciphertext: b, AAD: aad, Context: context}), append(at, i)
	}
	if len(items) == 0 {
		return out, nil
	}
	answers, err := send(items)
	if err != nil {
		return nil, err
	}
	for i, r := range answers {
		out[at[i]] = r
	}
	return out, nil
}
