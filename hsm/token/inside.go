package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/secret"
)

// Envelope is an RSA_AES_KEY_WRAP blob (PKCS#11 2.40 current mechanisms section 2.1.21), and the RSA key that opens it.
type Envelope struct {
	ID        ID // of the RSA key
	Algorithm backend.Algorithm
	Wrapped   []byte // of the RSA key, where it is a wrapped one
	Hash      crypto.Hash
	Blob      []byte // RSA-OAEP(AES key) ‖ AES-KWP(material)
}

// inside is what was proven of opening envelopes in the token. The mechanism CKM_RSA_AES_KEY_WRAP itself, which few tokens have, is not
// asked for: its two steps are, with the temporary key as a session object that can do nothing but unwrap.
type inside map[crypto.Hash]bool

// takesInside reports whether keys of an algorithm can come out of an envelope without leaving the token: it must unwrap them by RFC 5649,
// and tell the public key of what it has unwrapped. Of a private key on a curve PKCS#11 has no attribute for that.
func (d *device) takesInside(k kind) bool {
	return len(d.inside) > 0 && d.can[k.Name].imported.unwrap.form == formKWP && (k.Symmetric() || k.Family == backend.FamilyRSA)
}

// ImportWrapped opens an envelope inside the token. Whatever is wrong with it is fault.BadImport, with one message; where the token cannot open
// it, with this hash or with this RSA key, it is fault.Unsupported, and nothing was done.
func (d *device) ImportWrapped(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, e Envelope, wrapped bool) (Object, error) {
	k, err := d.creatable(a, p, wrapped)
	if err != nil {
		return Object{}, err
	}
	with, ok := kindOf(e.Algorithm)
	if !ok || with.Family != backend.FamilyRSA || !d.takesInside(k) || !d.inside[e.Hash] {
		return Object{}, errOutside
	}
	if n := with.KeyBits / 8; len(e.Blob) < n+16 || (len(e.Blob)-n)%8 != 0 || len(e.Blob) > n+maxWrapped {
		return Object{}, errMaterial
	}
	e.Blob, e.Wrapped = bytes.Clone(e.Blob), bytes.Clone(e.Wrapped)
	if len(e.Wrapped) == 0 {
		e.Wrapped = nil
	}
	result := new(Object)
	_, err = d.creating(ctx, id, opens|making(k), func(s *session) error {
		return s.with(with, Call{ID: e.ID, Wrapped: e.Wrapped}, func(key pkcs11.ObjectHandle) error {
			if err := s.enter(); err != nil {
				return err
			}
			defer s.leave()
			out, err := s.bringInside(k, p, id, key, with.KeyBits/8, e, wrapped)
			*result = out
			return err
		})
	})
	if fault.Has(err, fault.DecryptionFailed) {
		err = errMaterial
	}
	if err != nil {
		return Object{}, err
	}
	return *result, nil
}

func (s *session) bringInside(k kind, p backend.Purpose, id ID, with pkcs11.ObjectHandle, head int, e Envelope, wrapped bool) (Object, error) {
	if wrapped {
		if _, err := s.keks(true); err != nil {
			return Object{}, err
		}
	} else if err := s.free(id); err != nil {
		return Object{}, err
	}
	if can, err := s.yes(with, pkcs11.CKA_UNWRAP); err != nil || !can {
		return Object{}, cmpErr(err, errOutside) // a key of before, which may only decrypt
	}
	s.begin() // no second attempt: neither its number nor its time must tell which of the two parts is wrong
	temporary, bad := s.unwrapTemporary(with, e.Hash, e.Blob[:head])
	if bad != nil {
		var err error
		if temporary, err = s.spare(); err != nil {
			return Object{}, err
		}
	}
	way := s.d.can[k.Name].imported.unwrap
	key, err := s.unwrapBy(way, temporary, nil, e.Blob[head:], s.d.unwrapTemplate(way, k, p, id[:], !wrapped, wrapped), wrapped)
	if derr := s.destroyObjects(temporary); err == nil {
		err = derr
	}
	if bad != nil && err == nil {
		err = s.destroyObjects(key) // opened by a key that nobody knows: as good as never
	}
	if bad != nil {
		err = bad
	}
	if c, ok := classOf(err); ok && (c == classKey || c == classAbsent) {
		return Object{}, errDecrypt // it opened, and was not a key of the kind
	}
	if err != nil {
		return Object{}, err
	}
	out, err := s.arrived(k, p, id, key, wrapped)
	if err != nil || wrapped {
		if derr := s.destroyAll(id, key, wrapped); err == nil {
			err = derr
		}
	}
	if err != nil {
		return Object{}, err
	}
	out.Inside = true
	return out, nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// arrived checks a key that came out of an envelope, as bring does with one whose material is known: what it is, that it is held, that its
// parts fit, and it publishes the public half.
func (s *session) arrived(k kind, p backend.Purpose, id ID, key pkcs11.ObjectHandle, wrapped bool) (Object, error) {
	if got, err := s.algorithm(key, k.class); err != nil || got != k.Name {
		if fault.Has(err, fault.KeyMaterial) || err == nil {
			err = errDecrypt // of another size
		}
		return Object{}, err
	}
	var pub crypto.PublicKey
	if !k.Symmetric() {
		var err error
		if pub, err = s.public(k, key); err != nil {
			if fault.Has(err, fault.KeyMaterial) {
				err = errDecrypt
			}
			return Object{}, err
		}
		if r, ok := pub.(*rsa.PublicKey); !ok || r.E <= 1<<16 { // FIPS 186-5 section A.1.1
			return Object{}, errDecrypt
		}
		if err := s.consistent(k, p, key, pub); err != nil {
			return Object{}, err
		}
		if !wrapped {
			if _, err := s.publish(k, p, id[:], pub); err != nil {
				return Object{}, err
			}
		}
	}
	out, err := s.finish(k, p, id, key, 0, wrapped)
	if err == nil && pub != nil {
		out.Public, err = spki(pub)
	}
	return out, err
}

// destroyAll takes back what came of an envelope.
func (s *session) destroyAll(id ID, key pkcs11.ObjectHandle, wrapped bool) error {
	err := s.destroyObjects(key)
	if wrapped {
		return err
	}
	found, ferr := s.search(id, pkcs11.CKO_PUBLIC_KEY)
	if ferr == nil {
		ferr = s.destroyObjects(found...)
	}
	if err == nil {
		err = ferr
	}
	return err
}

// unwrapTemporary makes the AES key of an envelope a session object.
func (s *session) unwrapTemporary(with pkcs11.ObjectHandle, h crypto.Hash, head []byte) (pkcs11.ObjectHandle, error) {
	return s.d.lib.unwrap(s.SessionHandle, pkcs11.CKM_RSA_PKCS_OAEP, oaepParams(h), with, head, s.d.style.template(temporaryKey()))
}

// spare makes a key that takes the place of one that did not come out.
func (s *session) spare() (pkcs11.ObjectHandle, error) {
	return s.secret(temporaryKey(), pkcs11.CKM_AES_KEY_GEN)
}

func temporaryKey() object {
	return object{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, label: objectLabel + "-transport", usages: []uint{pkcs11.CKA_UNWRAP}}
}

// oaepParams is CK_RSA_PKCS_OAEP_PARAMS without a label: hashAlg, mgf, source (CKZ_DATA_SPECIFIED), pSourceData, ulSourceDataLen. Without a
// label it has no pointer in it.
func oaepParams(h crypto.Hash) []byte {
	mech, mgf := hashNumbers(h)
	var out []byte
	for _, n := range []uint{mech, mgf, 1, 0, 0} {
		out = binary.NativeEndian.AppendUint64(out, uint64(n))
	}
	return out
}

// envelopes proves that an envelope opens in the token, and with which hashes. The RSA key has CKA_UNWRAP besides CKA_DECRYPT from then on.
func (p *prober) envelopes() {
	rsaKind, _ := kindOf(backend.RSA2048)
	var k kind // what comes out; SoftHSM unwraps pairs only as they should be
	for _, a := range []backend.Algorithm{backend.RSA2048, backend.HMACSHA256, backend.AES256GCM} {
		if p.can[a].ops != 0 && p.can[a].imported.unwrap.form == formKWP {
			k, _ = kindOf(a)
		}
	}
	if k.Name == "" || !p.can[rsaKind.Name].has(Decrypt) || p.can[rsaKind.Name].imported.none() {
		return
	}
	in, err := knownRSA(rsaKind)
	if err != nil {
		return
	}
	found := inside{}
	p.inside = inside{0: true} // so that keys get the usage
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA1, crypto.SHA384, crypto.SHA512} {
		if p.native.oaep[h] && p.opensInside(h, k, rsaKind, in) {
			found[h] = true
		}
	}
	p.inside = found
	if len(found) == 0 {
		return
	}
	for _, info := range backend.Algorithms() {
		if k, ok := kindOf(info.Name); ok && p.can[info.Name].ops != 0 && p.takesInside(k) {
			p.g.description.Inside = append(p.g.description.Inside, info.Name)
		}
	}
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if found[h] {
			p.g.description.InsideHashes = append(p.g.description.InsideHashes, h.String())
		}
	}
}

func (p *prober) opensInside(h crypto.Hash, k, rsaKind kind, in *clearKey) bool {
	return p.try("opening an envelope with "+h.String(), func(s *session) error {
		pub, ok := in.pub.(*rsa.PublicKey)
		if !ok {
			return errWrong
		}
		material, purpose := in.bytes, backend.PurposeEncryption // of keys that protect nothing
		if k.Symmetric() {
			material, purpose = known(k.KeySize), k.Purposes[0]
		}
		temporary := make(secret.Bytes, 32)
		defer temporary.Wipe()
		rand.Read(temporary) // never fails (crypto/rand)
		head, err := rsa.EncryptOAEP(h.New(), rand.Reader, pub, temporary, nil)
		if err != nil {
			return err
		}
		body, err := keyenc.KWPWrap(temporary, material)
		if err != nil {
			return err
		}
		with, err := s.introduce(p.can[rsaKind.Name].imported, rsaKind, backend.PurposeEncryption, nil, in, false, false)
		if err != nil {
			return err
		}
		kek, err := s.unwrapTemporary(with, h, head)
		if err != nil {
			return err
		}
		if err := s.held(kek); err != nil {
			return err
		}
		way := p.can[k.Name].imported.unwrap
		key, err := s.unwrapBy(way, kek, nil, body, p.unwrapTemplate(way, k, purpose, nil, false, false), false)
		if err != nil {
			return err
		}
		if err := s.held(key); err != nil {
			return err
		}
		if !k.Symmetric() {
			read, err := s.public(k, key)
			if err != nil {
				return err
			}
			if err := s.consistent(k, purpose, key, read); err != nil {
				return err
			}
			return s.destroyObjects(with, kek, key)
		}
		twin, err := s.introduce(p.can[k.Name].imported, k, purpose, nil, &clearKey{bytes: material}, false, false)
		if err != nil {
			return err
		}
		if err := s.same(k, key, twin); err != nil {
			return err
		}
		return s.destroyObjects(with, kek, key, twin)
	})
}
