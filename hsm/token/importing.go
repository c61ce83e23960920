package token

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"sync"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
	"github.com/keywright/keywright/secret"
)

// importWay is how material gets in. Unwrapping comes first: modules that speak to a device over a network carry C_CreateObject's
// values as they are, and strict ones refuse it for secret keys.
type importWay struct {
	create bool // C_CreateObject with the values
	unwrap wrapWay
}

func (w importWay) none() bool { return !w.create && w.unwrap.form == 0 }

// Import takes raw bytes or PKCS#8. The token gets them encrypted under a fresh session key where it can unwrap; material is not
// kept or wiped.
func (d *device) Import(ctx context.Context, id ID, a backend.Algorithm, p backend.Purpose, material secret.Bytes, wrapped bool) (Object, error) {
	k, err := d.creatable(a, p, wrapped)
	if err != nil {
		return Object{}, err
	}
	if d.can[a].imported.none() {
		return Object{}, fault.New(fault.Unsupported, "the token does not take keys of this algorithm")
	}
	in, err := parseMaterial(k, material)
	if err != nil {
		return Object{}, err
	}
	result := new(Object)
	_, err = d.creating(ctx, id, making(k), func(s *session) error {
		if !in.enter() {
			return timeout(ctx)
		}
		defer in.leave()
		if err := s.enter(); err != nil {
			return err
		}
		defer s.leave()
		out, err := s.bring(k, p, id, in, wrapped)
		*result = out
		return err
	})
	in.end() // not before: an attempt that failed may be followed by another
	if err != nil {
		return Object{}, err
	}
	return *result, nil
}

// clearKey is material on its way into the token.
type clearKey struct {
	bytes []byte // raw, or PKCS#8
	priv  crypto.PrivateKey
	pub   crypto.PublicKey

	mu    sync.Mutex // guards the rest
	users int
	over  bool
}

// enter and leave are around each use of the material, end is when nobody will come any more: whoever is last wipes it.
func (c *clearKey) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.users++
	}
	return !c.over
}

func (c *clearKey) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.over && c.users == 0 {
		c.wipe()
	}
}

func (c *clearKey) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over = true; c.users == 0 {
		c.wipe()
	}
}

func (c *clearKey) wipe() {
	clear(c.bytes)
	if key, ok := c.priv.(*pqc.PrivateKey); ok {
		key.Wipe()
	}
}

// parseMaterial checks that material is a key of the algorithm. The result has a copy of it.
func parseMaterial(k kind, material []byte) (*clearKey, error) {
	if k.Symmetric() {
		if len(material) != k.KeySize {
			return nil, errMaterial
		}
		return &clearKey{bytes: append([]byte(nil), material...)}, nil
	}
	priv, err := keyenc.ParsePKCS8(material)
	if err != nil {
		return nil, errMaterial
	}
	fits := false
	switch key := priv.(type) {
	case *rsa.PrivateKey:
		fits = k.Family == backend.FamilyRSA && key.N.BitLen() == k.KeyBits && key.E > 1<<16 && len(key.Primes) == 2
	case *ecdsa.PrivateKey:
		fits = k.curve != nil && key.Curve == k.curve
		if fits && k.Family == backend.FamilyECDH {
			if priv, err = key.ECDH(); err != nil {
				return nil, errMaterial
			}
		}
	case ed25519.PrivateKey:
		fits = k.Name == backend.Ed25519
	case ed448.PrivateKey:
		fits = k.Name == backend.Ed448
	case *ecdh.PrivateKey:
		fits = k.Name == backend.X25519
	case *keyenc.X448PrivateKey:
		fits = k.Name == backend.X448
	case *pqc.PrivateKey:
		fits = key.Algorithm() == k.pq
	}
	if !fits {
		return nil, errMaterial
	}
	pub, err := keyenc.PublicOf(priv)
	if err != nil {
		return nil, errMaterial
	}
	return &clearKey{bytes: append([]byte(nil), material...), priv: priv, pub: pub}, nil
}

func (s *session) bring(k kind, p backend.Purpose, id ID, c *clearKey, wrapped bool) (Object, error) {
	if wrapped {
		if _, err := s.keks(true); err != nil {
			return Object{}, err
		}
	} else if err := s.free(id); err != nil {
		return Object{}, err
	}
	s.begin()
	var pub pkcs11.ObjectHandle
	key, err := s.introduce(s.d.can[k.Name].imported, k, p, id[:], c, !wrapped, wrapped)
	if err == nil && c.pub != nil && !wrapped {
		pub, err = s.publish(k, p, id[:], c.pub)
	}
	var out Object
	if err == nil {
		out, err = s.finish(k, p, id, key, 0, wrapped)
	}
	if err == nil && c.pub != nil {
		if out.Public, err = spki(c.pub); err == nil {
			err = s.consistent(k, p, key, c.pub)
		}
	}
	if err != nil || wrapped {
		derr := s.destroyObjects(key, pub)
		if err == nil {
			err = derr
		}
	}
	if err != nil {
		return Object{}, err
	}
	return out, nil
}

// introduce makes a key object of clear material.
func (s *session) introduce(way importWay, k kind, p backend.Purpose, id []byte, c *clearKey, onToken, extractable bool) (pkcs11.ObjectHandle, error) {
	if way.unwrap.form != 0 {
		return s.introduceWrapped(way.unwrap, k, p, id, c, onToken, extractable)
	}
	return s.create(k, p, id, c, onToken, extractable)
}

// introduceWrapped wraps the material under a fresh session key of the token and unwraps it inside.
func (s *session) introduceWrapped(way wrapWay, k kind, p backend.Purpose, id []byte, c *clearKey, onToken, extractable bool) (pkcs11.ObjectHandle, error) {
	transport := make(secret.Bytes, 32)
	defer transport.Wipe()
	rand.Read(transport) // never fails (crypto/rand)
	kek, err := s.d.lib.CreateObject(s.SessionHandle, append(s.d.style.template(object{
		class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, label: objectLabel + "-transport", usages: []uint{pkcs11.CKA_UNWRAP},
	}), attr(pkcs11.CKA_VALUE, []byte(transport))))
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.destroyObjects(kek) }() // else it dies with its session
	wrapped, iv, err := wrapHere(way.form, transport, c.bytes)
	if err != nil {
		return 0, err
	}
	t := s.d.unwrapTemplate(way, k, p, id, onToken, extractable)
	if s.d.profile.nssDB && c.pub != nil {
		index, err := keyenc.MarshalRaw(c.pub)
		if pub, ok := c.pub.(*rsa.PublicKey); ok {
			index = pub.N.Bytes()
		}
		if err != nil {
			return 0, errMaterial
		}
		t[len(t)-1] = attr(ckaNSSDB, index)
	}
	return s.unwrapBy(way, kek, iv, wrapped, t, extractable)
}

// unwrapBy is C_UnwrapKey with a template of unwrapTemplate.
func (s *session) unwrapBy(way wrapWay, kek pkcs11.ObjectHandle, iv, wrapped []byte, t []*pkcs11.Attribute, extractable bool) (pkcs11.ObjectHandle, error) {
	key, err := s.d.lib.unwrap(s.SessionHandle, way.mech, iv, kek, wrapped, t)
	if is(err, pkcs11.CKR_ATTRIBUTE_READ_ONLY) && extractable {
		// opencryptoki makes unwrapped keys extractable and does not want to hear of it.
		t = slices.DeleteFunc(t, func(a *pkcs11.Attribute) bool { return a.Type == pkcs11.CKA_EXTRACTABLE })
		key, err = s.d.lib.unwrap(s.SessionHandle, way.mech, iv, kek, wrapped, t)
	}
	if err == nil {
		err = s.settle(way, key, extractable)
	}
	return key, err
}

// wrapHere wraps outside the token what it will unwrap.
func wrapHere(form wrapForm, kek, material []byte) (wrapped, iv []byte, err error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, "wrapping the material", err)
	}
	switch form {
	case formKWP:
		wrapped, err = keyenc.KWPWrap(kek, material)
	case formKW:
		// RFC 3394 section 2.2.1, with its initial value.
		wrapped = append(make([]byte, 8, 8+len(material)+7), padded(material)...)
		binary.BigEndian.PutUint64(wrapped, 0xA6A6A6A6A6A6A6A6)
		if len(wrapped) < 24 {
			return nil, nil, errMaterial
		}
		err = wrapW(wrapped, func(b *[16]byte) error { block.Encrypt(b[:], b[:]); return nil })
	case formCBCPad:
		iv = make([]byte, ivSize)
		rand.Read(iv) // never fails (crypto/rand)
		n := ivSize - len(material)%ivSize
		wrapped = append(make([]byte, 0, len(material)+n), material...)
		for range n {
			wrapped = append(wrapped, byte(n))
		}
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(wrapped, wrapped)
	}
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, "wrapping the material", err)
	}
	return wrapped, iv, nil
}

// create is C_CreateObject with the values of the key.
func (s *session) create(k kind, p backend.Purpose, id []byte, c *clearKey, onToken, extractable bool) (pkcs11.ObjectHandle, error) {
	own, _ := s.d.usagesOf(k, p)
	t := s.d.style.template(object{class: k.class, keyType: k.keyType, label: k.label(), id: id, onToken: onToken, extractable: extractable, usages: own})
	switch key := c.priv.(type) {
	case nil:
		t = append(t, attr(pkcs11.CKA_VALUE, c.bytes))
	case *rsa.PrivateKey:
		key.Precompute()
		for _, v := range []struct {
			attribute uint
			value     *big.Int
		}{
			{pkcs11.CKA_MODULUS, key.N}, {pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E))}, {pkcs11.CKA_PRIVATE_EXPONENT, key.D},
			{pkcs11.CKA_PRIME_1, key.Primes[0]}, {pkcs11.CKA_PRIME_2, key.Primes[1]}, {pkcs11.CKA_EXPONENT_1, key.Precomputed.Dp},
			{pkcs11.CKA_EXPONENT_2, key.Precomputed.Dq}, {pkcs11.CKA_COEFFICIENT, key.Precomputed.Qinv},
		} {
			t = append(t, attr(v.attribute, v.value.Bytes()))
		}
	case *ecdsa.PrivateKey:
		d, err := key.Bytes()
		if err != nil {
			return 0, errMaterial
		}
		t = append(t, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)), attr(pkcs11.CKA_VALUE, d))
	case *ecdh.PrivateKey:
		t = append(t, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)), attr(pkcs11.CKA_VALUE, key.Bytes()))
	case ed25519.PrivateKey:
		t = append(t, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)), attr(pkcs11.CKA_VALUE, key.Seed()))
	case ed448.PrivateKey:
		t = append(t, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)), attr(pkcs11.CKA_VALUE, key.Seed()))
	case *pqc.PrivateKey:
		var err error
		if t, err = k.pqCreate(key, t); err != nil {
			return 0, err
		}
	case *keyenc.X448PrivateKey:
		t = append(t, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)), attr(pkcs11.CKA_VALUE, key[:]))
	default:
		return 0, errMaterial
	}
	defer func() {
		for _, a := range t {
			if secretAttribute(a.Type) {
				clear(a.Value)
			}
		}
	}()
	return s.d.lib.CreateObject(s.SessionHandle, t)
}

func secretAttribute(t uint) bool {
	switch t {
	case pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1, pkcs11.CKA_PRIME_2, pkcs11.CKA_EXPONENT_1, pkcs11.CKA_EXPONENT_2, pkcs11.CKA_COEFFICIENT, ckaSeed:
		return true
	}
	return false
}

// publish makes the public half of an imported pair, as C_GenerateKeyPair would have.
func (s *session) publish(k kind, p backend.Purpose, id []byte, pub crypto.PublicKey) (pkcs11.ObjectHandle, error) {
	_, usage := s.d.usagesOf(k, p)
	t := s.d.style.publicTemplate(object{keyType: k.keyType, label: k.label(), id: id, onToken: true}, usage...)
	if key, ok := pub.(*rsa.PublicKey); ok {
		t = append(t, attr(pkcs11.CKA_MODULUS, key.N.Bytes()), attr(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E)).Bytes()))
		return s.d.lib.CreateObject(s.SessionHandle, t)
	}
	raw, err := keyenc.MarshalRaw(pub)
	if err != nil {
		return 0, errMaterial
	}
	if k.set != 0 {
		return s.d.lib.CreateObject(s.SessionHandle, k.pqPublish(raw, t))
	}
	point, err := asn1.Marshal(raw)
	if s.d.points[k.Name] != "" {
		point, err = wrapPoint(s.d.points[k.Name], raw)
	}
	if err != nil {
		return 0, errMaterial
	}
	return s.d.lib.CreateObject(s.SessionHandle, append(t, attr(pkcs11.CKA_EC_PARAMS, s.d.paramsOf(k)), attr(pkcs11.CKA_EC_POINT, point)))
}
