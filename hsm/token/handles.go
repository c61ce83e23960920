package token

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// maxHandles bounds the cache: a token holds thousands of keys, not millions.
const maxHandles = 1 << 16

type handleKey struct {
	id    ID
	class uint
}

// handleCache remembers the objects that a generation has found. It dies with its generation. The zero value is ready.
type handleCache struct {
	mu sync.RWMutex // guards m
	m  map[handleKey]pkcs11.ObjectHandle
}

func (c *handleCache) get(k handleKey) (pkcs11.ObjectHandle, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	h, ok := c.m[k]
	return h, ok
}

func (c *handleCache) put(k handleKey, h pkcs11.ObjectHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[handleKey]pkcs11.ObjectHandle{}
	}
	if len(c.m) >= maxHandles {
		for old := range c.m {
			delete(c.m, old) // any: it is looked up again when it is wanted
			break
		}
	}
	c.m[k] = h
}

func (c *handleCache) forget(id ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, class := range ourClasses {
		delete(c.m, handleKey{id, class})
	}
}

// ourClasses are the classes of the objects that we make.
var ourClasses = [...]uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY}

// lookup gives the one token object with the id and class, from the cache or by searching.
func (s *session) lookup(id ID, class uint) (pkcs11.ObjectHandle, error) {
	k := handleKey{id, class}
	if h, ok := s.gen.handles.get(k); ok {
		return h, nil
	}
	var found []pkcs11.ObjectHandle
	for try := 0; ; try++ {
		if err := s.enter(); err != nil {
			return 0, err
		}
		if h, ok := s.gen.handles.get(k); ok {
			s.leave()
			return h, nil // another has found it meanwhile
		}
		var err error
		found, err = s.search(id, class)
		s.leave()
		if err != nil {
			return 0, err
		}
		if len(found) == 1 || try == searches {
			break
		}
		time.Sleep(unseen << (2 * try))
	}
	switch len(found) {
	case 0:
		return 0, s.missing()
	case 1:
		s.gen.handles.put(k, found[0])
		return found[0], nil
	}
	return 0, errAmbiguous
}

const (
	// maxSame bounds what a search by id gives.
	maxSame = 64
	// searches is how often a search is repeated whose result cannot be.
	searches = 3
	// unseen is how long another process's new object may be missing from a search at first; then it is searched for again.
	unseen = 2 * time.Millisecond
)

// search gives the token objects with the id and class. What the module shows is read back: while others make and destroy objects,
// SoftHSM (from another process) and opencryptoki show some that have another CKA_ID than the one asked for.
func (s *session) search(id ID, class uint) ([]pkcs11.ObjectHandle, error) {
	for try := 0; ; try++ {
		found, err := s.d.lib.find(s.SessionHandle, class, onToken, id[:], "", maxSame)
		s.came()
		if err != nil {
			return nil, err
		}
		out, odd := found[:0], len(found) > 1
		for _, h := range found {
			got, err := s.d.lib.attribute(s.SessionHandle, h, pkcs11.CKA_ID, 256)
			if c, ok := classOf(err); ok && c == classHandle || is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
				odd = true // destroyed since the search, or not finished
				continue
			}
			if err != nil {
				return nil, err
			}
			if !bytes.Equal(got, id[:]) || slices.Contains(out, h) {
				odd = true
				continue
			}
			out = append(out, h)
		}
		if !odd || len(out) == 1 || try == searches {
			return out, nil
		}
		time.Sleep(time.Millisecond << (2 * try)) // 21 ms in all
	}
}

// missing tells an object that is not there from one that is not shown because the login is gone.
func (s *session) missing() error {
	if s.gen.loginless {
		return errNoObject
	}
	in, err := s.d.lib.loggedIn(s.SessionHandle)
	if err != nil {
		return err
	}
	if !in {
		return pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	return errNoObject
}

// withKey runs f with the handle of a key. A handle that turns out to be stale is looked up once more.
func (s *session) withKey(id ID, class uint, f func(pkcs11.ObjectHandle) error) error {
	h, err := s.lookup(id, class)
	if err != nil {
		return err
	}
	if err = f(h); err != nil {
		if c, ok := classOf(err); ok && c == classHandle {
			s.gen.handles.forget(id)
		}
	}
	return err
}
