package token

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// errLength is a module that claims more than the buffer it was given holds.
const errLength = pkcs11.Error(C.KW_LENGTH_LIE)

// module is a loaded PKCS#11 library. Its methods are the module's calls, nothing more; they may be called from many threads at
// once, but for initialize and finalize, which must be alone.
//
// The calls in which the module tells a length go through shim.c with buffers of our size, everything else through miekg/pkcs11.
type module struct {
	*pkcs11.Ctx
	list     *C.kw_list
	reserved unsafe.Pointer // the C string given to C_Initialize; lives as long as the module may look at it
	owner    bool           // we initialised it: only then it is ours to finalize
	locking  bool           // it takes calls from several threads
	newer    newer          // its 3.2 side, if it has one
}

func load(path, initArgs string) (*module, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	m := &module{}
	if why := C.kw_load(name, &m.list); why != nil {
		return nil, fmt.Errorf("loading the module: %s", C.GoString(why))
	}
	if m.Ctx = pkcs11.New(path); m.Ctx == nil {
		return nil, errors.New("loading the module: it does not load a second time")
	}
	if m.list = functions(m.Ctx); m.list == nil {
		return nil, errors.New("loading the module: its function list is not one of PKCS#11 2 or 3")
	}
	if initArgs != "" {
		m.reserved = unsafe.Pointer(C.CString(initArgs))
	}
	return m, nil
}

// functions gives the function list that the library works with. Asking the module for another would not do: p11-kit's client
// answers each C_GetFunctionList with a list of its own, whose sessions the others do not know. The library does not show it:
// it is the second pointer of the C struct that its Ctx, a struct of one pointer, points to (v1.1.2, which go.mod pins).
// TestFunctions fails if that changes.
func functions(c *pkcs11.Ctx) *C.kw_list {
	inner := *(**[2]unsafe.Pointer)(unsafe.Pointer(c))
	list := (*C.kw_list)(inner[1])
	if list == nil || list.version[0] < 2 || list.version[0] > 3 || list.f[0] == nil {
		return nil
	}
	return list
}

// initialize is C_Initialize. A module that this process has initialised already is used as it is.
func (m *module) initialize() error {
	options := []pkcs11.InitializeOption{pkcs11.InitializeWithFlags(pkcs11.CKF_OS_LOCKING_OK), pkcs11.InitializeWithReserved(m.reserved)}
	m.locking = true
	err := m.Ctx.Initialize(options...)
	if is(err, pkcs11.CKR_CANT_LOCK) || is(err, pkcs11.CKR_NEED_TO_CREATE_THREADS) {
		m.locking = false
		options[0] = pkcs11.InitializeWithFlags(0)
		err = m.Ctx.Initialize(options...)
	}
	if is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return nil
	}
	if err == nil {
		m.owner = true
	}
	return err
}

// finalize is C_Finalize, if initialize was ours.
func (m *module) finalize() error {
	if !m.owner {
		return nil
	}
	m.owner = false
	if err := m.Ctx.Finalize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		return err
	}
	return nil
}

// release frees what initialize was given. The library itself stays loaded: many do not survive being unloaded.
func (m *module) release() {
	C.free(m.reserved)
	m.reserved = nil
}

func is(err error, code uint) bool {
	var e pkcs11.Error
	return errors.As(err, &e) && uint(e) == code
}

func rv(v C.kw_ulong) error {
	if v == 0 {
		return nil
	}
	return pkcs11.Error(v)
}

func ptr(b []byte) *C.uchar    { return (*C.uchar)(unsafe.SliceData(b)) }
func size(b []byte) C.kw_ulong { return C.kw_ulong(len(b)) }

func sessionOf(s pkcs11.SessionHandle) C.kw_ulong { return C.kw_ulong(s) }
func objectOf(o pkcs11.ObjectHandle) C.kw_ulong   { return C.kw_ulong(o) }

// login logs the user in. Unlike the library's it leaves no copy of the PIN behind.
func (m *module) login(s pkcs11.SessionHandle, pin []byte) error {
	return rv(C.kw_login(m.list, sessionOf(s), ptr(pin), size(pin)))
}

// slots lists the slots that have a token, 256 at most.
func (m *module) slots() ([]uint, error) {
	var out [256]C.kw_ulong
	var n C.kw_ulong
	if err := rv(C.kw_slots(m.list, &out[0], C.kw_ulong(len(out)), &n)); err != nil {
		return nil, err
	}
	return numbers(out[:n]), nil
}

// mechanisms lists the slot's mechanisms, 1,024 at most.
func (m *module) mechanisms(slot uint) ([]uint, error) {
	var out [1024]C.kw_ulong
	var n C.kw_ulong
	if err := rv(C.kw_mechanisms(m.list, C.kw_ulong(slot), &out[0], C.kw_ulong(len(out)), &n)); err != nil {
		return nil, err
	}
	return numbers(out[:n]), nil
}

func numbers(in []C.kw_ulong) []uint {
	out := make([]uint, len(in))
	for i, v := range in {
		out[i] = uint(v)
	}
	return out
}

// loggedIn asks in which state the session is.
func (m *module) loggedIn(s pkcs11.SessionHandle) (bool, error) {
	var state C.kw_ulong
	if err := rv(C.kw_session_state(m.list, sessionOf(s), &state)); err != nil {
		return false, err
	}
	return state == pkcs11.CKS_RO_USER_FUNCTIONS || state == pkcs11.CKS_RW_USER_FUNCTIONS, nil
}

func (m *module) random(s pkcs11.SessionHandle, out []byte) error {
	return rv(C.kw_random(m.list, sessionOf(s), ptr(out), size(out)))
}

// attribute reads one attribute of at most max bytes.
func (m *module) attribute(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, typ uint, max int) ([]byte, error) {
	out := make([]byte, max)
	n := size(out)
	if err := rv(C.kw_attribute(m.list, sessionOf(s), objectOf(o), C.kw_ulong(typ), ptr(out), &n)); err != nil {
		clear(out)
		return nil, err
	}
	return out[:n], nil
}

// anywhere is for searches among session and token objects alike.
const (
	anywhere  = -1
	inSession = 0
	onToken   = 1
)

// find gives at most max objects of a class with the id and label; an empty one is not looked at.
func (m *module) find(s pkcs11.SessionHandle, class uint, where int, id []byte, label string, max int) ([]pkcs11.ObjectHandle, error) {
	out := make([]C.kw_ulong, max)
	var n C.kw_ulong
	l := []byte(label)
	if err := rv(C.kw_find(m.list, sessionOf(s), C.kw_ulong(class), C.int(where), ptr(id), size(id), ptr(l), size(l), &out[0],
		C.kw_ulong(max), &n)); err != nil {
		return nil, err
	}
	handles := make([]pkcs11.ObjectHandle, n)
	for i := range handles {
		handles[i] = pkcs11.ObjectHandle(out[i])
	}
	return handles, nil
}

// direction is what a call does with data.
type direction C.int

const (
	signing    direction = 0
	encrypting direction = 1
	decrypting direction = 2
)

// operate is Init and the single-part operation, into out. param has no pointers in it.
func (m *module) operate(d direction, s pkcs11.SessionHandle, mech uint, param []byte, key pkcs11.ObjectHandle, in, out []byte) (int, error) {
	n := size(out)
	err := rv(C.kw_operate(m.list, C.int(d), sessionOf(s), C.kw_ulong(mech), unsafe.Pointer(unsafe.SliceData(param)), size(param),
		objectOf(key), ptr(in), size(in), ptr(out), &n))
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// gcm is AES-GCM with a tag of 16 bytes. A module that makes IVs of its own has written it into iv when gcm returns.
func (m *module) gcm(d direction, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, iv, aad, in, out []byte) (int, error) {
	n := size(out)
	// The parameters hold pointers, and C may hold Go pointers only as long as the call: shim.c builds them on its stack.
	err := rv(C.kw_gcm(m.list, C.int(d), sessionOf(s), objectOf(key), ptr(iv), size(iv), ptr(aad), size(aad), ptr(in), size(in), ptr(out), &n))
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

func (m *module) oaep(d direction, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, hash, mgf uint, label, in, out []byte) (int, error) {
	n := size(out)
	err := rv(C.kw_oaep(m.list, C.int(d), sessionOf(s), objectOf(key), C.kw_ulong(hash), C.kw_ulong(mgf), ptr(label), size(label), ptr(in),
		size(in), ptr(out), &n))
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// wrap is C_WrapKey into a buffer of at most max bytes.
func (m *module) wrap(s pkcs11.SessionHandle, mech uint, param []byte, kek, key pkcs11.ObjectHandle, max int) ([]byte, error) {
	out := make([]byte, max)
	n := size(out)
	err := rv(C.kw_wrap(m.list, sessionOf(s), C.kw_ulong(mech), unsafe.Pointer(unsafe.SliceData(param)), size(param), objectOf(kek),
		objectOf(key), ptr(out), &n))
	if err != nil {
		return nil, err
	}
	return out[:n], nil
}

// unwrap is C_UnwrapKey.
func (m *module) unwrap(s pkcs11.SessionHandle, mech uint, param []byte, kek pkcs11.ObjectHandle, wrapped []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if len(wrapped) == 0 {
		return 0, pkcs11.Error(pkcs11.CKR_WRAPPED_KEY_LEN_RANGE) // the library takes the address of the first byte
	}
	return m.UnwrapKey(s, []*pkcs11.Mechanism{flat(mech, param)}, kek, wrapped, template)
}

// flat makes a mechanism whose parameter is bytes or nothing. The library's constructor panics on every type that it does not
// know; a byte slice it knows.
func flat(mech uint, param []byte) *pkcs11.Mechanism {
	return &pkcs11.Mechanism{Mechanism: mech, Parameter: param}
}

// ecb runs AES-ECB over single blocks, each in place, as long as f goes on.
func (m *module) ecb(d direction, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, f func(block func(*[16]byte) error) error) error {
	if err := rv(C.kw_ecb_init(m.list, C.int(d), sessionOf(s), objectOf(key))); err != nil {
		return err
	}
	err := f(func(b *[16]byte) error {
		return rv(C.kw_ecb_block(m.list, C.int(d), sessionOf(s), (*C.uchar)(unsafe.Pointer(b))))
	})
	if err != nil {
		return err
	}
	return rv(C.kw_ecb_final(m.list, C.int(d), sessionOf(s)))
}
