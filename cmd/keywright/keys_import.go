package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/keyenc"
)

type keysImportCmd struct {
	Name string `arg:"" optional:"" help:"Name of the new key."`
	source2
	Into string `placeholder:"KEY" help:"Import into this existing key: as the material it waits for, or as a new version."`
	newKeyFlags
}

// source2 is the file of material: standard input must be asked for.
type source2 struct {
	In string `short:"i" required:"" placeholder:"FILE" help:"PEM (PRIVATE KEY, RSA PRIVATE KEY, EC PRIVATE KEY, PUBLIC KEY), PKCS#8 DER, or the raw bytes of a symmetric key; - is standard input."`
}

// importWrapping is the one form of wrapping that this program makes: PKCS#11's CKM_RSA_AES_KEY_WRAP with SHA-256.
const importWrapping = "RSA_AES_KEY_WRAP_SHA_256"

func (k keysImportCmd) Run(ctx context.Context, a *app) error {
	if (k.Name == "") == (k.Into == "") {
		return usage("give the NAME of a new key, or --into KEY")
	}
	if k.Into == "" && k.Algorithm == "" {
		return usage("--algorithm is missing")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	raw, err := source{In: k.In}.read(a)
	if err != nil {
		return err
	}
	defer clear(raw)
	m, err := readMaterial(raw)
	if err != nil {
		return err
	}
	defer clear(m.secret)
	r := wire.ImportKey{Key: k.Into, PublicKey: m.public}
	if k.Into == "" {
		r.Name, r.Algorithm, r.Purpose, r.Backend, r.Custody, r.Labels, r.Policy = k.Name, k.Algorithm, k.Purpose, k.Backend, k.Custody, k.Label, k.wire()
	}
	if m.public == "" {
		p, err := c.ImportParameters(ctx, k.Backend)
		if err != nil {
			return err
		}
		if r.WrappedKey, err = wrapForImport(p, m.secret); err != nil {
			return err
		}
		r.ImportToken = p.ImportToken
	}
	return showKey(a)(c.ImportKey(ctx, r))
}

func wrapForImport(p *wire.ImportParameters, material []byte) ([]byte, error) {
	if p.WrappingAlgorithm != importWrapping {
		return nil, fmt.Errorf("the service wants %q, and this program only knows %s", p.WrappingAlgorithm, importWrapping)
	}
	pub, err := keyenc.ParsePublicPEM([]byte(p.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("the service's wrapping key: %w", err)
	}
	key, ok := pub.(*rsa.PublicKey)
	if !ok || key.Size() < 256 {
		return nil, errors.New("the service's wrapping key is not an RSA key of at least 2048 bits")
	}
	hash, _ := keyenc.HashByName(keyenc.SHA256) // a name of its own list
	return keyenc.WrapRSAAES(rand.Reader, key, hash, material)
}

// material is what a key file held: one of the two.
type material struct {
	secret []byte // PKCS#8 DER, or the bytes of a symmetric key
	public string // PEM
}

// readMaterial finds out what a key file is. What is neither PEM nor of another known form is taken for a symmetric key or
// DER as it stands; the service knows by the algorithm which it must be.
func readMaterial(b []byte) (material, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		if strings.Contains(string(b), "-----BEGIN") {
			return material{}, errors.New("the file looks like PEM but cannot be read as such")
		}
		if len(b) == 0 {
			return material{}, errors.New("the file is empty")
		}
		return material{secret: append([]byte(nil), b...)}, nil
	}
	if len(strings.TrimSpace(string(rest))) > 0 && block.Type == "EC PARAMETERS" {
		// openssl ecparam -genkey writes the parameters before the key, which names its curve itself.
		block, rest = pem.Decode(rest)
	}
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		return material{}, errors.New("the file must hold exactly one PEM block")
	}
	if block.Headers["Proc-Type"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
		return material{}, errors.New("the key is encrypted: decrypt it first, as in openssl pkcs8 -topk8 -nocrypt")
	}
	switch block.Type {
	case "PRIVATE KEY":
		return material{secret: block.Bytes}, nil
	case "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		clear(block.Bytes)
		if err != nil {
			return material{}, errors.New("the RSA PRIVATE KEY is malformed")
		}
		return pkcs8(key)
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		clear(block.Bytes)
		if err != nil {
			return material{}, errors.New("the EC PRIVATE KEY is malformed or of an unknown curve")
		}
		return pkcs8(key)
	case "PUBLIC KEY":
		return material{public: string(pem.EncodeToMemory(block))}, nil
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return material{}, errors.New("the certificate is malformed")
		}
		return material{public: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: cert.RawSubjectPublicKeyInfo}))}, nil
	}
	return material{}, errors.New("the PEM block is not a private key, a public key or a certificate")
}

func pkcs8(key any) (material, error) {
	der, err := keyenc.MarshalPKCS8(key)
	if err != nil {
		return material{}, err
	}
	return material{secret: der}, nil
}

type keysExportCmd struct {
	keyArg
	To         string `placeholder:"KEY" help:"Wrap to this RSA key of the service."`
	PublicKey  string `placeholder:"FILE" help:"Wrap to the RSA public key in this PEM file."`
	Hash       string `help:"Hash of RSA-OAEP; SHA-256 when not given." placeholder:"NAME"`
	KeyVersion uint32 `placeholder:"N" help:"Version; the primary one when not given."`
	binary
}

func (k keysExportCmd) Run(ctx context.Context, a *app) error {
	if (k.To == "") == (k.PublicKey == "") {
		return usage("give --to KEY or --public-key FILE")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	r := wire.ExportKey{To: k.To, Hash: k.Hash, Version: k.KeyVersion}
	if k.PublicKey != "" {
		b, err := readSmall(k.PublicKey, maxInput)
		if err != nil {
			return err
		}
		m, err := readMaterial(b)
		if err != nil {
			return err
		}
		clear(m.secret)
		if m.public == "" {
			return errors.New("the file of --public-key holds no public key")
		}
		r.PublicKey = m.public
	}
	e, err := c.ExportKey(ctx, k.Key, r)
	if err != nil {
		return err
	}
	return k.put(a, e, e.WrappedKey, written{KeyID: e.KeyID, KeyVersion: e.KeyVersion})
}
