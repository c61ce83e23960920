package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/tpm/device"
)

// Capabilities are what a TPM does, not what it says: each algorithm is tried with a known key, loaded from outside into the null hierarchy, where it lives
// for some commands. The keys protect nothing.

// knownRSA are the keys of the tests at start: making RSA keys costs seconds.
//
//go:embed known/rsa-*.pem
var knownRSA embed.FS

// errWrong is an answer that is not the known one.
var errWrong = errors.New("the TPM's answer to a known question is wrong")

// known gives a known key of an algorithm, in the form that Import takes.
func known(info backend.AlgorithmInfo) ([]byte, error) {
	switch info.Family {
	case backend.FamilyRSA:
		text, err := knownRSA.ReadFile(fmt.Sprintf("known/rsa-%d.pem", info.KeyBits))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, errWrong
		}
		return block.Bytes, nil
	case backend.FamilyECDSA, backend.FamilyECDH:
		c, ok := curveOf(info)
		if !ok {
			return nil, errUnsupported
		}
		key, err := ecdsa.ParseRawPrivateKey(c.ec, bytes.Repeat([]byte{0, 3}, c.size/2)) // below every order: the first byte is zero
		if err != nil {
			return nil, err
		}
		return keyenc.MarshalPKCS8(key)
	}
	return bytes.Repeat([]byte{7}, info.KeySize), nil
}

// probe finds out what the TPM does. A TPM that refuses a question, or answers it wrongly, does not have the algorithm; one that does not work is an error.
func (b *Backend) probe(ctx context.Context) error {
	b.can = map[backend.Algorithm]backend.Capability{}
	for _, info := range backend.Algorithms() {
		for _, p := range info.Purposes {
			if len(templates(info, p, nil, true)) == 0 {
				continue
			}
			ok, err := b.tried(ctx, info, p)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			c := b.can[info.Name]
			c.Algorithm, c.Custody, c.Import = info.Name, backend.CustodyDevice, true
			c.Operations = append(c.Operations, backend.OperationsOf(info, p)...)
			b.can[info.Name] = c
		}
	}
	return nil
}

func (b *Backend) tried(ctx context.Context, info backend.AlgorithmInfo, p backend.Purpose) (bool, error) {
	err := b.dev.Do(ctx, "probe", func(tx *device.Tx) error { return try(tx, info, p) })
	var rc tpm2.TPMRC
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errWrong):
		b.quirks = append(b.quirks, fmt.Sprintf("%s for %s is not offered in device custody: the TPM failed its test with a known key.", info.Name, p))
		b.log.Warn("the TPM failed a test with a known key", "algorithm", info.Name, "purpose", p)
		return false, nil
	case fault.CodeOf(err) == fault.Internal && errors.As(err, &rc):
		b.log.Debug("the TPM does not have an algorithm", "algorithm", info.Name, "purpose", p, "answer", rc)
		return false, nil
	}
	return false, refused(err)
}

// try does with a known key what keys of the purpose do, with every hash and padding.
func try(tx *device.Tx, info backend.AlgorithmInfo, p backend.Purpose) error {
	material, err := known(info)
	if err != nil {
		return err
	}
	objects, err := imported(info, templates(info, p, nil, true), nil, material)
	if err != nil {
		return err
	}
	if info.Family == backend.FamilyAEAD {
		return tryETM(tx, objects, info, material)
	}
	key, err := external(tx, &objects[0])
	if err != nil {
		return err
	}
	switch info.Family {
	case backend.FamilyHMAC:
		return tryMAC(tx, key, info.Hash, material)
	case backend.FamilyRSA, backend.FamilyECDSA, backend.FamilyECDH:
	}
	priv, err := keyenc.ParsePKCS8(material)
	if err != nil {
		return err
	}
	switch k := priv.(type) {
	case *rsa.PrivateKey:
		if p == backend.PurposeEncryption {
			return tryRSADP(tx, key, k)
		}
		return tryRSA(tx, key, info, k)
	case *ecdsa.PrivateKey:
		if info.Family == backend.FamilyECDH {
			return tryECDH(tx, key, info, k)
		}
		return tryECDSA(tx, key, info, k)
	}
	return errWrong
}

// external loads an object in the null hierarchy, without an auth value.
func external(tx *device.Tx, f *foreign) (loaded, error) {
	if err := tx.Room(1); err != nil {
		return loaded{}, err
	}
	rsp, err := tpm2.LoadExternal{InPrivate: tpm2.BytesAs2B[tpm2.TPMTSensitive](f.sensitive), InPublic: tpm2.New2B(f.public), Hierarchy: tpm2.TPMRHNull}.Execute(tx)
	if err != nil {
		return loaded{}, err
	}
	return loaded{tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, tx, nil}, nil
}

var signatureHashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func digestOf(h crypto.Hash) []byte {
	f := h.New()
	f.Write([]byte("keywright known answer"))
	return f.Sum(nil)
}

func tryRSA(tx *device.Tx, key loaded, info backend.AlgorithmInfo, k *rsa.PrivateKey) error {
	for _, h := range signatureHashes {
		for _, padding := range []backend.Padding{backend.PaddingPKCS1v15, backend.PaddingPSS} {
			sig, err := sign(tx, key, info, digestOf(h), backend.SignOpts{Hash: h, Padding: padding})
			if err != nil {
				return err
			}
			if padding == backend.PaddingPSS {
				// TPMs before revision 1.38 make the salt as long as it can be; here it has to be as long as the hash.
				err = rsa.VerifyPSS(&k.PublicKey, h, digestOf(h), sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
			} else {
				err = rsa.VerifyPKCS1v15(&k.PublicKey, h, digestOf(h), sig)
			}
			if err != nil {
				return errWrong
			}
		}
	}
	return nil
}

func tryRSADP(tx *device.Tx, key loaded, k *rsa.PrivateKey) error {
	for _, first := range []byte{0, 1} { // a number with zeros at the front, and one without
		m := make([]byte, k.Size())
		m[0], m[k.Size()-1] = first, 5
		c := new(big.Int).Exp(new(big.Int).SetBytes(m), big.NewInt(int64(k.E)), k.N).FillBytes(make([]byte, k.Size()))
		got, err := rsadp(tx, key, k.Size(), c)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, m) {
			return errWrong
		}
	}
	return nil
}

func tryECDSA(tx *device.Tx, key loaded, info backend.AlgorithmInfo, k *ecdsa.PrivateKey) error {
	for _, h := range signatureHashes {
		sig, err := sign(tx, key, info, digestOf(h), backend.SignOpts{Hash: h})
		if err != nil {
			return err
		}
		der, err := keyenc.P1363ToDER(sig, len(sig)/2)
		if err != nil || !ecdsa.VerifyASN1(&k.PublicKey, digestOf(h), der) {
			return errWrong
		}
	}
	return nil
}

func tryECDH(tx *device.Tx, key loaded, info backend.AlgorithmInfo, k *ecdsa.PrivateKey) error {
	c, _ := curveOf(info) // template has looked
	own, err := k.ECDH()
	if err != nil {
		return err
	}
	peer, err := c.dh.NewPrivateKey(bytes.Repeat([]byte{0, 5}, c.size/2))
	if err != nil {
		return err
	}
	want, err := ecdhOf(own, peer)
	if err != nil {
		return err
	}
	got, err := zgen(tx, key, c, peer.PublicKey().Bytes())
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errWrong
	}
	return nil
}

func ecdhOf(a, b *ecdh.PrivateKey) ([]byte, error) { return a.ECDH(b.PublicKey()) }

// tryMAC computes tags of a message for one command and of one for a sequence.
func tryMAC(tx *device.Tx, key loaded, h crypto.Hash, material []byte) error {
	for _, n := range []int{5, 2*maxBuffer + 1} {
		message := bytes.Repeat([]byte{9}, n)
		got, err := mac(tx, key, h, message)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, hmacOf(h, material, message)) {
			return errWrong
		}
	}
	return nil
}

func hmacOf(h crypto.Hash, key, message []byte) []byte {
	m := hmac.New(h.New, key)
	m.Write(message)
	return m.Sum(nil)
}

// describe makes Info of what the TPM does.
func (b *Backend) describe() {
	b.info = backend.Info{Kind: "tpm", Name: b.o.Name, ID: identity(b.parent), Custody: []backend.Custody{backend.CustodyDevice, backend.CustodySealed}}
	for _, a := range backend.Algorithms() {
		if c, ok := b.can[a.Name]; ok {
			c.Operations = append(c.Operations, backend.OpAttest)
			b.can[a.Name] = c
			b.info.Capabilities = append(b.info.Capabilities, c)
		}
	}
	if b.o.AllowSealed {
		for _, c := range b.engine.Capabilities() {
			if _, ok := b.can[c.Algorithm]; !ok {
				b.can[c.Algorithm] = c
				b.info.Capabilities = append(b.info.Capabilities, c)
			}
		}
	}
	if c, ok := b.can[backend.AES256CTRHMACSHA256]; ok && c.Custody == backend.CustodyDevice {
		b.quirks = append(b.quirks, "AES-256-CTR-HMAC-SHA256 goes through the TPM byte for byte, a kilobyte with each command: it is for keys and other small data.")
	}
	b.info.Quirks = slices.Concat(b.quirks, []string{
		"Keys are kept outside the TPM, encrypted by it: copies of the store keep them until they are erased too, and without this TPM, or after it is cleared, they are lost.",
		"The TPM uses no key without the root: auth values are derived from it.",
		"RSA-OAEP is decoded in this process, after the TPM's private operation: TPMs take no arbitrary labels.",
		"Imported keys come in clear as far as this process, which encrypts them to the TPM's storage parent.",
		"Keys in sealed custody are opened in this process for use, by a key that the TPM gives out for each opening, and stay in its memory for the cache's time to live.",
	})
}
