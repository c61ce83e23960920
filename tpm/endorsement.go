package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/tpm/device"
)

// endorsementKey is a TPM's EK, and its certificate where its maker left one.
type endorsementKey struct {
	public       []byte // TPMT_PUBLIC
	certificates [][]byte
}

// standardEK is one of the TCG EK Credential Profile (version 2.5, section 2.2.1.4): where the certificate is, what the key is made by, and where it is kept by custom.
type standardEK struct {
	index    tpm2.TPMHandle
	template tpm2.TPMTPublic
	kept     tpm2.TPMHandle
}

// standardEKs in the order of preference: an RSA key takes a TPM seconds to make.
func standardEKs() []standardEK {
	return []standardEK{
		{0x01c0000a, tpm2.ECCEKTemplate, 0x81010002}, // L-2
		{0x01c00002, tpm2.RSAEKTemplate, 0x81010001}, // L-1
	}
}

// maxCertificate bounds one in bytes.
const maxCertificate = 8 << 10

// endorsement gives the EK. It stays the same for the life of a TPM, so it is asked for once.
func (b *Backend) endorsement(ctx context.Context) (*endorsementKey, error) {
	if ek := b.ek.Load(); ek != nil {
		return ek, nil
	}
	var ek *endorsementKey
	err := b.dev.Do(ctx, "ek", func(tx *device.Tx) (err error) {
		ek, err = b.findEK(tx)
		return err
	})
	if err != nil {
		return nil, refused(err)
	}
	b.ek.Store(ek)
	return ek, nil
}

func (b *Backend) findEK(tx *device.Tx) (*endorsementKey, error) {
	for _, s := range standardEKs() {
		der, err := b.readNV(tx, s.index)
		if err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // there is none, or something else
		}
		for _, find := range []func() ([]byte, error){
			func() ([]byte, error) { return readPublic(tx, s.kept) },
			func() ([]byte, error) { return makeEK(tx, s.template) },
		} {
			public, err := find()
			if err != nil {
				return nil, err
			}
			if isOf(public, cert) {
				return &endorsementKey{public: public, certificates: [][]byte{der}}, nil
			}
		}
	}
	public, err := makeEK(tx, tpm2.ECCEKTemplate)
	return &endorsementKey{public: public}, err
}

// makeEK gives the public area alone: the key goes at once, for there is room for few.
func makeEK(tx *device.Tx, template tpm2.TPMTPublic) ([]byte, error) {
	ek, public, err := primary(tx, template)
	if err != nil {
		return nil, err
	}
	_, err = tpm2.FlushContext{FlushHandle: ek.Handle}.Execute(tx)
	return public, err
}

// readPublic gives the public area of a persistent object, nil where there is none.
func readPublic(tx *device.Tx, h tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(tx)
	if isAnswer(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return bytes.Clone(rsp.OutPublic.Bytes()), nil
}

// isOf reports whether a certificate is of the key.
func isOf(public []byte, cert *x509.Certificate) bool {
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return false
	}
	pub, err := tpm2.Pub(*p)
	if err != nil {
		return false
	}
	k, ok := pub.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(cert.PublicKey)
}

// readNV gives the ASN.1 value that an index begins with, nil where there is none that anybody may read. Makers fill up what is behind it.
func (b *Backend) readNV(tx *device.Tx, index tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tx)
	if isAnswer(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil || public.DataSize > maxCertificate {
		return nil, nil //nolint:nilerr // not a certificate: as good as none
	}
	step := uint16(min(max(b.dev.Info().NVBuffer, 64), 1024)) //nolint:gosec // bounded
	var out []byte
	for at := uint16(0); at < public.DataSize; {
		n := min(step, public.DataSize-at)
		got, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: index, Name: rsp.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex: tpm2.NamedHandle{Handle: index, Name: rsp.NVName}, Size: n, Offset: at}.Execute(tx)
		if isAnswer(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if len(got.Data.Buffer) != int(n) {
			return nil, errors.New("the TPM gave less of an index than it has")
		}
		out = append(out, got.Data.Buffer...)
		at += n
	}
	var value asn1.RawValue
	if _, err := asn1.Unmarshal(out, &value); err != nil {
		return nil, nil //nolint:nilerr // not a certificate: as good as none
	}
	return value.FullBytes, nil
}

// isAnswer reports whether the TPM answered no, and is well otherwise.
func isAnswer(err error) bool {
	var rc tpm2.TPMRC
	return errors.As(err, &rc) && !rc.IsWarning() && !errors.Is(err, tpm2.TPMRCFailure) && !errors.Is(err, tpm2.TPMRCInitialize)
}
