package device

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Direction says which first parameter a session encrypts. A command whose first parameter is no TPM2B takes no In, one whose
// response has none takes no Out: the TPM answers TPM_RC_ATTRIBUTES.
type Direction uint8

// The directions.
const (
	Plain Direction = 0 // authorisation alone
	In    Direction = 1 // the command's first parameter (the session attribute "decrypt")
	Out   Direction = 2 // the response's (the attribute "encrypt")
	InOut Direction = In | Out
)

const (
	nonceSize    = 16
	maxCores     = 3 // a command takes no more sessions, and no TPM promises more loaded at once
	coreUses     = 10_000
	coreAge      = 5 * time.Minute
	attrContinue = 0x01
	attrDecrypt  = 0x20
	attrEncrypt  = 0x40
)

var (
	errSession   = errors.New("the TPM's response is not authentic: its session HMAC is wrong")
	errManyCores = errors.New("a command takes at most three sessions")
	errNoSession = errors.New("the session was not initialised")
)

// core is a session that the TPM has, salted to the parent and bound to nothing, so that it may authorise any object in turn
// (TPM 2.0 part 1, 19.6). It belongs to whoever has the turn.
type core struct {
	handle   tpm2.TPMHandle
	key      []byte // sessionKey
	nonceTPM []byte
	uses     int
	born     time.Time
	// unsure: a command with this session is on its way, or its response was not seen or not authentic, so nobody knows the
	// TPM's nonce. An HMAC made with a wrong one would count as a wrong password.
	unsure bool
	busy   bool // part of the command that is being made
}

// view is one use of a core: with which password and direction. It implements tpm2.Session.
type view struct {
	tx    *Tx
	auth  []byte
	dir   Direction
	core  *core
	own   bool            // the core is this view's alone and not salted: for the owner's password, before there is a parent
	nonce [nonceSize]byte // nonceCaller
}

// Salted gives a session for commands of this transaction: an HMAC session salted to the pinned parent, with AES-128-CFB
// encryption of the first parameter in the given directions (TPM 2.0 part 1, 19.6 and 21). auth is the password of the object that
// the session authorises: none when it stands beside another session only to encrypt. It is not copied; leave it alone until
// Do returns.
//
// The TPM's session behind it is shared by all transactions and started anew when its state is in any doubt. One command may have
// several of them.
func (tx *Tx) Salted(auth []byte, dir Direction) tpm2.Session {
	// Part 1, 19.6.4.3: the TPM removes trailing zeros from a password.
	return &view{tx: tx, auth: bytes.TrimRight(auth, "\x00"), dir: dir}
}

// Auth is a loaded object with the session that authorises its use.
func (tx *Tx) Auth(object tpm2.NamedHandle, auth []byte, dir Direction) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: object.Handle, Name: object.Name, Auth: tx.Salted(auth, dir)}
}

// SaltOptions are for policy sessions, which are started with tpm2.PolicySession(tx, tpm2.TPMAlgSHA256, 16, …): they salt it to
// the pinned parent, and let it encrypt parameters in the given directions. It is flushed when the transaction ends, if not before.
func (tx *Tx) SaltOptions(dir Direction) []tpm2.AuthOption {
	p := &tx.d.parent
	o := []tpm2.AuthOption{tpm2.Salted(p.handle.Handle, p.public)}
	switch dir {
	case In:
		o = append(o, tpm2.AESEncryption(128, tpm2.EncryptIn))
	case Out:
		o = append(o, tpm2.AESEncryption(128, tpm2.EncryptOut))
	case InOut:
		o = append(o, tpm2.AESEncryption(128, tpm2.EncryptInOut))
	}
	return o
}

// Init takes a core that this command has not got yet, and makes one if there is none.
func (v *view) Init(transport.TPM) error {
	if v.core != nil && v.core.busy {
		return nil // left over from a command that was not sent
	}
	if v.own {
		if v.core != nil {
			return nil
		}
		c, err := v.tx.start(nil)
		v.core = c
		return err
	}
	v.core = nil
	d := v.tx.d
	for i := 0; i < len(d.cores); i++ {
		c := d.cores[i]
		if c.busy {
			continue
		}
		if c.unsure || c.uses >= coreUses || d.now().Sub(c.born) > coreAge {
			d.cores = append(d.cores[:i], d.cores[i+1:]...)
			i--
			if err := v.tx.flush(uint32(c.handle)); err != nil {
				return err
			}
			continue
		}
		v.core = c
		break
	}
	if v.core == nil {
		if len(d.cores) >= maxCores {
			return errManyCores
		}
		c, err := v.tx.start(d.parent.salting)
		if err != nil {
			return err
		}
		v.tx.keep(uint32(c.handle))
		d.cores = append(d.cores, c)
		v.core = c
	}
	v.core.busy = true
	v.core.uses++
	return nil
}

// start starts a session, salted to the parent if that is given. The transaction flushes it unless it is kept.
func (tx *Tx) start(salting tpm2.LabeledEncapsulationKey) (*core, error) {
	command := tpm2.StartAuthSession{
		TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, nonceSize)},
		SessionType: tpm2.TPMSEHMAC, AuthHash: tpm2.TPMAlgSHA256,
		Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)},
	}
	rand.Read(command.NonceCaller.Buffer) // never fails (crypto/rand)
	var salt []byte
	if salting != nil {
		var err error
		command.TPMKey = tx.d.parent.handle
		salt, command.EncryptedSalt.Buffer, err = tpm2.CreateEncryptedSalt(rand.Reader, salting)
		if err != nil {
			return nil, fmt.Errorf("salting a session: %w", err)
		}
		defer clear(salt)
	}
	rsp, err := command.Execute(tx)
	if err != nil {
		return nil, fmt.Errorf("starting a session: %w", err)
	}
	c := &core{handle: rsp.SessionHandle, nonceTPM: rsp.NonceTPM.Buffer, born: tx.d.now()}
	if salting != nil {
		// Part 1, 19.6.8: there is no bind entity, so the salt alone is the key's source. Without either the key is empty.
		c.key = tpm2.KDFa(crypto.SHA256, salt, "ATH", rsp.NonceTPM.Buffer, command.NonceCaller.Buffer, sha256.Size*8)
	}
	return c, nil
}

// CleanupFailure is called when the TPM refused the command: the session is as it was.
func (v *view) CleanupFailure(transport.TPM) error { return nil }

// NonceTPM is the last one that the TPM gave.
func (v *view) NonceTPM() tpm2.TPM2BNonce {
	if v.core == nil {
		return tpm2.TPM2BNonce{}
	}
	return tpm2.TPM2BNonce{Buffer: v.core.nonceTPM}
}

// NewNonceCaller makes a new one.
func (v *view) NewNonceCaller() error {
	rand.Read(v.nonce[:]) // never fails (crypto/rand)
	return nil
}

// Authorize makes the command's authorisation (part 1, 19.6.5).
func (v *view) Authorize(cc tpm2.TPMCC, parms, addNonces []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	if v.core == nil {
		return nil, errNoSession
	}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	for _, n := range names {
		h.Write(n.Buffer)
	}
	h.Write(parms)
	attributes := tpm2.TPMASession{ContinueSession: true, Decrypt: v.dir&In != 0, Encrypt: v.dir&Out != 0}
	mac := v.mac()
	mac.Write(h.Sum(nil))
	mac.Write(v.nonce[:])
	mac.Write(v.core.nonceTPM)
	mac.Write(addNonces)
	mac.Write([]byte{octet(attributes)})
	return &tpm2.TPMSAuthCommand{
		Handle: v.core.handle, Nonce: tpm2.TPM2BNonce{Buffer: v.nonce[:]}, Attributes: attributes,
		Authorization: tpm2.TPM2BData{Buffer: mac.Sum(nil)},
	}, nil
}

// Validate checks the response's and takes its nonce. Until it has, the core is unsure.
func (v *view) Validate(rc tpm2.TPMRC, cc tpm2.TPMCC, parms []byte, _ []tpm2.TPM2BName, _ int, auth *tpm2.TPMSAuthResponse) error {
	if v.core == nil {
		return errNoSession
	}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(rc)))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	h.Write(parms)
	mac := v.mac()
	mac.Write(h.Sum(nil))
	mac.Write(auth.Nonce.Buffer)
	mac.Write(v.nonce[:])
	mac.Write([]byte{octet(auth.Attributes)})
	if !hmac.Equal(mac.Sum(nil), auth.Authorization.Buffer) || len(auth.Nonce.Buffer) != nonceSize || !auth.Attributes.ContinueSession {
		return errSession
	}
	v.core.nonceTPM = auth.Nonce.Buffer
	v.core.unsure = false
	return nil
}

// mac is HMAC-SHA-256 keyed with sessionKey || authValue (part 1, 19.6.5).
func (v *view) mac() hash.Hash {
	key := append(append(make([]byte, 0, len(v.core.key)+len(v.auth)), v.core.key...), v.auth...)
	m := hmac.New(sha256.New, key)
	clear(key)
	return m
}

// IsEncryption reports whether the response's first parameter is encrypted.
func (v *view) IsEncryption() bool { return v.dir&Out != 0 }

// IsDecryption reports whether the command's is.
func (v *view) IsDecryption() bool { return v.dir&In != 0 }

// Encrypt encrypts the command's first parameter.
func (v *view) Encrypt(parameter []byte) error {
	if v.dir&In == 0 {
		return nil
	}
	if v.core == nil {
		return errNoSession
	}
	block, iv, err := v.cipher(v.nonce[:], v.core.nonceTPM)
	if err != nil {
		return err
	}
	cipher.NewCFBEncrypter(block, iv).XORKeyStream(parameter, parameter) //nolint:staticcheck // the TPM's parameter encryption is CFB, and the HMAC authenticates it
	return nil
}

// Decrypt decrypts the response's. It runs after Validate, so the core has the response's nonce.
func (v *view) Decrypt(parameter []byte) error {
	if v.dir&Out == 0 {
		return nil
	}
	if v.core == nil {
		return errNoSession
	}
	block, iv, err := v.cipher(v.core.nonceTPM, v.nonce[:])
	if err != nil {
		return err
	}
	cipher.NewCFBDecrypter(block, iv).XORKeyStream(parameter, parameter) //nolint:staticcheck // as above
	return nil
}

// cipher derives key and IV of one parameter (part 1, 21.3): KDFa over sessionKey || authValue, "CFB", both nonces.
func (v *view) cipher(newer, older []byte) (cipher.Block, []byte, error) {
	secret := append(append(make([]byte, 0, len(v.core.key)+len(v.auth)), v.core.key...), v.auth...)
	defer clear(secret)
	keyIV := tpm2.KDFa(crypto.SHA256, secret, "CFB", newer, older, 2*8*aes.BlockSize)
	defer clear(keyIV[:16])
	block, err := aes.NewCipher(keyIV[:16])
	return block, keyIV[16:], err
}

// Handle is the TPM's handle of the session, TPM_RH_NULL before the first command.
func (v *view) Handle() tpm2.TPMHandle {
	if v.core == nil {
		return tpm2.TPMRHNull
	}
	return v.core.handle
}

// octet is a TPMA_SESSION (part 2, 8.4).
func octet(a tpm2.TPMASession) (b byte) {
	for _, f := range [...]struct {
		set bool
		bit byte
	}{{a.ContinueSession, attrContinue}, {a.AuditExclusive, 2}, {a.AuditReset, 4}, {a.Decrypt, attrDecrypt}, {a.Encrypt, attrEncrypt}, {a.Audit, 0x80}} {
		if f.set {
			b |= f.bit
		}
	}
	return b
}
