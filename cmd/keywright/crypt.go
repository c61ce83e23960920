package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/filecrypt"
)

// inlineLimit is up to which size data is sent to the service itself; what is larger is encrypted here, under a data key.
const inlineLimit = 64 << 10

// keyFlag names the key of an operation.
type keyFlag struct {
	Key        string `short:"k" placeholder:"KEY" help:"Name or id of the key; the tenant's default key when not given, where there is one."`
	KeyVersion uint32 `placeholder:"N" help:"Version of the key; the right one when not given."`
}

func (k keyFlag) target() wire.Target { return wire.Target{Key: k.Key, KeyVersion: k.KeyVersion} }

func (k keyFlag) required() error {
	if k.Key == "" {
		return usage("--key is missing")
	}
	return nil
}

// oaepFlags are for RSA and KEM keys that must interoperate.
type oaepFlags struct {
	HPKE    bool   `name:"hpke" help:"KEM keys only: an HPKE ciphertext (RFC 9180) instead of the service's format."`
	KEMDEM  bool   `name:"kem-dem" help:"KEM keys only: a bare ciphertext (docs/formats/qpher.md) instead of the service's format."`
	Hash    string `placeholder:"NAME" help:"RSA only: hash of OAEP."`
	RawOAEP bool   `name:"raw-oaep" help:"RSA only: a bare OAEP ciphertext (RFC 8017) instead of the service's format."`
	Label   string `placeholder:"TEXT" help:"With --raw-oaep the OAEP label, with --hpke the info."`
}

func (o oaepFlags) format() string {
	if o.RawOAEP {
		return "raw"
	}
	if o.HPKE {
		return "hpke"
	}
	if o.KEMDEM {
		return "kem-dem"
	}
	return ""
}

type encryptCmd struct {
	keyFlag
	source
	binary
	bound
	oaepFlags
	Envelope bool `help:"Encrypt here, under a data key that the key protects, whatever the size. Data over 64 KiB always is."`
	Lines    bool `help:"Each line of the input is one item; print one line of base64 for each."`
}

func (k encryptCmd) Help() string {
	return "Up to 64 KiB are encrypted by the service itself and printed as base64. What is larger is encrypted here, in constant memory, under a fresh data key, and only the data key is encrypted by the service (docs/formats/file.md). decrypt knows both."
}

func (k encryptCmd) Run(ctx context.Context, a *app) (err error) {
	aad, err := k.aad()
	if err != nil {
		return err
	}
	if k.Lines {
		if k.Envelope || k.format() != "" {
			return usage("--lines does not go with --envelope, --raw-oaep, --hpke or --kem-dem")
		}
		return k.lines(ctx, a, aad)
	}
	f, size, err := k.open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, inlineLimit+1)
	defer clear(head)
	if !k.Envelope {
		n, err := io.ReadFull(f, head)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return k.inline(ctx, a, head[:n], aad)
		case err != nil:
			return fmt.Errorf("reading the input: %w", err)
		case k.RawOAEP:
			return usage("the input is too large for RSA-OAEP")
		case k.HPKE:
			return usage("the input is too large for one HPKE ciphertext here: leave --hpke out")
		case k.KEMDEM:
			return usage("the input is too large for one bare ciphertext here: leave --kem-dem out")
		}
	} else {
		head = head[:0]
	}
	return k.stream(ctx, a, f, head, size, aad)
}

func (k encryptCmd) inline(ctx context.Context, a *app, plaintext, aad []byte) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.Encrypt(ctx, wire.Encrypt{Target: k.target(), Hash: k.Hash, Format: k.format(),
		EncryptItem: wire.EncryptItem{Plaintext: plaintext, AAD: aad, Context: k.Context, Label: []byte(k.Label)}})
	if err != nil {
		return err
	}
	return k.put(a, r, r.Ciphertext, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}

// stream encrypts under a data key. head is what was read already.
func (k encryptCmd) stream(ctx context.Context, a *app, f io.Reader, head []byte, size int64, aad []byte) error {
	if err := k.required(); err != nil {
		return err
	}
	if k.Out == "" && (a.json() || isTerminal(a.stdout)) {
		return usage("the encrypted file is binary: name a file with --out")
	}
	if k.As == "hex" || k.As == "base64" {
		return usage("an encrypted file is always raw: --as does not apply")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	dk, err := c.DataKey(ctx, wire.DataKey{Target: k.target(), DataKeyItem: wire.DataKeyItem{Bytes: filecrypt.DataKeySize, AAD: aad, Context: k.Context}})
	if err != nil {
		return err
	}
	defer clear(dk.Plaintext)
	bar := a.progress(size, "encrypting", true)
	var total int64
	err = k.toSink(a, func(dst io.Writer) error {
		w, err := filecrypt.NewWriter(dst, dk.Plaintext, dk.Ciphertext, filecrypt.Options{})
		if err != nil {
			return err
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		n, err := copyContext(ctx, io.MultiWriter(w, bar), f)
		if err != nil {
			return err
		}
		total = n + int64(len(head))
		return w.Close()
	})
	if err = errors.Join(err, bar.Finish()); err != nil {
		return err
	}
	return k.report(a, total, dk.Used)
}

// toSink writes to the file of --out, or to standard output.
func (o binary) toSink(a *app, write func(io.Writer) error) error {
	if o.Out != "" {
		return o.create(write)
	}
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	return errors.Join(write(w), w.Flush())
}

func (o binary) report(a *app, n int64, used wire.Used) error {
	if used.KeyState == "compromised" {
		a.warn("this key version is marked compromised")
	}
	if !a.json() {
		return nil
	}
	return a.printJSON(written{Out: o.Out, Bytes: n, KeyID: used.KeyID, KeyVersion: used.KeyVersion, KeyState: used.KeyState})
}

// copyContext copies until the end of src or of ctx.
func copyContext(ctx context.Context, dst io.Writer, src io.Reader) (int64, error) {
	buf := make([]byte, 256<<10)
	defer clear(buf)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return total, werr
			}
			total += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

type decryptCmd struct {
	keyFlag
	binarySource
	sink
	bound
	oaepFlags
	Lines bool `help:"Each line of the input is one ciphertext in base64; print one line of plaintext for each."`
}

func (k decryptCmd) Help() string {
	return "Takes what encrypt made: base64 or bytes, or an encrypted file of any size. The plaintext is written as it is. With --out the file appears only when all of it is authenticated; on standard output each part is authenticated before it is written, but only exit code 0 says that nothing is missing at the end."
}

func (k decryptCmd) Run(ctx context.Context, a *app) (err error) {
	aad, err := k.aad()
	if err != nil {
		return err
	}
	if k.Lines {
		if k.format() != "" {
			return usage("--lines does not go with --raw-oaep, --hpke or --kem-dem")
		}
		return k.lines(ctx, a, aad)
	}
	f, size, err := k.open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := bufio.NewReaderSize(f, 64<<10)
	magic, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the input: %w", err)
	}
	if filecrypt.Is(magic) && k.format() == "" {
		return k.stream(ctx, a, r, size, aad)
	}
	b, err := readAll(r, maxInput)
	if err != nil {
		return err
	}
	if !k.RawInput {
		b = unbase64(b)
	}
	return k.inline(ctx, a, b, aad)
}

func (k decryptCmd) inline(ctx context.Context, a *app, ciphertext, aad []byte) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.Decrypt(ctx, wire.Decrypt{Target: k.target(), Hash: k.Hash, Format: k.format(),
		DecryptItem: wire.DecryptItem{Ciphertext: ciphertext, AAD: aad, Context: k.Context, Label: []byte(k.Label)}})
	if err != nil {
		return err
	}
	defer clear(r.Plaintext)
	return k.raw().put(a, r, r.Plaintext, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}

// raw is the output of a plaintext: never encoded, so that what went in comes out.
func (k decryptCmd) raw() binary { return binary{k.sink, encoding{"raw"}} }

func (k decryptCmd) stream(ctx context.Context, a *app, r io.Reader, size int64, aad []byte) error {
	if k.Out == "" && a.json() {
		return usage("with --output json, name the file for the plaintext with --out")
	}
	h, err := filecrypt.ReadHeader(r)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	dk, err := c.Decrypt(ctx, wire.Decrypt{Target: k.target(), DecryptItem: wire.DecryptItem{Ciphertext: h.EncryptedKey, AAD: aad, Context: k.Context}})
	if err != nil {
		return err
	}
	defer clear(dk.Plaintext)
	plain, err := filecrypt.NewReader(r, h, dk.Plaintext)
	if err != nil {
		return fmt.Errorf("%w: its data key has another size", filecrypt.ErrFormat)
	}
	defer plain.Close()
	bar := a.progress(size, "decrypting", true)
	var total int64
	err = k.raw().toSink(a, func(w io.Writer) error {
		total, err = copyContext(ctx, io.MultiWriter(w, bar), plain)
		return err
	})
	if err = errors.Join(err, bar.Finish()); err != nil {
		if k.Out == "" && total > 0 {
			a.warn("what was written to standard output is not complete: do not use it")
		}
		return err
	}
	return k.raw().report(a, total, dk.Used)
}

type rewrapCmd struct {
	keyFlag
	binarySource
	binary
	bound
	Lines bool `help:"Each line of the input is one ciphertext in base64; print one line of base64 for each."`
}

func (k rewrapCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	aad, err := k.aad()
	if err != nil {
		return err
	}
	if k.Lines {
		return k.lines(ctx, a, aad)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := k.binarySource.read(a)
	if err != nil {
		return err
	}
	if filecrypt.Is(b) {
		return usage("this is an encrypted file: decrypt it and encrypt it anew")
	}
	r, err := c.Rewrap(ctx, wire.Decrypt{Target: k.target(), DecryptItem: wire.DecryptItem{Ciphertext: b, AAD: aad, Context: k.Context}})
	if err != nil {
		return err
	}
	return k.put(a, r, r.Ciphertext, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion, KeyState: r.KeyState})
}
