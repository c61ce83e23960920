// The calls of PKCS#11 3.2 (OASIS Standard) that 2.40 does not have, and those whose parameters have pointers in them.
#ifndef KEYWRIGHT_PQSHIM_H
#define KEYWRIGHT_PQSHIM_H

#include "shim.h"

// CK_FUNCTION_LIST_3_2: a version, the 68 functions of 2.40, 24 of 3.0 and 12 of 3.2.
typedef struct {
	unsigned char version[2];
	void *f[68 + 24 + 12];
} kw_list_3_2;

// The list of the interface "PKCS 11" in version 3.2, or NULL. The module at path is loaded already.
kw_list_3_2 *kw_interface(const char *path);

// C_SignInit and C_Sign with CK_SIGN_ADDITIONAL_CONTEXT, or with CK_HASH_SIGN_ADDITIONAL_CONTEXT when hash is a mechanism (section 6.67.1).
kw_ulong kw_sign_context(kw_list *l, kw_ulong session, kw_ulong mech, kw_ulong key, kw_ulong hedge, const unsigned char *context,
			 kw_ulong contextlen, kw_ulong hash, const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n);

// C_DecapsulateKey (section 5.18.11) to a generic secret of the session, not sensitive and extractable. len is CKA_VALUE_LEN, 0 to leave it out.
kw_ulong kw_decapsulate(kw_list_3_2 *l, kw_ulong session, kw_ulong mech, kw_ulong key, const unsigned char *in, kw_ulong inlen, kw_ulong len,
			kw_ulong *secret);

#endif
