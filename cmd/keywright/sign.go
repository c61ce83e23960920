package main

import (
	"context"
	"crypto"
	_ "crypto/sha256" // hashes for keyenc's names
	_ "crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
	"github.com/keywright/keywright/keyenc"
)

// maxMessage is the largest message that the service takes. Beyond it the digest is computed here, where the key's algorithm
// signs digests.
const maxMessage = 1 << 20

// signFlags are common to sign and verify.
type signFlags struct {
	Hash             string            `placeholder:"NAME" help:"SHA-256, SHA-384 or SHA-512; the algorithm's own when not given."`
	Padding          string            `help:"RSA: pss (default) or pkcs1v15." enum:"pss,pkcs1v15," default:""`
	Encoding         string            `help:"ECDSA: der (default) or p1363." enum:"der,p1363," default:""`
	Digest           bool              `help:"The input is the digest already: its bytes, or hex."`
	SignatureContext string            `placeholder:"TEXT" help:"ML-DSA, SLH-DSA, composite: the context string of the standard, which is signed."`
	Context          map[string]string `placeholder:"NAME=VALUE" help:"Context that the key's policy asks for; it is not signed. Repeatable." mapsep:"none"`
}

// subject is what is signed: the message, or its digest by hash.
type subject struct {
	message, digest []byte
	hash            string
}

// subject reads the input. A message that is too large for a request is hashed here, which gives the same signature where the
// algorithm hashes first (RSA, ECDSA); for that the algorithm must be known.
func (s signFlags) subject(ctx context.Context, a *app, in source, key string, c *client.Client) (_ subject, err error) {
	f, size, err := in.open(a)
	if err != nil {
		return subject{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if s.Digest {
		b, err := readAll(f, 1024)
		if err != nil {
			return subject{}, err
		}
		return subject{digest: unhex(b), hash: s.Hash}, nil
	}
	head, err := io.ReadAll(io.LimitReader(f, maxMessage+1))
	if err != nil {
		return subject{}, err
	}
	if len(head) <= maxMessage {
		return subject{message: head, hash: s.Hash}, nil
	}
	name, h, err := s.localHash(ctx, c, key)
	if err != nil {
		return subject{}, err
	}
	bar := a.progress(size, "hashing", true)
	sum := h.New()
	sum.Write(head) // never fails (hash.Hash)
	_, err = copyContext(ctx, io.MultiWriter(sum, bar), f)
	if err = errors.Join(err, bar.Finish()); err != nil {
		return subject{}, fmt.Errorf("reading the input: %w", err)
	}
	return subject{digest: sum.Sum(nil), hash: name}, nil
}

// localHash finds the hash by which the service would hash a message for the key.
func (s signFlags) localHash(ctx context.Context, c *client.Client, key string) (string, crypto.Hash, error) {
	if key == "" {
		return "", 0, usage("the input is larger than 1 MiB, so that it must be hashed here: name the key with --key")
	}
	k, err := c.Key(ctx, key)
	if err != nil {
		return "", 0, fmt.Errorf("looking up the key's algorithm: %w", err)
	}
	name := s.Hash
	switch alg := k.Algorithm; {
	case strings.HasPrefix(alg, "RSA-"), alg == "ECDSA-P256":
		name = or(name, keyenc.SHA256)
	case alg == "ECDSA-P384":
		name = or(name, keyenc.SHA384)
	case alg == "ECDSA-P521":
		name = or(name, keyenc.SHA512)
	default:
		return "", 0, fmt.Errorf("the input is larger than 1 MiB, and %s cannot sign a digest in its place", alg)
	}
	h, ok := keyenc.HashByName(name)
	if !ok || !keyenc.SignatureHash(h) {
		return "", 0, usage("--hash must be SHA-256, SHA-384 or SHA-512")
	}
	return name, h, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// unhex decodes hex, as sha256sum prints it (with a file name behind), and gives everything else back as it is.
func unhex(b []byte) []byte {
	text := b
	if i := strings.IndexFunc(string(b), unicode.IsSpace); i > 0 {
		text = b[:i]
	}
	out := make([]byte, hex.DecodedLen(len(text)))
	if n, err := hex.Decode(out, text); err == nil && n > 0 {
		return out
	}
	return b
}

type signCmd struct {
	keyFlag
	source
	binary
	signFlags
	Deterministic bool `help:"ML-DSA, SLH-DSA: without fresh randomness, so that the same message has the same signature."`
}

func (k signCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	s, err := k.subject(ctx, a, k.source, k.Key, c)
	if err != nil {
		return err
	}
	r, err := c.Sign(ctx, wire.Sign{Target: k.target(), Hash: s.hash, Padding: k.Padding, Encoding: k.signFlags.Encoding,
		SignatureContext: []byte(k.SignatureContext), Deterministic: k.Deterministic,
		SignItem: wire.SignItem{Message: s.message, Digest: s.digest, Context: k.Context}})
	if err != nil {
		return err
	}
	return k.put(a, r, r.Signature, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion})
}

type verifyCmd struct {
	keyFlag
	source
	signFlags
	Signature     string `short:"s" placeholder:"BASE64" help:"The signature."`
	SignatureFile string `placeholder:"FILE" help:"File with the signature: its bytes, or base64."`
}

func (k verifyCmd) Run(ctx context.Context, a *app) error {
	sig, err := a.proofBytes(k.Signature, k.SignatureFile, "signature")
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	s, err := k.subject(ctx, a, k.source, k.Key, c)
	if err != nil {
		return err
	}
	r, err := c.Verify(ctx, wire.Verify{Target: k.target(), Hash: s.hash, Padding: k.Padding, Encoding: k.Encoding, SignatureContext: []byte(k.SignatureContext),
		VerifyItem: wire.VerifyItem{Message: s.message, Digest: s.digest, Signature: sig, Context: k.Context}})
	if err != nil {
		return err
	}
	return a.verdict(r)
}

// verdict prints whether a signature or tag is valid, and makes a wrong one exit code 7.
func (a *app) verdict(v *wire.Validity) error {
	text := "invalid"
	if *v.Valid {
		text = "valid"
	}
	if v.KeyState == "compromised" {
		a.warn("this key version is marked compromised: a valid signature proves little")
	}
	if err := a.show(v, func() error { return a.printf("%s\n", text) }); err != nil {
		return err
	}
	if !*v.Valid {
		return &exitError{code: exitInvalid}
	}
	return nil
}

type macCmd struct {
	keyFlag
	source
	binary
	Context map[string]string `placeholder:"NAME=VALUE" help:"Context that the key's policy asks for. Repeatable." mapsep:"none"`
}

func (k macCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := k.read(a)
	if err != nil {
		return err
	}
	r, err := c.MAC(ctx, wire.MAC{Target: k.target(), MACItem: wire.MACItem{Message: b, Context: k.Context}})
	if err != nil {
		return err
	}
	return k.put(a, r, r.MAC, written{KeyID: r.KeyID, KeyVersion: r.KeyVersion})
}

type verifyMACCmd struct {
	keyFlag
	source
	MAC     string            `name:"mac" short:"m" placeholder:"BASE64" help:"The code to check."`
	MACFile string            `name:"mac-file" placeholder:"FILE" help:"File with the code: its bytes, or base64."`
	Context map[string]string `placeholder:"NAME=VALUE" help:"Context that the key's policy asks for. Repeatable." mapsep:"none"`
}

func (k verifyMACCmd) Run(ctx context.Context, a *app) error {
	if err := k.required(); err != nil {
		return err
	}
	tag, err := a.proofBytes(k.MAC, k.MACFile, "mac")
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	b, err := k.read(a)
	if err != nil {
		return err
	}
	r, err := c.VerifyMAC(ctx, wire.MAC{Target: k.target(), MACItem: wire.MACItem{Message: b, MAC: tag, Context: k.Context}})
	if err != nil {
		return err
	}
	return a.verdict(r)
}
