package token

/*
#include <stdlib.h>
#include "pqshim.h"
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// newer is the part of a module that is PKCS#11 3.2. Its sessions and objects are those of the rest: the interfaces of a module are views of
// the same library (section 5.4.6).
type newer struct{ list *C.kw_list_3_2 }

// findNewer asks the loaded library for its 3.2 interface; has then says whether there is one.
func (m *module) findNewer(path string) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	m.newer.list = C.kw_interface(name)
}

func (n newer) has() bool { return n.list != nil }

// signContext signs with a hedge variant and a context; hash is the mechanism of the hash of a pre-hash variant, or 0.
func (m *module) signContext(s pkcs11.SessionHandle, mech uint, key pkcs11.ObjectHandle, hedge uint, context []byte, hash uint, in, out []byte) (int, error) {
	n := size(out)
	err := rv(C.kw_sign_context((*C.kw_list)(unsafe.Pointer(m.list)), sessionOf(s), C.kw_ulong(mech), objectOf(key), C.kw_ulong(hedge), ptr(context), size(context),
		C.kw_ulong(hash), ptr(in), size(in), ptr(out), &n))
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// decapsulate is C_DecapsulateKey; the secret is a session object of length bytes. say: the template tells the length.
func (m *module) decapsulate(s pkcs11.SessionHandle, mech uint, key pkcs11.ObjectHandle, ciphertext []byte, length int, say bool) (pkcs11.ObjectHandle, error) {
	if !m.newer.has() {
		return 0, pkcs11.Error(pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
	}
	if !say {
		length = 0
	}
	var h C.kw_ulong
	if err := rv(C.kw_decapsulate(m.newer.list, sessionOf(s), C.kw_ulong(mech), objectOf(key), ptr(ciphertext), size(ciphertext), C.kw_ulong(length), &h)); err != nil {
		return 0, err
	}
	return pkcs11.ObjectHandle(h), nil
}
