package device_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

// run signs as sign does, by Run.
func (k key) run(ctx context.Context, d *device.Device, digest []byte) (r, s []byte, err error) {
	err = d.Do(ctx, "sign", func(tx *device.Tx) error {
		r, s, err = k.runIn(tx, digest)
		return err
	})
	return r, s, err
}

func (k key) runIn(tx *device.Tx, digest []byte) (r, s []byte, err error) {
	h, err := tx.Load(k.private, k.public)
	if err != nil {
		return nil, nil, err
	}
	params := binary.BigEndian.AppendUint16(make([]byte, 0, 64), uint16(len(digest)))
	params = append(params, digest...)
	params = append(params, 0, 0x10)                         // the scheme is the key's: TPM_ALG_NULL
	params = append(params, 0x80, 0x24, 0x40, 0, 0, 7, 0, 0) // no ticket: TPM_ST_HASHCHECK, TPM_RH_NULL, empty
	out, err := tx.Run(tpm2.TPMCCSign, h, k.auth, device.In, params)
	if err != nil {
		return nil, nil, err
	}
	if len(out) < 6 || !bytes.Equal(out[:4], []byte{0, 0x18, 0, 0x0b}) { // ECDSA, SHA-256
		return nil, nil, errors.New("no ECDSA signature")
	}
	n := int(binary.BigEndian.Uint16(out[4:]))
	return out[6 : 6+n], out[8+n:], nil
}

func TestRun(t *testing.T) {
	m := rig.SWTPM(t)
	p := m.Proxy(t)
	d := open(t, device.Options{URI: uri(t, p.URI)})
	k := signingKey(t, d)
	p.Record()
	for i := range 10 {
		digest := sha256.Sum256([]byte{byte(i)})
		r, s, err := k.run(t.Context(), d, digest[:])
		if err != nil || !k.verifies(t, digest[:], r, s) {
			t.Fatalf("signing: %v", err)
		}
		if r, s, err = k.sign(t.Context(), d, digest[:]); err != nil || !k.verifies(t, digest[:], r, s) {
			t.Fatalf("the session after it: %v", err)
		}
		for _, e := range p.Wire() {
			if bytes.Contains(e.Command, digest[:]) {
				t.Fatal("the digest is on the wire in the clear")
			}
		}
	}
	// Random octets, encrypted on their way back.
	err := d.Do(t.Context(), "unseal", func(tx *device.Tx) error {
		rsp, err := tpm2.Create{
			ParentHandle: tx.Auth(tx.Parent(), nil, device.In),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("auth")},
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte("the sealed secret")})}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true}}),
		}.Execute(tx)
		if err != nil {
			return err
		}
		h, err := tx.Load(rsp.OutPrivate, rsp.OutPublic)
		if err != nil {
			return err
		}
		out, err := tx.Run(tpm2.TPMCCUnseal, h, []byte("auth"), device.Out, nil)
		if err == nil && !bytes.Equal(out, []byte("\x00\x11the sealed secret")) {
			t.Errorf("unsealed are %d octets", len(out))
		}
		if err != nil {
			return err
		}
		_, err = tx.Run(tpm2.TPMCCUnseal, h, []byte("wrong"), device.Out, nil)
		if !errors.Is(err, tpm2.TPMRCAuthFail) && !errors.Is(err, tpm2.TPMRCBadAuth) {
			t.Errorf("a wrong password: %v", err)
		}
		_, err = tx.Run(tpm2.TPMCCUnseal, h, []byte("auth"), device.In, nil)
		if err == nil {
			t.Error("In without a TPM2B was taken")
		}
		out, err = tx.Run(tpm2.TPMCCUnseal, h, []byte("auth"), device.Plain, nil)
		if err != nil || !bytes.HasSuffix(out, []byte("the sealed secret")) {
			t.Errorf("in the clear, after that: %v", err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	n := 0
	for _, e := range p.Wire() {
		if bytes.Contains(e.Command, []byte("the sealed secret")) {
			t.Error("the secret is on the wire to the TPM")
		}
		if bytes.Contains(e.Response, []byte("the sealed secret")) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the secret came in the clear %d times, want only where that was asked for", n)
	}
	leftNothing(t, d)
}
