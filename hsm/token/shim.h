// The calls of PKCS#11 (OASIS, 2.40) in which the module says how long something is. Every buffer here has a size that the
// caller chose: what a module claims beyond it is an error, never a read or a write.
#ifndef KEYWRIGHT_SHIM_H
#define KEYWRIGHT_SHIM_H

typedef unsigned long kw_ulong;

// CK_FUNCTION_LIST of a system whose structures are not packed (all but Windows): a version and 68 functions in the order of
// section 5 of the base specification.
typedef struct {
	unsigned char version[2];
	void *f[68];
} kw_list;

// Not a return value of any module: the module claimed more than fits the buffer.
#define KW_LENGTH_LIE 0xCE54ADE1UL

char *kw_load(const char *path, kw_list **out);

kw_ulong kw_login(kw_list *l, kw_ulong session, const unsigned char *pin, kw_ulong len);
kw_ulong kw_slots(kw_list *l, kw_ulong *out, kw_ulong max, kw_ulong *n);
kw_ulong kw_mechanisms(kw_list *l, kw_ulong slot, kw_ulong *out, kw_ulong max, kw_ulong *n);
kw_ulong kw_session_state(kw_list *l, kw_ulong session, kw_ulong *state);
kw_ulong kw_random(kw_list *l, kw_ulong session, unsigned char *out, kw_ulong n);

kw_ulong kw_attribute(kw_list *l, kw_ulong session, kw_ulong object, kw_ulong type, unsigned char *out, kw_ulong *n);
kw_ulong kw_find(kw_list *l, kw_ulong session, kw_ulong class, int token, const unsigned char *id, kw_ulong idlen,
		 const unsigned char *label, kw_ulong labellen, kw_ulong *out, kw_ulong max, kw_ulong *n);

// Init and the operation in one. what: 0 sign, 1 encrypt, 2 decrypt.
kw_ulong kw_operate(kw_list *l, int what, kw_ulong session, kw_ulong mech, void *param, kw_ulong paramlen, kw_ulong key,
		    const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n);
kw_ulong kw_gcm(kw_list *l, int what, kw_ulong session, kw_ulong key, unsigned char *iv, kw_ulong ivlen, const unsigned char *aad,
		kw_ulong aadlen, const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n);
kw_ulong kw_oaep(kw_list *l, int what, kw_ulong session, kw_ulong key, kw_ulong hash, kw_ulong mgf, const unsigned char *label,
		 kw_ulong labellen, const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n);
kw_ulong kw_wrap(kw_list *l, kw_ulong session, kw_ulong mech, void *param, kw_ulong paramlen, kw_ulong kek, kw_ulong key,
		 unsigned char *out, kw_ulong *n);

// AES-ECB block by block: kw_ecb_init, then kw_ecb_block as often as wanted; close the session or call kw_ecb_final.
kw_ulong kw_ecb_init(kw_list *l, int what, kw_ulong session, kw_ulong key);
kw_ulong kw_ecb_block(kw_list *l, int what, kw_ulong session, unsigned char block[16]);
kw_ulong kw_ecb_final(kw_list *l, int what, kw_ulong session);

#endif
