package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// rawTPM is a TPM with nothing between, and a P-256 key loaded in it.
type rawTPM struct {
	conn    net.Conn
	buf     [4096]byte
	parent  tpm2.AuthHandle
	private tpm2.TPM2BPrivate
	public  tpm2.TPM2BPublic
	key     tpm2.NamedHandle
	octets  []byte // the prepared TPM2_Sign
	session tpm2.TPMISHAuthSession
	nonce   []byte // the TPM's, the last
	socket  string
}

var _ transport.TPM = (*rawTPM)(nil)

// Send gives the TPM a command: swtpm answers in one piece.
func (r *rawTPM) Send(command []byte) ([]byte, error) {
	if _, err := r.conn.Write(command); err != nil {
		return nil, err
	}
	n, err := r.conn.Read(r.buf[:])
	return r.buf[:n:n], err
}

func openRawTPM(ctx context.Context, socket string) (*rawTPM, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	r := &rawTPM{conn: conn, socket: socket}
	if err := r.prepare(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return r, nil
}

func (r *rawTPM) prepare() error {
	primary, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(r)
	if err != nil {
		return err
	}
	r.parent = tpm2.AuthHandle{Handle: primary.ObjectHandle, Name: primary.Name, Auth: tpm2.PasswordAuth(nil)}
	template := tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})}
	made, err := tpm2.Create{ParentHandle: r.parent, InPublic: tpm2.New2B(template), InSensitive: tpm2.TPM2BSensitiveCreate{
		Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: rawAuth}}}}.Execute(r)
	if err != nil {
		return err
	}
	r.private, r.public = made.OutPrivate, made.OutPublic
	if r.key, err = r.load(); err != nil {
		return err
	}
	keeping := &keepingTPM{rawTPM: r}
	if err := r.signOn(keeping, r.key); err != nil {
		return err
	}
	r.octets = keeping.command
	return r.startSession()
}

// keepingTPM keeps the last command.
type keepingTPM struct {
	*rawTPM
	command []byte
}

func (k *keepingTPM) Send(command []byte) ([]byte, error) {
	k.command = command
	return k.rawTPM.Send(command)
}

func (r *rawTPM) load() (tpm2.NamedHandle, error) {
	rsp, err := tpm2.Load{ParentHandle: r.parent, InPrivate: r.private, InPublic: r.public}.Execute(r)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, nil
}

func (r *rawTPM) signOn(on transport.TPM, key tpm2.NamedHandle) error {
	digest := sha256.Sum256([]byte("data"))
	_, err := tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: tpm2.PasswordAuth(rawAuth)}, Digest: tpm2.TPM2BDigest{Buffer: digest[:]},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}}.Execute(on)
	return err
}

// sign gives the prepared command once.
func (r *rawTPM) sign() error {
	rsp, err := r.Send(r.octets)
	if err == nil && (len(rsp) < 10 || rsp[6]|rsp[7]|rsp[8]|rsp[9] != 0) {
		err = errors.New("the TPM refuses the prepared command")
	}
	return err
}

// loadSignFlush is what a program does that keeps nothing.
func (r *rawTPM) loadSignFlush() error {
	key, err := r.load()
	if err != nil {
		return err
	}
	if err := r.signOn(r, key); err != nil {
		return err
	}
	_, err = tpm2.FlushContext{FlushHandle: key.Handle}.Execute(r)
	return err
}

// rate gives how many calls there are in a second.
func (r *rawTPM) rate(span time.Duration, call func() error) (float64, error) {
	n, start := 0, time.Now()
	for ; time.Since(start) < span; n++ {
		if err := call(); err != nil {
			return 0, fmt.Errorf("straight to the TPM: %w", err)
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// close leaves nothing loaded.
func (r *rawTPM) close() {
	for _, h := range []tpm2.TPMHandle{r.key.Handle, r.parent.Handle, r.session} {
		// The TPM is stopped next, or taken over by an owner that sweeps.
		_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(r)
	}
	r.conn.Close() //nolint:errcheck,gosec // nothing is to come
}

// startSession starts an HMAC session. It is not salted: what the TPM does for a command in it is the same, the key's password is the secret.
func (r *rawTPM) startSession() error {
	rsp, err := tpm2.StartAuthSession{TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)}, SessionType: tpm2.TPMSEHMAC,
		Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull}, AuthHash: tpm2.TPMAlgSHA256}.Execute(r)
	if err != nil {
		return err
	}
	r.session, r.nonce = rsp.SessionHandle, bytes.Clone(rsp.NonceTPM.Buffer)
	return nil
}

// signInSession gives TPM2_Sign as the service does, authorised by an HMAC (TPM 2.0 part 1, section 19.6), with as little around it as can be: not even
// the response's HMAC is looked at.
func (r *rawTPM) signInSession() error {
	var nonceCaller [16]byte
	rand.Read(nonceCaller[:]) // never fails (crypto/rand)
	// The parameters are those of the prepared command: behind header, handle and authorisation area.
	area := binary.BigEndian.Uint32(r.octets[14:])
	params := r.octets[18+area:]
	var cc [4]byte
	binary.BigEndian.PutUint32(cc[:], uint32(tpm2.TPMCCSign))
	h := sha256.New()
	h.Write(cc[:])
	h.Write(r.key.Name.Buffer)
	h.Write(params)
	mac := hmac.New(sha256.New, rawAuth)
	mac.Write(h.Sum(nil))
	mac.Write(nonceCaller[:])
	mac.Write(r.nonce)
	mac.Write([]byte{1}) // continueSession
	b := append(make([]byte, 0, 256), r.octets[:14]...)
	b = binary.BigEndian.AppendUint32(b, 4+2+16+1+2+sha256.Size)
	b = binary.BigEndian.AppendUint32(b, uint32(r.session))
	b = append(b, 0, 16)
	b = append(b, nonceCaller[:]...)
	b = append(b, 1, 0, sha256.Size)
	b = mac.Sum(b)
	b = append(b, params...)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b))) //nolint:gosec // some hundred octets
	rsp, err := r.Send(b)
	if err != nil {
		return err
	}
	if len(rsp) < 14 || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		return errors.New("the TPM refuses the command in a session")
	}
	at := 14 + int(binary.BigEndian.Uint32(rsp[10:]))
	if len(rsp) < at+2+len(r.nonce) {
		return errors.New("the TPM's answer is short")
	}
	copy(r.nonce, rsp[at+2:])
	return nil
}

// rawAuth is the key's password.
var rawAuth = []byte("the password of this key, 32 oct")
