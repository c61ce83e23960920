#include "shim.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef struct {
	kw_ulong mechanism;
	void *param;
	kw_ulong len;
} mechanism;

typedef struct {
	kw_ulong type;
	void *value;
	kw_ulong len;
} attribute;

// Positions in the function list.
enum {
	GetSlotList = 4,
	GetMechanismList = 7,
	GetSessionInfo = 15,
	Login = 18,
	GetAttributeValue = 24,
	FindObjectsInit = 26,
	FindObjects = 27,
	FindObjectsFinal = 28,
	EncryptInit = 29,
	Encrypt = 30,
	EncryptUpdate = 31,
	EncryptFinal = 32,
	DecryptInit = 33,
	Decrypt = 34,
	DecryptUpdate = 35,
	DecryptFinal = 36,
	SignInit = 42,
	Sign = 43,
	WrapKey = 60,
	GenerateRandom = 64
};

// A pointer for data of no length: several modules take NULL for a mistake (CKR_ARGUMENTS_BAD).
static unsigned char nothing[16];

static unsigned char *data(const unsigned char *p, kw_ulong n) { return n == 0 || p == NULL ? nothing : (unsigned char *)p; }

char *kw_load(const char *path, kw_list **out)
{
	// The handle stays open: modules do not survive dlclose.
	void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
	if (handle == NULL)
		return "the file cannot be loaded";
	kw_ulong (*get)(kw_list **) = (kw_ulong(*)(kw_list **))dlsym(handle, "C_GetFunctionList");
	if (get == NULL)
		return "it has no C_GetFunctionList";
	if (get(out) != 0 || *out == NULL)
		return "C_GetFunctionList fails";
	for (int i = 0; i < 68; i++)
		if ((*out)->f[i] == NULL && i <= GenerateRandom)
			return "its function list has holes";
	return NULL;
}

kw_ulong kw_login(kw_list *l, kw_ulong session, const unsigned char *pin, kw_ulong len)
{
	return ((kw_ulong(*)(kw_ulong, kw_ulong, unsigned char *, kw_ulong))l->f[Login])(session, 1, data(pin, len), len);
}

kw_ulong kw_slots(kw_list *l, kw_ulong *out, kw_ulong max, kw_ulong *n)
{
	kw_ulong (*get)(unsigned char, kw_ulong *, kw_ulong *) = l->f[GetSlotList];
	// p11-kit and others look for new tokens only when asked for the number.
	*n = 0;
	kw_ulong rv = get(1, NULL, n);
	if (rv != 0)
		return rv;
	*n = max;
	rv = get(1, out, n);
	return rv == 0 && *n > max ? KW_LENGTH_LIE : rv;
}

kw_ulong kw_mechanisms(kw_list *l, kw_ulong slot, kw_ulong *out, kw_ulong max, kw_ulong *n)
{
	*n = max;
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, kw_ulong *, kw_ulong *))l->f[GetMechanismList])(slot, out, n);
	return rv == 0 && *n > max ? KW_LENGTH_LIE : rv;
}

kw_ulong kw_session_state(kw_list *l, kw_ulong session, kw_ulong *state)
{
	kw_ulong info[4] = {0, 0, 0, 0}; // slot, state, flags, device error
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, kw_ulong *))l->f[GetSessionInfo])(session, info);
	*state = info[1];
	return rv;
}

kw_ulong kw_random(kw_list *l, kw_ulong session, unsigned char *out, kw_ulong n)
{
	return ((kw_ulong(*)(kw_ulong, unsigned char *, kw_ulong))l->f[GenerateRandom])(session, out, n);
}

kw_ulong kw_attribute(kw_list *l, kw_ulong session, kw_ulong object, kw_ulong type, unsigned char *out, kw_ulong *n)
{
	attribute a = {type, out, *n};
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, kw_ulong, attribute *, kw_ulong))l->f[GetAttributeValue])(session, object, &a, 1);
	if (rv == 0 && a.len > *n)
		return a.len == (kw_ulong)-1 ? 0x12 /* CKR_ATTRIBUTE_TYPE_INVALID */ : KW_LENGTH_LIE;
	*n = a.len;
	return rv;
}

kw_ulong kw_find(kw_list *l, kw_ulong session, kw_ulong class, int token, const unsigned char *id, kw_ulong idlen,
		 const unsigned char *label, kw_ulong labellen, kw_ulong *out, kw_ulong max, kw_ulong *n)
{
	unsigned char yes = token > 0;
	attribute a[4];
	kw_ulong count = 0;
	a[count++] = (attribute){0x0, &class, sizeof class}; // CKA_CLASS
	if (token >= 0)
		a[count++] = (attribute){0x1, &yes, 1}; // CKA_TOKEN
	if (idlen > 0)
		a[count++] = (attribute){0x102, (void *)id, idlen}; // CKA_ID
	if (labellen > 0)
		a[count++] = (attribute){0x3, (void *)label, labellen}; // CKA_LABEL
	*n = 0;
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, attribute *, kw_ulong))l->f[FindObjectsInit])(session, a, count);
	if (rv != 0)
		return rv;
	while (*n < max) {
		kw_ulong got = 0;
		rv = ((kw_ulong(*)(kw_ulong, kw_ulong *, kw_ulong, kw_ulong *))l->f[FindObjects])(session, out + *n, max - *n, &got);
		if (rv == 0 && got > max - *n)
			rv = KW_LENGTH_LIE;
		if (rv != 0) {
			// The search must not stay open; what went wrong is said already.
			((kw_ulong(*)(kw_ulong))l->f[FindObjectsFinal])(session);
			return rv;
		}
		if (got == 0)
			break;
		*n += got;
	}
	return ((kw_ulong(*)(kw_ulong))l->f[FindObjectsFinal])(session);
}

static const int inits[3] = {SignInit, EncryptInit, DecryptInit};
static const int singles[3] = {Sign, Encrypt, Decrypt};

static kw_ulong operate(kw_list *l, int what, kw_ulong session, mechanism *m, kw_ulong key, const unsigned char *in, kw_ulong inlen,
			unsigned char *out, kw_ulong *n)
{
	kw_ulong max = *n;
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, mechanism *, kw_ulong))l->f[inits[what]])(session, m, key);
	if (rv != 0)
		return rv;
	rv = ((kw_ulong(*)(kw_ulong, unsigned char *, kw_ulong, unsigned char *, kw_ulong *))l->f[singles[what]])(
		session, data(in, inlen), inlen, out, n);
	return rv == 0 && *n > max ? KW_LENGTH_LIE : rv;
}

kw_ulong kw_operate(kw_list *l, int what, kw_ulong session, kw_ulong mech, void *param, kw_ulong paramlen, kw_ulong key,
		    const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n)
{
	mechanism m = {mech, paramlen == 0 ? NULL : param, paramlen};
	return operate(l, what, session, &m, key, in, inlen, out, n);
}

kw_ulong kw_gcm(kw_list *l, int what, kw_ulong session, kw_ulong key, unsigned char *iv, kw_ulong ivlen, const unsigned char *aad,
		kw_ulong aadlen, const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n)
{
	// CK_GCM_PARAMS: pIv, ulIvLen, ulIvBits, pAAD, ulAADLen, ulTagBits. Some modules write the IV that they used back.
	struct {
		unsigned char *iv;
		kw_ulong ivlen, ivbits;
		unsigned char *aad;
		kw_ulong aadlen, tagbits;
	} p = {iv, ivlen, ivlen * 8, aadlen == 0 ? NULL : (unsigned char *)aad, aadlen, 128};
	mechanism m = {0x1087, &p, sizeof p};
	return operate(l, what, session, &m, key, in, inlen, out, n);
}

kw_ulong kw_oaep(kw_list *l, int what, kw_ulong session, kw_ulong key, kw_ulong hash, kw_ulong mgf, const unsigned char *label,
		 kw_ulong labellen, const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n)
{
	// CK_RSA_PKCS_OAEP_PARAMS: hashAlg, mgf, source (CKZ_DATA_SPECIFIED), pSourceData, ulSourceDataLen.
	struct {
		kw_ulong hash, mgf, source;
		void *label;
		kw_ulong labellen;
	} p = {hash, mgf, 1, labellen == 0 ? NULL : (void *)label, labellen};
	mechanism m = {0x9, &p, sizeof p};
	return operate(l, what, session, &m, key, in, inlen, out, n);
}

kw_ulong kw_wrap(kw_list *l, kw_ulong session, kw_ulong mech, void *param, kw_ulong paramlen, kw_ulong kek, kw_ulong key,
		 unsigned char *out, kw_ulong *n)
{
	kw_ulong max = *n;
	mechanism m = {mech, paramlen == 0 ? NULL : param, paramlen};
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, mechanism *, kw_ulong, kw_ulong, unsigned char *, kw_ulong *))l->f[WrapKey])(
		session, &m, kek, key, out, n);
	return rv == 0 && *n > max ? KW_LENGTH_LIE : rv;
}

kw_ulong kw_ecb_init(kw_list *l, int what, kw_ulong session, kw_ulong key)
{
	mechanism m = {0x1081, NULL, 0};
	return ((kw_ulong(*)(kw_ulong, mechanism *, kw_ulong))l->f[inits[what]])(session, &m, key);
}

kw_ulong kw_ecb_block(kw_list *l, int what, kw_ulong session, unsigned char block[16])
{
	unsigned char out[32];
	kw_ulong n = sizeof out;
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, unsigned char *, kw_ulong, unsigned char *, kw_ulong *))
			       l->f[what == 1 ? EncryptUpdate : DecryptUpdate])(session, block, 16, out, &n);
	if (rv != 0)
		return rv;
	if (n != 16)
		return KW_LENGTH_LIE;
	memcpy(block, out, 16);
	return 0;
}

kw_ulong kw_ecb_final(kw_list *l, int what, kw_ulong session)
{
	unsigned char out[32];
	kw_ulong n = sizeof out;
	return ((kw_ulong(*)(kw_ulong, unsigned char *, kw_ulong *))l->f[what == 1 ? EncryptFinal : DecryptFinal])(session, out, &n);
}
