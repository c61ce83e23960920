package token

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

// A wrapped key is kept outside the token as
//
//	version 1 ‖ form ‖ algorithm (2) ‖ purpose ‖ CKA_ID (20) ‖ CKA_ID of the KEK (20) ‖ [IV (16)] ‖ wrapped key ‖ HMAC-SHA-256 (32)
//
// The tag is over everything before it, by a second key of the token: it binds the material to its identity, which no wrapping
// mechanism does, and gives AES-CBC the integrity that it lacks (encrypt-then-MAC, SP 800-38F section 3.1 asks for either).
const (
	wrappedVersion = 1
	wrappedHeader  = 1 + 1 + 2 + 1 + IDSize + IDSize
	wrappedTag     = 32
	// maxWrapped bounds a wrapped key: PKCS#8 of RSA-4096 has about 2,400 bytes.
	maxWrapped = 4096
	ivSize     = 16
)

// wrapForm is how the material is wrapped; on the wire, never reused. 0: not at all.
type wrapForm uint8

const (
	formKWP    wrapForm = 1 // AES-KWP, RFC 5649
	formKW     wrapForm = 2 // AES-KW, RFC 3394; PKCS#8 is padded with zeros to eight bytes
	formCBCPad wrapForm = 3 // AES-CBC with PKCS#7 padding
)

type wrapWay struct {
	form   wrapForm
	mech   uint
	style  style // of the template when unwrapping
	length bool  // which must say CKA_VALUE_LEN for secret keys
	harden bool  // the attributes that hold the key are set afterwards
}

// settle makes a key that came in what it has to be.
func (s *session) settle(w wrapWay, key pkcs11.ObjectHandle, extractable bool) error {
	if !w.harden {
		return nil
	}
	holds := []*pkcs11.Attribute{attr(pkcs11.CKA_SENSITIVE, true)}
	if !extractable {
		holds = append(holds, attr(pkcs11.CKA_EXTRACTABLE, false))
	}
	return s.d.lib.SetAttributeValue(s.SessionHandle, key, holds)
}

// held reports whether a key is sensitive and not extractable.
func (s *session) held(key pkcs11.ObjectHandle) error {
	for attribute, want := range map[uint]bool{pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false} {
		is, err := s.yes(key, attribute)
		if err != nil {
			return err
		}
		if is != want {
			return errWrong
		}
	}
	return nil
}

var purposeNumbers = [...]backend.Purpose{1: backend.PurposeEncryption, backend.PurposeWrapping, backend.PurposeSigning, backend.PurposeMAC, backend.PurposeAgreement}

// wrappedKey is a parsed blob. Its parts belong to the blob.
type wrappedKey struct {
	form      wrapForm
	algorithm uint16
	purpose   backend.Purpose
	id, kek   ID
	iv        []byte
	material  []byte
	signed    []byte // everything before the tag
	tag       []byte
}

// parseWrapped takes a blob apart. Nothing in it is to be believed before the tag is checked.
func parseWrapped(b []byte) (wrappedKey, error) {
	if len(b) < wrappedHeader+16+wrappedTag || len(b) > wrappedHeader+ivSize+maxWrapped+wrappedTag || b[0] != wrappedVersion {
		return wrappedKey{}, errSpoiled
	}
	p := int(b[4])
	if p == 0 || p >= len(purposeNumbers) {
		return wrappedKey{}, errSpoiled
	}
	end := len(b) - wrappedTag
	w := wrappedKey{
		form: wrapForm(b[1]), algorithm: binary.BigEndian.Uint16(b[2:]), purpose: purposeNumbers[p],
		id: ID(b[5 : 5+IDSize]), kek: ID(b[5+IDSize : wrappedHeader]), material: b[wrappedHeader:end], signed: b[:end], tag: b[end:],
	}
	switch w.form {
	case formKWP, formKW:
		if len(w.material)%8 != 0 {
			return wrappedKey{}, errSpoiled
		}
	case formCBCPad:
		if len(w.material) < 2*ivSize || len(w.material)%ivSize != 0 {
			return wrappedKey{}, errSpoiled
		}
		w.iv, w.material = w.material[:ivSize], w.material[ivSize:]
	default:
		return wrappedKey{}, errSpoiled
	}
	return w, nil
}

// kekCache holds the handles of the two wrapping keys of a generation.
type kekCache struct {
	mu   sync.Mutex // guards the rest; held while they are searched and made
	keks keks
	ok   bool
}

type keks struct {
	id        ID
	wrap, mac pkcs11.ObjectHandle
}

// keks gives the token's wrapping key and its companion for tags: one pair with the configured label, made when make is set and
// there is none.
func (s *session) keks(make bool) (keks, error) {
	c := &s.gen.kek
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ok {
		return c.keks, nil
	}
	for try := 0; ; try++ {
		found, err := s.findKEKs()
		if cl, ok := classOf(err); ok && (cl == classHandle || cl == classDoubt) && try < 8 {
			pause() // another process takes back what it made while we look at it
			continue
		}
		switch {
		case err != nil:
			return keks{}, err
		case len(found) == 1:
			// SoftHSM shows a key before it has its value: CKR_KEY_SIZE_RANGE.
			if _, err := s.tag(found[0], nil); err != nil {
				if try < 8 {
					pause()
					continue
				}
				return keks{}, err
			}
			c.keks, c.ok = found[0], true
			return found[0], nil
		case len(found) > 1:
			return keks{}, fault.New(fault.KeyMaterial, "the token has several wrapping keys with the configured label")
		case !make || try >= 16:
			return keks{}, fault.New(fault.KeyMaterial, "the token does not have the wrapping key, or only half of it")
		}
		if err := s.missing(); !fault.Has(err, fault.KeyMaterial) {
			return keks{}, err // not logged in: it is not shown
		}
		err = s.makeKEKs()
		if cl, ok := classOf(err); ok && (cl == classDoubt || cl == classAbsent) && try < 8 {
			pause() // SoftHSM says CKR_GENERAL_ERROR and CKR_TEMPLATE_INCONSISTENT when objects come and go at the same time
			continue
		}
		if err != nil {
			return keks{}, err
		}
	}
}

// findKEKs lists the complete pairs.
func (s *session) findKEKs() ([]keks, error) {
	label := s.d.cfg.KEKLabel
	wraps, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, nil, label, 8)
	if err != nil {
		return nil, err
	}
	var out []keks
	for _, h := range wraps {
		id, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_ID, 256)
		if err != nil {
			return nil, err
		}
		if len(id) != IDSize {
			continue
		}
		other := companion(ID(id))
		macs, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, other[:], label+"-mac", 2)
		if err != nil {
			return nil, err
		}
		if len(macs) == 1 {
			out = append(out, keks{ID(id), h, macs[0]})
		}
	}
	return out, nil
}

// companion gives the CKA_ID of the key for tags that belongs to a wrapping key. It cannot be the same: NSS replaces a secret key by
// another one with its CKA_ID.
func companion(id ID) ID {
	id[IDSize-1] ^= 1
	return id
}

// makeKEKs makes a pair. Several processes may do so at once, and a pair that anybody has found must never go again: so the wrapping
// key comes first, then its maker looks whether it is the only one, and only then makes the key for tags, without which nobody
// uses it. Of two makers the one who came later sees the other and takes its own back; if both see each other, both do.
func (s *session) makeKEKs() error {
	s.begin()
	var id ID
	rand.Read(id[:]) // never fails (crypto/rand)
	label, other := s.d.cfg.KEKLabel, companion(id)
	wrap, err := s.secret(object{keyType: pkcs11.CKK_AES, label: label, id: id[:], onToken: true, usages: []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}, pkcs11.CKM_AES_KEY_GEN)
	if err != nil {
		return err
	}
	all, err := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, nil, label, 8)
	if err != nil || len(all) != 1 || all[0] != wrap {
		return s.takeBack(wrap)
	}
	_, err = s.secret(object{keyType: pkcs11.CKK_GENERIC_SECRET, label: label + "-mac", id: other[:], onToken: true, usages: []uint{pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY}}, pkcs11.CKM_GENERIC_SECRET_KEY_GEN)
	if err != nil {
		// Its answer may be all that is missing: then the pair may be in use.
		if made, ferr := s.d.lib.find(s.SessionHandle, pkcs11.CKO_SECRET_KEY, onToken, other[:], label+"-mac", 1); ferr == nil && len(made) == 0 {
			return errors.Join(err, s.takeBack(wrap))
		}
		return err
	}
	s.d.log.Info("made the token's wrapping key", "label", label)
	return nil
}

// takeBack destroys a wrapping key that nobody can have used, and waits a while.
func (s *session) takeBack(wrap pkcs11.ObjectHandle) error {
	for try := 0; ; try++ {
		err := s.destroyObjects(wrap)
		pause()
		if err == nil || is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return nil
		}
		if try == 4 {
			return err
		}
	}
}

// pause waits up to 128 ms, by chance, so that processes that met do not meet again.
func pause() {
	var r [1]byte
	rand.Read(r[:]) // never fails (crypto/rand)
	time.Sleep(time.Duration(r[0]) * time.Millisecond / 2)
}

// secret makes a secret key of 32 bytes.
func (s *session) secret(o object, mech uint) (pkcs11.ObjectHandle, error) {
	o.class = pkcs11.CKO_SECRET_KEY
	template := append(s.d.style.template(o), attr(pkcs11.CKA_VALUE_LEN, 32))
	return s.d.lib.GenerateKey(s.SessionHandle, []*pkcs11.Mechanism{flat(mech, nil)}, template)
}

func (s *session) tag(k keks, signed []byte) ([]byte, error) {
	return s.signInto(k.mac, pkcs11.CKM_SHA256_HMAC, signed, wrappedTag)
}

// wrapOut gives the blob of an extractable session object.
func (s *session) wrapOut(k kind, p backend.Purpose, id ID, key pkcs11.ObjectHandle) ([]byte, error) {
	ks, err := s.keks(false)
	if err != nil {
		return nil, err
	}
	way := s.d.can[k.Name].wrap
	out := make([]byte, 0, wrappedHeader+ivSize+maxWrapped+wrappedTag)
	out = append(out, wrappedVersion, byte(way.form))
	out = binary.BigEndian.AppendUint16(out, k.ID)
	number := byte(0)
	for i, q := range purposeNumbers {
		if q == p {
			number = byte(i)
		}
	}
	out = append(out, number)
	out = append(append(out, id[:]...), ks.id[:]...)
	material, err := s.wrapBy(way, ks.wrap, key)
	if err != nil {
		return nil, err
	}
	out = append(out, material...)
	tag, err := s.tag(ks, out)
	if err != nil {
		return nil, err
	}
	return append(out, tag...), nil
}

// wrapBy is C_WrapKey; AES-CBC gets a random IV, which stands before the result.
func (s *session) wrapBy(way wrapWay, kek, key pkcs11.ObjectHandle) ([]byte, error) {
	var iv []byte
	if way.form == formCBCPad {
		iv = make([]byte, ivSize)
		rand.Read(iv) // never fails (crypto/rand)
	}
	out, err := s.d.lib.wrap(s.SessionHandle, way.mech, iv, kek, key, maxWrapped)
	if err != nil {
		return nil, err
	}
	return append(iv, out...), nil
}

// unwrapTemplate is for a key that comes in under another, or as bytes.
func (d *device) unwrapTemplate(w wrapWay, k kind, p backend.Purpose, id []byte, onToken, extractable bool) []*pkcs11.Attribute {
	own, _ := d.usagesOf(k, p)
	t := w.style.template(object{class: k.class, keyType: k.keyType, label: k.label(), id: id, onToken: onToken, extractable: extractable, usages: own})
	if k.class == pkcs11.CKO_SECRET_KEY && w.length {
		t = append(t, attr(pkcs11.CKA_VALUE_LEN, k.KeySize))
	}
	if k.class == pkcs11.CKO_PRIVATE_KEY && d.profile.nssDB {
		// The last one: an index of NSS's database, the public key by custom; for session objects anything does.
		t = append(t, attr(ckaNSSDB, append([]byte{0}, id...)))
	}
	return t
}

// holder is the session that owns unwrapped keys: they live as long as it is open, whatever happens to the workers' sessions.
type holder struct {
	one    chan struct{} // holds a token while somebody uses the session
	handle pkcs11.SessionHandle
	isOpen bool
	shared bool // the pinned session does it: the token has no third one
	epoch  atomic.Uint64
}

func (h *holder) init(g *generation) {
	h.one = make(chan struct{}, 1)
	h.shared = g.description.MaxSessions == 1 || g.description.MaxSessions == 2
}

// with runs f on the holder's session, one at a time. A session that fails is replaced, and all keys in it are gone.
func (h *holder) with(ctx context.Context, s *session, f func(hs *session, epoch uint64) error) error {
	select {
	case h.one <- struct{}{}:
	case <-ctx.Done():
		return timeout(ctx)
	}
	defer func() { <-h.one }()
	g := s.gen
	if !h.isOpen {
		h.handle = g.pinned
		if !h.shared {
			var err error
			if h.handle, err = g.open(s.d); err != nil {
				return err
			}
		}
		h.isOpen = true
		h.epoch.Add(1)
	}
	err := f(&session{SessionHandle: h.handle, d: s.d, gen: g, job: s.job}, h.epoch.Load())
	if c, ok := classOf(err); ok && (c == classSession || c == classDoubt) && !h.shared {
		g.close(s.d, h.handle)
		h.isOpen = false
		h.epoch.Add(1) // what it held is gone
	}
	return err
}

// wrappedCache keeps unwrapped keys as session objects, the least recently used goes first. Lookups of one key at a time load it
// once.
type wrappedCache struct {
	mu    sync.Mutex // guards the rest and the entries' refs and dead
	max   int
	byKey map[string]*list.Element // by the whole blob: it names key, algorithm and purpose
	order *list.List               // of *wrappedEntry, the latest in front
}

type wrappedEntry struct {
	key    string
	gen    *generation
	epoch  uint64
	handle pkcs11.ObjectHandle
	ready  chan struct{} // closed when handle or err is set
	err    error
	refs   int
	dead   bool // not in the cache any more: destroyed with the last reference
}

func (c *wrappedCache) init(limit int) {
	c.max, c.byKey, c.order = limit, map[string]*list.Element{}, list.New()
}

// clear forgets everything: the generation's sessions are closed, and with them the objects.
func (c *wrappedCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.byKey {
		e.Value.(*wrappedEntry).dead = true
	}
	c.byKey = map[string]*list.Element{}
	c.order.Init()
}

// acquire gives the entry of a blob, with a reference, and whether the caller has to load it. Evicted is what to destroy.
func (c *wrappedCache) acquire(blob []byte, g *generation) (e *wrappedEntry, load bool, evicted []*wrappedEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[string(blob)]; ok {
		e = el.Value.(*wrappedEntry)
		// While it loads the epoch is not set yet.
		if e.gen == g && (e.epoch == 0 || e.epoch == g.holder.epoch.Load()) {
			c.order.MoveToFront(el)
			e.refs++
			return e, false, nil
		}
		c.remove(el)
	}
	for len(c.byKey) >= c.max {
		el := c.order.Back()
		old := c.remove(el)
		if old.refs == 0 {
			evicted = append(evicted, old)
		}
	}
	e = &wrappedEntry{key: string(blob), gen: g, ready: make(chan struct{}), refs: 1}
	c.byKey[e.key] = c.order.PushFront(e)
	return e, true, evicted
}

// remove takes an entry out. The mutex is held.
func (c *wrappedCache) remove(el *list.Element) *wrappedEntry {
	e := c.order.Remove(el).(*wrappedEntry)
	delete(c.byKey, e.key)
	e.dead = true
	return e
}

// forget takes an entry out that turned out to be of no use.
func (c *wrappedCache) forget(e *wrappedEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[e.key]; ok && el.Value.(*wrappedEntry) == e {
		c.remove(el)
	}
}

// release gives a reference back and reports whether the object is to be destroyed.
func (c *wrappedCache) release(e *wrappedEntry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.refs--
	return e.dead && e.refs == 0
}

// setEpoch makes a loaded entry one of its holder's.
func (c *wrappedCache) loaded(e *wrappedEntry, h pkcs11.ObjectHandle, epoch uint64, err error) {
	c.mu.Lock()
	e.handle, e.epoch, e.err = h, epoch, err
	c.mu.Unlock()
	close(e.ready)
}

// withWrapped runs f with the session object of a wrapped key.
func (s *session) withWrapped(k kind, id ID, blob []byte, f func(pkcs11.ObjectHandle) error) error {
	ctx := s.job.ctx
	c := &s.d.wrapped
	e, load, evicted := c.acquire(blob, s.gen)
	for _, old := range evicted {
		s.discard(old)
	}
	defer func() {
		if c.release(e) {
			s.discard(e)
		}
	}()
	if load {
		h, epoch, err := s.load(ctx, k, id, blob)
		c.loaded(e, h, epoch, err)
		if err != nil {
			c.forget(e)
		}
	} else {
		select {
		case <-e.ready:
		case <-ctx.Done():
			return timeout(ctx)
		}
	}
	if e.err != nil {
		return e.err
	}
	// A hit must not be answered for another identity than the blob's: the header is part of the cache's key and was authenticated.
	if err := matches(blob, k, id); err != nil {
		return err
	}
	err := f(e.handle)
	if cl, ok := classOf(err); ok && (cl == classHandle || cl == classKey) {
		c.forget(e)
	}
	return err
}

// discard destroys the object of an entry that nobody uses any more.
func (s *session) discard(e *wrappedEntry) {
	if e.handle == 0 || e.gen != s.gen || e.epoch != s.gen.holder.epoch.Load() {
		return // gone with its session
	}
	if err := s.d.lib.DestroyObject(s.SessionHandle, e.handle); err != nil {
		s.d.log.Warn("destroying an unwrapped key", "error", err)
	}
}

// matches compares a blob's header with what it is used as.
func matches(blob []byte, k kind, id ID) error {
	w, err := parseWrapped(blob)
	if err != nil || w.id != id || w.algorithm != k.ID {
		return errSpoiled
	}
	return nil
}

// load checks the tag and unwraps the key into the holder's session.
func (s *session) load(ctx context.Context, k kind, id ID, blob []byte) (pkcs11.ObjectHandle, uint64, error) {
	if err := matches(blob, k, id); err != nil {
		return 0, 0, err
	}
	w, err := parseWrapped(blob)
	if err != nil {
		return 0, 0, err
	}
	way := s.d.can[k.Name].wrap
	if way.form != w.form {
		return 0, 0, fault.New(fault.Unsupported, "the token does not have the wrapping mechanism of this key")
	}
	ks, err := s.keks(false)
	if err != nil {
		return 0, 0, err
	}
	if ks.id != w.kek {
		return 0, 0, fault.New(fault.KeyMaterial, "the key is wrapped under another wrapping key than the token's")
	}
	tag, err := s.tag(ks, w.signed)
	if err != nil {
		s.kekFailed(err)
		return 0, 0, err
	}
	if subtle.ConstantTimeCompare(tag, w.tag) != 1 {
		return 0, 0, errSpoiled
	}
	var h pkcs11.ObjectHandle
	var epoch uint64
	err = s.gen.holder.with(ctx, s, func(hs *session, now uint64) error {
		epoch = now
		var err error
		h, err = s.d.lib.unwrap(hs.SessionHandle, way.mech, w.iv, ks.wrap, w.material, s.d.unwrapTemplate(way, k, w.purpose, id[:], false, false))
		if err == nil {
			err = hs.settle(way, h, false)
		}
		return err
	})
	if err != nil {
		s.kekFailed(err)
		if c, ok := classOf(err); ok && c == classData {
			err = errSpoiled
		}
		return 0, 0, err
	}
	return h, epoch, nil
}

// kekFailed forgets the wrapping keys' handles when one of them is stale.
func (s *session) kekFailed(err error) {
	if c, ok := classOf(err); ok && c == classHandle {
		s.gen.kek.mu.Lock()
		s.gen.kek.ok = false
		s.gen.kek.mu.Unlock()
	}
}

// padded rounds PKCS#8 up to what AES-KW takes.
func padded(b []byte) []byte {
	out := make([]byte, (len(b)+7)/8*8)
	copy(out, b)
	return out
}
